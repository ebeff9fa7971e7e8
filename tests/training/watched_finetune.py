"""finetune.py, which lists the files that each process wrote, renamed or removed in WRITTEN.RANK."""

import atexit
import os
import sys
from pathlib import Path

import safetensors.numpy
import safetensors.torch
import torch
from finetune_itself import run_finetune

written = set()


def note(event, args):
    """Record the paths of an audit event of Python."""
    if event == 'open' and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.add(args[0])
    elif event in ('os.rename', 'os.remove', 'os.rmdir', 'shutil.rmtree'):
        written.update(str(arg) for arg in args if isinstance(arg, str | Path))


def record_calls(owner, name, index):
    """Record the paths of calls that write in C++ or Rust, which raise no audit events."""
    original = getattr(owner, name)

    def call(*args, **kwargs):
        written.add(str(args[index]))
        return original(*args, **kwargs)

    setattr(owner, name, call)


sys.addaudithook(note)
record_calls(torch, 'save', 1)
record_calls(safetensors.torch, 'serialize_file', 1)
record_calls(safetensors.numpy, 'serialize_file', 1)
record = Path(f'{os.environ["WRITTEN"]}.{os.environ["RANK"]}')
atexit.register(lambda: record.write_text('\n'.join(sorted(written))))
run_finetune()
