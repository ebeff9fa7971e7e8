"""The environment of a measurement: date, command, commit, versions and hardware."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

__all__ = ['describe_environment']


def describe_environment(processes: int = 1, device: str = 'cpu') -> dict[str, Any]:
    """Describe the date, command, commit, versions and hardware of a measurement.

    Args:
        processes: Number of processes that worked together.
        device: Device of each process.
    """
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        'date': datetime.now(UTC).isoformat(timespec='seconds'),
        'command': shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        'commit': _commit(),
        'versions': {
            'python': platform.python_version(),
            **{name: version(name) for name in ('timm-convattn', 'timm', 'torch', 'accelerate', 'datasets')},
        },
        'hardware': {
            'processes': processes,
            'device': device,
            'gpus': gpus,
            'cpu': _processor(),
            'cores': os.cpu_count(),
            'threads': torch.get_num_threads(),
        },
    }


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
