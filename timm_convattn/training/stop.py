"""Stopping a run at a step, when Ctrl-C or a scheduler asks for it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from accelerate import Accelerator

__all__ = ['Interrupted', 'StopSignals', 'stop_signals']


class Interrupted(Exception):
    """Training was asked to stop; a checkpoint was written, and the message says how to go on."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # what a shell reports for a process that the signal ended


class StopSignals:
    """Whether Ctrl-C or a scheduler asked the run to stop, agreed on by all processes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.signal_number: int | None = None
        self.noticed = False  # whether the processes have agreed to stop

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        """Note the signal; a second one ends the process at once."""
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = signal_number
        self.accelerator.set_trigger()

    def requested(self) -> bool:
        """Say whether any process got a signal; every process has to ask."""
        alone = self.accelerator.num_processes == 1
        self.noticed = self.signal_number is not None if alone else bool(self.accelerator.check_trigger())
        return self.noticed


@contextmanager
def stop_signals(accelerator: Accelerator) -> Iterator[StopSignals]:
    """Turn the first SIGINT or SIGTERM of the block into a request; the second ends the process at once."""
    stop = StopSignals(accelerator)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
