"""What is shipped opens no pickle from outside, runs no text, and reaches for no network when it is imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

from documents import ROOT

SHIPPED_FOLDERS = ('timm_convattn', 'timm_convattn_cli', 'train_scripts', 'hub_cards')
SHIPPED = [path for folder in SHIPPED_FOLDERS for path in ROOT.glob(f'{folder}/**/*.py')]

# what ruff's rules (S, TID251 and its list in pyproject.toml) let pass
UNSAFE = re.compile(
    r'\b(?:shell|allow_pickle|trust_remote_code)\s*=\s*(?!False\b)\w'
    r'|\bweights_only\s*=\s*(?!True\b)\w'
    r'|["\'](?:shell|allow_pickle|trust_remote_code|weights_only)["\']\s*:'
    r'|__import__|[^=]=\s*(?:torch|pickle|os|subprocess|yaml)\s*$',
    flags=re.MULTILINE,
)


def test_nothing_is_opened_or_run_unsafely():
    found = {path: UNSAFE.findall(path.read_text()) for path in SHIPPED}
    assert len(found) > 50
    assert {path: parts for path, parts in found.items() if parts} == {}


PLANTED = [
    "import torch\ntorch.load('x')",
    "import torch\nopened = torch.load('x', weights_only=False)",
    "import torch\ntorch.load('x', weights_only=flag)",
    "from torch import load\nload('x')",
    "from torch import load as read\nread('x')",
    "import torch as t\nt.load('x')",
    "import torch.serialization as s\ns.load('x')",
    'import torch\nread = torch.load',
    "import torch\nt = torch\nt.load('x')",
    "import torch\ngetattr(torch, 'load')('x')",
    'import torch\nlist(map(torch.load, paths))',
    'import pickle as p\np.loads(b)',
    'from pickle import *\nloads(b)',
    'import importlib\nimportlib.import_module("pickle").loads(b)',
    'def inner():\n    import pickle\n    return pickle.Unpickler(f).load()',
    "from os import system\nsystem('ls')",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import subprocess\nsubprocess.run('ls', shell=flag)",
    "import subprocess\nsubprocess.run('ls', shell=1)",
    "from subprocess import run\nrun('ls', **{'shell': True})",
    "import builtins\nbuiltins.eval('1')",
    "__builtins__ and eval('1')",
    'import yaml\nyaml.load(text)',
    "import numpy as np\nnp.load('x', allow_pickle=yes)",
    "AutoModel.from_pretrained('x', trust_remote_code=True)",
    'def inner(text):\n    exec(text)',
    'import marshal\nmarshal.loads(b)',
    "import torch\ntorch.hub.load('owner/name', 'model')",
]
SAFE = [
    "import yaml\nyaml.safe_load('x')",
    "import re\nre.compile('x')",
    'model.compile()\nmodel.eval()\nconfig.run.compile',
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "from safetensors.torch import load_file\nload_file('x')",
    "import numpy as np\nnp.load('x', mmap_mode='r')",
]


def ruff(folder):
    """Return the names of the files in a folder in which ruff's rules of this project find something unsafe."""
    command = [sys.executable, '-m', 'ruff', 'check', '--config', ROOT / 'pyproject.toml', '--no-cache']
    command += ['--output-format', 'json', folder]
    checked = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    unsafe = re.compile('S[0-9]+|TID251|B009')
    return {Path(found['filename']).name for found in json.loads(checked.stdout) if unsafe.fullmatch(found['code'])}


def test_planted_unsafe_code_is_found_by_ruff_or_by_the_check_above(tmp_path):
    for kind, texts in {'planted': PLANTED, 'safe': SAFE}.items():
        for index, text in enumerate(texts):
            (tmp_path / f'{kind}_{index}.py').write_text(f'{text}\n')
    found = ruff(tmp_path) | {path.name for path in tmp_path.iterdir() if UNSAFE.search(path.read_text())}
    assert found == {f'planted_{index}.py' for index in range(len(PLANTED))}


IMPORT_ALL = """
import pkgutil, socket, sys, importlib

def refuse(*args, **kwargs):
    raise AssertionError(f'the network is reached for: {args}')

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import timm_convattn
names = [module.name for module in pkgutil.walk_packages(timm_convattn.__path__, 'timm_convattn.')]
for name in names:
    if not name.endswith('__main__'):
        importlib.import_module(name)
import timm
timm.create_model('aresnet18_relmha')
print(len(names))
"""


def test_no_import_and_no_model_reaches_for_the_network():
    finished = subprocess.run([sys.executable, '-c', IMPORT_ALL], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > 50
