# What is installed, and how others find it: by pkg-config and by find_package(weir). An installed
# tree may be moved: nothing in it names the place it was made for, but the unit for systemd.
include(CMakePackageConfigHelpers)

foreach(directory LIBDIR INCLUDEDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${directory}}")
    message(FATAL_ERROR "CMAKE_INSTALL_${directory} is ${CMAKE_INSTALL_${directory}}: give it as a path "
      "below CMAKE_INSTALL_PREFIX, so that what is installed can be moved")
  endif()
endforeach()

set(WEIR_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/weir)
install(TARGETS ${WEIR_INSTALLED} EXPORT weirTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/weir DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT weirTargets NAMESPACE weir:: DESTINATION ${WEIR_CMAKE_DIR})
configure_package_config_file(runtime/install/weirConfig.cmake.in weirConfig.cmake
  INSTALL_DESTINATION ${WEIR_CMAKE_DIR})
# Before 1.0 each minor version may break what was promised.
write_basic_package_version_file(weirConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/weirConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/weirConfigVersion.cmake DESTINATION ${WEIR_CMAKE_DIR})

file(RELATIVE_PATH up "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" /prefix)
string(REGEX REPLACE "/$" "" up "${up}")
set(WEIR_PC_PREFIX "\${pcfiledir}/${up}")
# pkg_config(LIBRARY WHAT-IT-IS REQUIRES LIBS)
function(pkg_config name WEIR_PC_DESCRIPTION WEIR_PC_REQUIRES WEIR_PC_LIBS)
  set(WEIR_PC_NAME ${name})
  configure_file(runtime/install/weir.pc.in ${name}.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()
pkg_config(weir "${PROJECT_DESCRIPTION}" "" "-lweir")
pkg_config(weir_heap "Weir: malloc on a memory larger than its machine" weir "-lweir_heap")
# A program names nothing of it, so that the linker would leave it out.
pkg_config(weir_calls "Weir: calls of the C library on memory that is away" weir
  "-Wl,--push-state,--no-as-needed -lweir_calls -Wl,--pop-state")

file(GLOB pages CONFIGURE_DEPENDS docs/*.md docs/*.svg)
install(FILES README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${pages} DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)
install(DIRECTORY docs/decisions DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)

# Man pages of calls are made from the headers; those of commands are written by hand.
find_package(Python3 COMPONENTS Interpreter)
file(GLOB headers CONFIGURE_DEPENDS include/weir/*.h)
file(GLOB pages CONFIGURE_DEPENDS docs/man/*.[178])
set(WEIR_MAN_DIR ${CMAKE_CURRENT_BINARY_DIR}/man)
if(Python3_FOUND)
  add_custom_command(OUTPUT ${WEIR_MAN_DIR}/.made
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/docs/man/make_man.py --version ${PROJECT_VERSION}
      --out ${WEIR_MAN_DIR} ${headers} ${pages}
    COMMAND ${CMAKE_COMMAND} -E touch ${WEIR_MAN_DIR}/.made
    DEPENDS docs/man/make_man.py ${headers} ${pages} COMMENT "Making the man pages" VERBATIM)
  add_custom_target(man ALL DEPENDS ${WEIR_MAN_DIR}/.made)
  install(DIRECTORY ${WEIR_MAN_DIR}/ DESTINATION ${CMAKE_INSTALL_MANDIR} FILES_MATCHING PATTERN "*.[1378]")
else()
  message(STATUS "There is no python3: no man pages are made")
endif()
