"""finetune.py under FSDP on CPUs, which accelerate itself offers on GPUs alone: it is told that these are some."""

import runpy
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType

from timm_convattn.training.processes import join_processes

join_processes()
PartialState._shared_state['distributed_type'] = DistributedType.MULTI_GPU
script = Path(__file__).parents[2] / 'train_scripts' / 'finetune.py'
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name='__main__')
