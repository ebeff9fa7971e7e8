"""Stopping a run at a step: when Ctrl-C or a scheduler asks for it, or when the launcher of its process is gone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from accelerate import Accelerator

__all__ = ['Interrupted', 'StopSignals', 'stop_signals']

# given to those that `accelerate launch` and torchrun start, and not by a shell, whose end a run may survive
MARKS = ('ACCELERATE_DYNAMO_BACKEND', 'TORCHELASTIC_RUN_ID')

# the process of the launcher, known since this was imported: it may die while the run prepares
LAUNCHER = os.getppid() if any(mark in os.environ for mark in MARKS) else None


class Interrupted(Exception):
    """Training was asked to stop; a checkpoint was written, and the message says how to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # what a shell reports for a process that the signal ended


class StopSignals:
    """Whether Ctrl-C or a scheduler asked the run to stop, or a launcher died, agreed on by all processes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.signal_number: int | None = None
        self.noticed = False  # whether the processes have agreed to stop

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        """Note the signal; after it Ctrl-C ends the process at once.

        SIGTERM may come twice, from a scheduler and from a launcher that passes it on.
        """
        if self.signal_number is None:
            self._note(signal_number)
        elif signal_number == signal.SIGINT:
            raise KeyboardInterrupt

    def _note(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self.accelerator.set_trigger()

    def requested(self) -> bool:
        """Say whether any process got a signal or lost its launcher; every process has to ask."""
        if self.signal_number is None and LAUNCHER not in (None, os.getppid()):
            self._note(signal.SIGTERM)  # accelerate's for one process does not pass it on
        alone = self.accelerator.num_processes == 1
        self.noticed = self.signal_number is not None if alone else bool(self.accelerator.check_trigger())
        return self.noticed


@contextmanager
def stop_signals(accelerator: Accelerator) -> Iterator[StopSignals]:
    """Turn the first SIGINT or SIGTERM of the block into a request; SIGINT after it ends the process at once."""
    stop = StopSignals(accelerator)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
