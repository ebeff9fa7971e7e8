"""finetune.py under FSDP on CPUs, which accelerate itself offers on GPUs alone: it is told that these are some."""

from accelerate import PartialState
from accelerate.utils import DistributedType
from finetune_itself import run_finetune

from timm_convattn.training.processes import join_processes

join_processes()
PartialState._shared_state['distributed_type'] = DistributedType.MULTI_GPU
run_finetune()
