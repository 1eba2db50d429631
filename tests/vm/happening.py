# SPDX-License-Identifier: MIT
"""What happens to the server's machine, or to the cable, while a client's pages are there. Each
gets the machines of the server and of the client, and ends soon; `pause` lets time pass."""

OUTAGE_SECONDS = 4
STILL_SECONDS = 7


def cable_out_and_in(server, client, pause):
    """Nothing arrives for a while. Then the client is told that it is over."""
    server.plug(False)
    pause(OUTAGE_SECONDS)
    server.plug(True)
    client.stop()


def server_stands_still(server, client, pause):
    """Its command gets SIGTERM, and has to know what that means: see MEMD_STILL."""
    server.stop()
    pause(STILL_SECONDS + OUTAGE_SECONDS)
    client.stop()


def cable_out(server, client, pause):
    """Nothing arrives any more."""
    server.plug(False)


def server_started_again(server, client, pause):
    """Its command gets SIGTERM, and has to know what that means: see MEMD_TWICE."""
    server.stop()


def machine_dies(server, client, pause):
    """The power fails."""
    server.kill()
