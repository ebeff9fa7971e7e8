"""finetune.py, which says what files each process wrote, renamed or removed: in WRITTEN.RANK, a line for each."""

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
    """Keep the paths of an event of Python's own calls."""
    if event == 'open' and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.add(args[0])
    elif event in ('os.rename', 'os.remove', 'os.rmdir', 'shutil.rmtree'):
        written.update(str(arg) for arg in args if isinstance(arg, str | Path))


def noted(owner, name, place):
    """Keep the paths of a call that writes from C++ or Rust, of which Python knows nothing."""
    original = getattr(owner, name)

    def call(*args, **kwargs):
        written.add(str(args[place]))
        return original(*args, **kwargs)

    setattr(owner, name, call)


sys.addaudithook(note)
noted(torch, 'save', 1)
noted(safetensors.torch, 'serialize_file', 1)
noted(safetensors.numpy, 'serialize_file', 1)
record = Path(f'{os.environ["WRITTEN"]}.{os.environ["RANK"]}')
atexit.register(lambda: record.write_text('\n'.join(sorted(written))))
run_finetune()
