"""finetune.py with FSDP on CPUs, which accelerate offers only for GPUs: it is made to take the CPUs for GPUs."""

from accelerate import PartialState
from accelerate.utils import DistributedType
from finetune_itself import run_finetune

from timm_convattn.training.processes import join_processes

join_processes()
PartialState._shared_state['distributed_type'] = DistributedType.MULTI_GPU
run_finetune()
