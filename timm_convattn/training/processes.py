"""Joining the processes of a run, whatever started them."""

import os

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from timm_convattn.errors import InputError

__all__ = ['join_processes']

WORLD_SIZES = ('WORLD_SIZE', 'PMI_SIZE', 'OMPI_COMM_WORLD_SIZE', 'MV2_COMM_WORLD_SIZE')  # torchrun's, and MPI's


def join_processes() -> PartialState:
    """Join the processes that were started together, on GPUs or, where there are none, on CPUs (gloo).

    Raises:
        InputError: If several were asked for, but one was started.
    """
    launched = any(name in os.environ for name in WORLD_SIZES)
    if launched and not torch.accelerator.is_available():
        os.environ.setdefault('ACCELERATE_USE_CPU', 'true')  # accelerate takes them for strangers without it
    on_cpu = parse_flag_from_env('ACCELERATE_USE_CPU')
    if on_cpu and 'MASTER_ADDR' in os.environ and not launched:
        raise InputError(
            'accelerate launch --cpu starts several processes through MPI alone (--mpirun_hostfile); this is one. '
            'Without MPI, give --multi_gpu instead of --cpu: it is not for GPUs alone.'
        )
    return PartialState(cpu=on_cpu)
