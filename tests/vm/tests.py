# SPDX-License-Identifier: MIT
"""What `./dev vm` runs when it is not told what, and `./dev test` too: add lines here. What is_long
is left out unless it is named, or `--all` is said. The rest is to take less than five minutes on
two processors that have nothing else to do (380 s on two that had five times as much to do).

Commands are of bash, in the folder of the source tree. $B is the build tree; machine N is
10.77.0.N, which is $HERE in it, and has rxe0, whose index of an IPv4 GID is 1; /run/key is a key
that both have; /var/tmp is a real disk. SECONDS is a limit for machines that are emulated on a
processor which many share: what usually takes three is given hundreds."""
import dataclasses
from typing import Callable, Optional

import happening


@dataclasses.dataclass
class One:
    """In one machine, whichever is idle."""
    name: str
    command: str
    seconds: int = 300
    is_long: bool = False


@dataclasses.dataclass
class Two:
    """A server in machine 1, which ends with the client in machine 2. The client starts when the
    server has printed `ready`, if that is set; when the client prints "filled", something
    happens, if that is set."""
    name: str
    server: str
    client: str
    ready: Optional[str] = None
    happens: Optional[Callable] = None
    seconds: int = 240
    is_long: bool = False


def criterion(test, *cases):
    """Those cases of a test in tests/stress; there must be some."""
    return (f"$B/tests/stress/{test}_test --jobs 1 --filter '{test}/@({'|'.join(cases)})' 2>&1 | "
            "grep -v 'Tested: 0 '")


def stress(arguments):
    return f"$B/tests/stress/weir_stress --seconds 3 {arguments} | grep '^stress ok'"


# --- One machine: the verbs, and the core on a kernel without UFFDIO_MOVE -------------------------

ONE = [
    One("conformance_rdma", "WEIR_RDMA=$HERE TMPDIR=/var/tmp CONFORM_ROUNDS=20 "
        "$B/tests/conformance/backend_conformance rdma"),
    One("api", criterion("api", "a_discard_*", "a_region_larger_*", "back_ends_*", "clean_pages_*",
                         "discard_zeroes_*", "memory_is_zero_*", "regions_come_*", "the_report_*",
                         "two_runtimes_*", "zero_pages_*")),
    One("verbs", "ibv_devinfo -d rxe0 && ibv_rc_pingpong -d rxe0 -g 1 -e -n 50 & sleep 2; "
        "ibv_rc_pingpong -d rxe0 -g 1 -e -n 50 localhost && wait $!"),
    One("region_life", criterion("region_life", "a_pin_*", "a_resize_*", "regions_are_unmapped_*")),
    One("rdma", "WEIR_RDMA=$HERE $B/tests/unit/backend_rdma_test --jobs 1"),
    One("rdma_hostile", "WEIR_RDMA=$HERE $B/tests/unit/rdma_hostile_test --jobs 1"),
    One("rdma_deep", "WEIR_RDMA=$HERE $B/tests/unit/rdma_deep_test --jobs 1"),
    One("ports", "tests/vm/ports.sh $B"),
    One("stress", stress("--seed 1")),
    One("stress_file", stress("--backends file:/var/tmp?size=1G --drain --seed 2")),
    One("conformance_mem", "$B/tests/conformance/backend_conformance mem"),
    One("conformance_file", "cd /var/tmp && CONFORM_ROUNDS=20 "
        "$B/tests/conformance/backend_conformance 'file:.?size=4207104'"),
    One("process", criterion("process", "[b-lnp-z]*", "a_c*", "a_f*", "an_*", "mlockall_*"),
        is_long=True),
    One("failure", criterion("failure", "a_damaged_*", "a_lost_*", "a_full_swap_*"), is_long=True),
    One("region_move", criterion("region_move", "takes_all_*", "not_while_*", "back_again_*"),
        is_long=True),
    One("object", criterion("object", "a_discard_*", "a_free_hint_*", "an_object_lives_*",
                            "hundreds_of_*"), is_long=True),
    One("remote", criterion("remote", "pages_are_lent_*"), is_long=True),
    One("conformance_tcp", "TMPDIR=/var/tmp CONFORM_ROUNDS=20 "
        "$B/tests/conformance/backend_conformance tcp", seconds=600, is_long=True),
]

# --- Two machines: what is lent over a network, and what befalls it ------------------------------

MEMD = ("$B/transport/memd/weir-memd --memory 1G --lease 300 --grace 1 --key-file /run/key "
        "--listen tcp://10.77.0.1:7070 --listen rdma://10.77.0.1:7071")
# On SIGTERM it is killed, and started again.
MEMD_TWICE = f"{MEMD} & trap 'kill -KILL $!' TERM; wait $!; wait $!; {MEMD}"
# On SIGTERM it stands still for a while.
MEMD_STILL = (f"{MEMD} & trap 'kill -STOP $!; sleep {happening.STILL_SECONDS}; kill -CONT $!' "
              "TERM; wait $!; wait $!")
TCP = "tcp://10.77.0.1:7070?key=/run/key&size="
RDMA = "rdma://10.77.0.1:7071?key=/run/key&size="
READY = "listens at rdma:"  # the last that it says


def kept(backend):
    """What is there outlives what happens."""
    return f"exec $B/tests/vm/outage '{backend}32M&timeout=3&patience=90' kept"


def lost(*backends):
    """What is there is lost, and all else goes on."""
    first = " ".join(f"{backend}32M&timeout=3&patience=6&priority=9" for backend in backends)
    return f"exec $B/tests/vm/outage '{first} mem:?size=32M' lost"


TWO = [
    Two("verbs_rc", "ibv_rc_pingpong -d rxe0 -g 1 -e -n 50", "for i in 1 2 3 4 5; do sleep 1; "
        "ibv_rc_pingpong -d rxe0 -g 1 -e -n 50 10.77.0.1 && exit; done; exit 1", is_long=True),
    Two("verbs_cm", "rping -s -a 10.77.0.1 -C 20 -V", "for i in 1 2 3 4 5; do sleep 1; "
        "rping -c -a 10.77.0.1 -C 20 -V && exit; done; exit 1"),
    Two("tcp_stress", MEMD, stress(f"--backends '{TCP}256M' --seed 3"), READY),
    Two("rdma_stress", MEMD, stress(f"--backends '{RDMA}256M' --seed 4"), READY),
    Two("tcp_cable_out_and_in", MEMD, kept(TCP), READY, happening.cable_out_and_in, is_long=True),
    Two("rdma_cable_out_and_in", MEMD, kept(RDMA), READY, happening.cable_out_and_in),
    Two("rdma_server_stands_still", MEMD_STILL, kept(RDMA), READY,
        happening.server_stands_still, is_long=True),
    Two("tcp_server_started_again", MEMD_TWICE, lost(TCP), READY,
        happening.server_started_again, is_long=True),
    Two("rdma_server_started_again", MEMD_TWICE, lost(RDMA), READY, happening.server_started_again),
    Two("tcp_cable_out", MEMD, lost(TCP), READY, happening.cable_out, is_long=True),
    # Stays the last: it does not come back.
    Two("machine_dies", MEMD, lost(TCP, RDMA), READY, happening.machine_dies),
]
