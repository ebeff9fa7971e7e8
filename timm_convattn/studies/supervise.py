"""Run a command that does not outlive whoever asked for it.

    python supervise.py COMMAND ...

`accelerate launch` starts processes of its own, which go on when it is ended. Here the command leads a process group:
when this process is told to stop, or (on Linux) when the one that started it dies, the whole group is asked to stop,
waited for while it writes its checkpoint, and ended if it does not.
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
    """Run a command in a group of its own and give its exit status."""
    parent = os.getppid()
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    process = subprocess.Popen(command, start_new_session=True)

    def stop(number: int, frame: FrameType | None) -> None:
        _signal_group(process.pid, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if os.getppid() != parent:  # it died before the call above
        stop(signal.SIGTERM, None)
    status = process.wait()
    _wait_for_group(process.pid)
    return status if status >= 0 else 128 - status


def _wait_for_group(group: int) -> None:
    """Wait until nothing of the group is left; after a while it is ended."""
    ends = time.monotonic() + GRACE_SECONDS
    while _signal_group(group, 0):
        if time.monotonic() > ends:
            _signal_group(group, signal.SIGKILL)
        time.sleep(0.1)


def _signal_group(group: int, number: int) -> bool:
    """Send a signal; say whether there was anyone to get it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
