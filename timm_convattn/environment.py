"""The environment of a measurement: date, command, commit, versions and hardware."""

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ['Environment', 'Hardware', 'count_cores', 'describe_environment']


@dataclass(frozen=True)
class Hardware:
    """Hardware of a run, and how it was used."""

    processes: int
    device: str
    gpus: list[str]
    cpu: str
    cores: int | None
    threads: int


@dataclass(frozen=True)
class Environment:
    """When, with which command, versions and hardware something was measured."""

    date: str
    command: str
    commit: str | None
    versions: dict[str, str]
    hardware: Hardware


def describe_environment(processes: int = 1, device: str = 'cpu') -> Environment:
    """Describe this process and its machine.

    Args:
        processes: Number of processes that worked together.
        device: Device of each process.
    """
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    packages = ('timm-convattn', 'timm', 'torch', 'accelerate', 'datasets')
    return Environment(
        date=datetime.now(UTC).isoformat(timespec='seconds'),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        commit=_commit(),
        versions={'python': platform.python_version(), **{name: version(name) for name in packages}},
        hardware=Hardware(processes, device, gpus, _processor(), os.cpu_count(), torch.get_num_threads()),
    )


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _commit() -> str | None:
    """Return the commit of the checkout that contains this package, or None."""
    here = Path(__file__)
    try:
        _git('ls-files', '--error-unmatch', here.name, cwd=here.parent)  # else the enclosing repository is not ours
        return _git('describe', '--always', '--dirty', '--exclude', '*', cwd=here.parent)
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*args: str, cwd: Path) -> str:
    return subprocess.run(['git', *args], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()
