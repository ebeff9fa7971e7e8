"""What is shipped opens no pickle from outside, runs no text, and reaches for no network when it is imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = sorted([*ROOT.glob('timm_convattn/**/*.py'), *ROOT.glob('train_scripts/**/*.py')])

FORBIDDEN = {
    *('eval', 'exec', 'compile', '__import__', 'os.system', 'os.popen', 'yaml.load', 'yaml.unsafe_load', 'joblib.load'),
    *('subprocess.getoutput', 'subprocess.getstatusoutput', 'marshal.loads', 'shelve.open', 'dill.loads'),
    *('pickle.load', 'pickle.loads', 'pickle.Unpickler', 'torch.load', 'torch.jit.load', 'torch.hub.load'),
}
# Ray's processes send each other frames and rows
ALLOWED = {('timm_convattn/data/engines.py', 'pickle.loads')}


def calls(path):
    """Every call of a file: the name that is called, and its keywords."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_runs_text_or_asks_a_shell(path):
    name = path.relative_to(ROOT).as_posix()
    for called, keywords in calls(path):
        assert called not in FORBIDDEN or (name, called) in ALLOWED
        assert keywords.get('shell', 'False') == 'False'
        assert keywords.get('allow_pickle', 'False') == 'False'
        assert keywords.get('weights_only', 'True') == 'True'
        assert 'trust_remote_code' not in keywords


def test_the_check_above_sees_what_it_forbids(tmp_path):
    bad = tmp_path / 'bad.py'
    bad.write_text("import torch\ntorch.load('x', weights_only=False)\nsubprocess.run('ls', shell=True)\n")
    assert list(calls(bad)) == [('torch.load', {'weights_only': 'False'}), ('subprocess.run', {'shell': 'True'})]


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
