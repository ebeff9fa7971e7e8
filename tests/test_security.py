"""What is shipped opens no pickle from outside, runs no text, and reaches for no network when it is imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED_FOLDERS = ('timm_convattn', 'timm_convattn_cli', 'train_scripts', 'hub_cards')
SHIPPED = sorted(path for folder in SHIPPED_FOLDERS for path in ROOT.glob(f'{folder}/**/*.py'))

FORBIDDEN = {
    *(
        'eval',
        'exec',
        'compile',
        '__import__',
        'os.system',
        'os.popen',
        'yaml.load',
        'yaml.unsafe_load',
        'yaml.full_load',
    ),
    *('subprocess.getoutput', 'subprocess.getstatusoutput', 'marshal.load', 'marshal.loads', 'shelve.open'),
    *(
        'pickle.load',
        'pickle.loads',
        'pickle.Unpickler',
        'pandas.read_pickle',
        'joblib.load',
        'dill.load',
        'dill.loads',
    ),
    *('cloudpickle.load', 'cloudpickle.loads', 'torch.load', 'torch.serialization.load', 'torch.jit.load'),
    *('torch.hub.load', 'torch.hub.load_state_dict_from_url', 'runpy.run_module', 'code.interact'),
}
WANTED = {'shell': 'False', 'allow_pickle': 'False', 'weights_only': 'True', 'trust_remote_code': 'False'}
ALLOWED = {
    ('timm_convattn/data/engines.py', 'pickle.loads'),  # Ray's processes send each other frames and rows
    ('timm_convattn/export.py', 'torch.jit.load'),  # what was exported is read again, to compare it
}


class Names:
    """What the names of a module stand for, as far as its imports and plain assignments tell."""

    def __init__(self, tree):
        self.known = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for name in node.names:
                    self.known[name.asname or name.name.split('.')[0]] = (
                        name.name if name.asname else name.name.split('.')[0]
                    )
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for name in node.names:
                    self.known[name.asname or name.name] = f'{node.module}.{name.name}'
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                stands_for = self.full(node.value)
                if stands_for is not None and stands_for.split('.')[0] in {
                    n.split('.')[0] for n in self.known.values()
                }:
                    self.known[node.targets[0].id] = stands_for

    def full(self, node):
        """The whole name of what an expression is, None if it is no name."""
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            name = self.known.get(node.id, node.id)
        elif isinstance(node, ast.Attribute):
            owner = self.full(node.value)
            name = None if owner is None else f'{owner}.{node.attr}'
        elif isinstance(node, ast.Call) and node.args and all(isinstance(arg, ast.expr) for arg in node.args):
            called, last = self.full(node.func), node.args[-1]
            if isinstance(last, ast.Constant) and isinstance(last.value, str):
                if called == 'getattr':
                    owner = self.full(node.args[0])
                    name = None if owner is None else f'{owner}.{last.value}'
                elif called in ('importlib.import_module', '__import__'):
                    name = last.value
        return None if name is None else name.removeprefix('builtins.')


def findings(text):
    """Everything in a module that could run what comes from outside."""
    tree = ast.parse(text)
    names, found = Names(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and names.full(node) in FORBIDDEN:
            found.add(names.full(node))
        elif isinstance(node, ast.ImportFrom):
            found |= {f'{node.module}.*' for name in node.names if name.name == '*'}
            found |= {f'{node.module}.{name.name}' for name in node.names} & FORBIDDEN
        if isinstance(node, ast.Call):
            for word in node.keywords:
                if ast.unparse(word.value) != WANTED.get(word.arg, ast.unparse(word.value)):
                    found.add(f'{word.arg}={ast.unparse(word.value)}')
                if word.arg is None and str(names.full(node.func)).startswith('subprocess.'):
                    found.add(f'**{ast.unparse(word.value)}')
    return found


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_runs_text_or_asks_a_shell(path):
    name = path.relative_to(ROOT).as_posix()
    assert {found for found in findings(path.read_text()) if (name, found) not in ALLOWED} == set()


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ("import torch\ntorch.load('x')", 'torch.load'),
        ("import torch\nopened = torch.load('x', weights_only=False)", 'weights_only=False'),
        ("import torch\ntorch.load('x', weights_only=flag)", 'weights_only=flag'),
        ("from torch import load\nload('x')", 'torch.load'),
        ("from torch import load as read\nread('x')", 'torch.load'),
        ("import torch as t\nt.load('x')", 'torch.load'),
        ("import torch.serialization as s\ns.load('x')", 'torch.serialization.load'),
        ('import torch\nread = torch.load', 'torch.load'),
        ("import torch\nt = torch\nt.load('x')", 'torch.load'),
        ("import torch\ngetattr(torch, 'load')('x')", 'torch.load'),
        ('import torch\nlist(map(torch.load, paths))', 'torch.load'),
        ('import pickle as p\np.loads(b)', 'pickle.loads'),
        ('from pickle import *\nloads(b)', 'pickle.*'),
        ('import importlib\nimportlib.import_module("pickle").loads(b)', 'pickle.loads'),
        ('def inner():\n    import pickle\n    return pickle.Unpickler(f).load()', 'pickle.Unpickler'),
        ("from os import system\nsystem('ls')", 'os.system'),
        ("import subprocess\nsubprocess.run('ls', shell=True)", 'shell=True'),
        ("import subprocess\nsubprocess.run('ls', shell=flag)", 'shell=flag'),
        ("import subprocess\nsubprocess.run('ls', shell=1)", 'shell=1'),
        ("from subprocess import run\nrun('ls', **{'shell': True})", "**{'shell': True}"),
        ("import builtins\nbuiltins.eval('1')", 'eval'),
        ("__builtins__ and eval('1')", 'eval'),
        ('import yaml\nyaml.load(text)', 'yaml.load'),
        ("import numpy as np\nnp.load('x', allow_pickle=yes)", 'allow_pickle=yes'),
        ("AutoModel.from_pretrained('x', trust_remote_code=True)", 'trust_remote_code=True'),
    ],
)
def test_the_check_above_finds_what_it_forbids_under_any_name(text, found):
    assert found in findings(text)


@pytest.mark.parametrize(
    'text',
    [
        "import yaml\nyaml.safe_load('x')",
        "import re\nre.compile('x')",
        'model.compile()\nmodel.eval()\nconfig.run.compile',
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "from safetensors.torch import load_file\nload_file('x')",
        "import numpy as np\nnp.load('x', mmap_mode='r')",
    ],
)
def test_the_check_above_lets_pass_what_is_safe(text):
    assert findings(text) == set()


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
