"""Run a command that is stopped with its parent.

    python supervise.py COMMAND ...

`accelerate launch` starts child processes that keep running when it is killed. Here the command leads a process group:
when this process receives a signal to stop, or (on Linux) when its parent dies, the whole group receives SIGTERM, gets
time to write its checkpoint, and is killed if it does not end.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

GRACE_SECONDS = 120.0
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main(command: list[str]) -> int:
    """Run a command in its own process group and return its exit status."""
    parent = os.getppid()
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    process = subprocess.Popen(command, start_new_session=True)

    def stop(number: int, frame: FrameType | None) -> None:
        _signal_group(process.pid, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if os.getppid() != parent:  # the parent died before the call of prctl
        stop(signal.SIGTERM, None)
    status = process.wait()
    _wait_for_group(process.pid)
    return status if status >= 0 else 128 - status


def _wait_for_group(group: int) -> None:
    """Wait until no process of the group is left; after a grace period they are killed."""
    ends = time.monotonic() + GRACE_SECONDS
    while _signal_group(group, 0):
        if time.monotonic() > ends:
            _signal_group(group, signal.SIGKILL)
        time.sleep(0.1)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a group; return whether it has any process."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
