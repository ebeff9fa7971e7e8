"""Processes of a run, however they were launched, and their threads."""

import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env

from timm_convattn.environment import count_cores
from timm_convattn.errors import InputError

__all__ = ['join_processes', 'use_threads']

WORLD_SIZES = ('WORLD_SIZE', 'PMI_SIZE', 'OMPI_COMM_WORLD_SIZE', 'MV2_COMM_WORLD_SIZE')  # of torchrun and MPI


def join_processes() -> PartialState:
    """Join the processes that were launched together, on GPUs or, if there are none, on CPUs (gloo).

    Raises:
        InputError: If several processes were asked for, but one was started.
    """
    launched = any(name in os.environ for name in WORLD_SIZES)
    if launched and not torch.accelerator.is_available():
        os.environ.setdefault('ACCELERATE_USE_CPU', 'true')  # else accelerate ignores the launcher's variables
    on_cpu = parse_flag_from_env('ACCELERATE_USE_CPU')
    if on_cpu and 'MASTER_ADDR' in os.environ and not launched:
        raise InputError(
            'accelerate launch --cpu started one process: it starts several only with MPI (--mpirun_hostfile). '
            'Without MPI, use --multi_gpu in place of --cpu; it also works on CPUs.'
        )
    return PartialState(cpu=on_cpu)


def use_threads(accelerator: Accelerator, threads: int | None) -> None:
    """Set the threads of each process on a CPU, by default the cores divided among the processes of this machine.

    `accelerate launch` starts a single process with one thread unless told otherwise.
    """
    if accelerator.device.type == 'cpu':
        local_processes = int(os.environ.get('LOCAL_WORLD_SIZE', accelerator.num_processes))
        torch.set_num_threads(threads or max(1, count_cores() // local_processes))
