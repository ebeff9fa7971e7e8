"""Imports follow the order that CONTRIBUTING.md writes down: no file imports from a later line, no two each other."""

import ast
import re
import sys
from graphlib import TopologicalSorter

import pytest
from documents import ROOT

PACKAGE = 'timm_convattn'
FILES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in sorted(ROOT.glob(f'{PACKAGE}*/**/*.py'))
}


def order_of_rooms():
    """Line of CONTRIBUTING's block by the name of the file or folder in it."""
    (block,) = re.findall(r'^```text imports\n(.*?)^```$', (ROOT / 'CONTRIBUTING.md').read_text(), flags=re.M | re.S)
    return {name: line for line, names in enumerate(block.splitlines()) for name in re.findall(r'\w+', names)}


def room(module):
    package, name, *_ = f'{module}.__init__'.split('.')
    return name if package == PACKAGE else package


def imported(path):
    """Yield (line, module) for every import in a file, those within functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}:{node.lineno}: relative import'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
            yield from ((node.lineno, name if name in FILES else node.module) for name in names)


def climbing(path, own, order):
    """Yield each import in a file of the room `own` that reaches into a later room."""
    for line, module in imported(path):
        if module in FILES and order[room(module)] > order[own]:
            yield f'{path.name}:{line}: {own} imports {module}'


def test_order_names_every_file_and_folder_of_the_package():
    rooms = {room(module) for module in FILES}
    assert set(order_of_rooms()) == rooms | {'train_scripts'}


def test_no_import_climbs():
    order = order_of_rooms()
    found = [line for module, path in FILES.items() for line in climbing(path, room(module), order)]
    assert found == []


def test_no_file_imports_itself_through_others():
    graph = {module: {name for _, name in imported(path) if name in FILES} - {module} for module, path in FILES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the files


@pytest.mark.parametrize('folder', ['layers', 'models'])
def test_layers_and_models_need_torch_and_timm_alone(folder):
    allowed = {'torch', 'timm', PACKAGE, *sys.stdlib_module_names}
    modules = {(name, *found) for name, path in FILES.items() if room(name) == folder for found in imported(path)}
    assert modules
    assert {found for found in modules if found[2].split('.')[0] not in allowed} == set()


def test_an_import_that_climbs_is_noticed(tmp_path):
    (tmp_path / 'conv.py').write_text('def load():\n    from timm_convattn.training import loop\n')
    assert list(climbing(tmp_path / 'conv.py', 'layers', order_of_rooms())) == [
        'conv.py:2: layers imports timm_convattn.training.loop'
    ]
