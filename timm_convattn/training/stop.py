"""Stop a run at a step: on Ctrl-C, on a signal of the scheduler, or when the launcher of its process has died."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from accelerate import Accelerator

__all__ = ['Interrupted', 'StopSignals', 'stop_signals']

# set by `accelerate launch` and torchrun; a run that a shell started may outlive the shell
MARKS = ('ACCELERATE_DYNAMO_BACKEND', 'TORCHELASTIC_RUN_ID')

# the process of the launcher, read at import, because it may die before training starts
LAUNCHER = os.getppid() if any(mark in os.environ for mark in MARKS) else None


class Interrupted(Exception):
    """Training was stopped by a signal; a checkpoint was written, and the message states how to resume."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # as a shell reports a process that the signal ended


class StopSignals:
    """Handler of signals that ask a run to stop; all processes agree on whether to stop."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.signal_number: int | None = None
        self.noticed = False  # whether the processes have agreed to stop

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        """Record the signal; a later Ctrl-C ends the process at once.

        SIGTERM may come twice, from the scheduler and from a launcher that passes it on.
        """
        if self.signal_number is None:
            self._note(signal_number)
        elif signal_number == signal.SIGINT:
            raise KeyboardInterrupt

    def _note(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self.accelerator.set_trigger()

    def requested(self) -> bool:
        """Return whether any process got a signal or lost its launcher; every process has to call it."""
        if self.signal_number is None and LAUNCHER not in (None, os.getppid()):
            self._note(signal.SIGTERM)  # accelerate's launcher of one process does not pass it on
        alone = self.accelerator.num_processes == 1
        self.noticed = self.signal_number is not None if alone else bool(self.accelerator.check_trigger())
        return self.noticed


@contextmanager
def stop_signals(accelerator: Accelerator) -> Iterator[StopSignals]:
    """Handle SIGINT and SIGTERM within the block."""
    stop = StopSignals(accelerator)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
