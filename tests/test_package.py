"""The package as others get it: built, installed and used outside the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

import timm_convattn

pytestmark = pytest.mark.slow

NEEDED_BESIDE_CODE = {
    *('timm_convattn/py.typed', 'timm_convattn/studies/report.html.jinja'),
    *('timm_convattn/hub/templates/model_card.md.jinja', 'timm_convattn/hub/templates/dataset_card.md.jinja'),
}

# every module, from where it was installed; those that end in __main__ are programs
IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import timm_convattn
place = pathlib.Path(timm_convattn.__file__).parent
assert place.parent == pathlib.Path(sys.argv[1]), place
for module in pkgutil.walk_packages([str(place)], 'timm_convattn.'):
    if not module.name.endswith('.__main__'):
        found = pathlib.Path(importlib.import_module(module.name).__file__)
        assert found.is_relative_to(place), found
"""

USE = """
import timm, torch, timm_convattn
model = timm.create_model('aresnet18_relmha', num_classes=4, in_chans=1, img_size=60).eval()
assert model(torch.rand(2, 1, 60, 60)).shape == (2, 4)
"""

RENDER = """
import pathlib
from timm_convattn.environment import describe_environment
from timm_convattn.studies.page import Report, write_html
write_html(Report({}, [], describe_environment(), []), pathlib.Path('report.html'))
assert '<html' in pathlib.Path('report.html').read_text()
"""


@pytest.fixture(scope='module')
def built(root, tmp_path_factory):
    """The folder with the wheel, which is built from the source distribution, and that."""
    pytest.importorskip('build', reason='build is not installed (extra test)')
    pytest.importorskip('hatchling', reason='hatchling is not installed (extra test)')
    folder = tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(folder), str(root)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


@pytest.fixture(scope='module')
def wheel(built):
    (path,) = built.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """A folder with the package alone; its dependencies come from the environment of the tests."""
    folder = tmp_path_factory.mktemp('installed')
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', folder, wheel]
    subprocess.run([*map(str, command)], check=True)
    return folder


def run_outside(installed, tmp_path, *command):
    """Run a program in a folder of its own, where the package is the installed one."""
    environment = {**os.environ, 'PYTHONPATH': str(installed), 'PYTHONSAFEPATH': '1'}
    finished = subprocess.run(
        [*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_wheel_holds_the_package_and_nothing_else(root, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if name.split('/')[0] == f'timm_convattn-{timm_convattn.__version__}.dist-info'}
    assert {name.split('/', 1)[1] for name in about} >= {'METADATA', 'RECORD', 'entry_points.txt', 'licenses/LICENSE'}
    packages = [root / 'timm_convattn', root / 'timm_convattn_cli']
    code = {str(path.relative_to(root)) for package in packages for path in package.rglob('*.py')}
    assert names - about == code | NEEDED_BESIDE_CODE


def test_source_distribution_holds_sources_and_no_leftovers(built):
    (path,) = built.glob('*.tar.gz')
    with tarfile.open(path) as archive:
        names = {name.split('/', 1)[1] for name in archive.getnames() if '/' in name}
    assert {'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md', 'train_scripts/finetune.py'} <= names
    leftovers = ('__pycache__', '.venv', 'runs/', 'studies/', 'build/', 'dist/', '.ruff_cache', '.hypothesis')
    assert [name for name in names if name.startswith(leftovers) or '__pycache__' in name] == []


def test_every_module_is_imported_from_where_it_was_installed(installed, tmp_path):
    run_outside(installed, tmp_path, sys.executable, '-c', IMPORT_ALL, installed)


def test_models_are_created_outside_the_checkout(installed, tmp_path):
    run_outside(installed, tmp_path, sys.executable, '-c', USE)


def test_command_line_is_installed(installed, tmp_path):
    said = run_outside(installed, tmp_path, installed / 'bin' / 'timm-convattn', '--version')
    assert said == f'timm-convattn {timm_convattn.__version__}\n'
    assert 'aresnet18_relmha' in run_outside(
        installed, tmp_path, installed / 'bin' / 'timm-convattn', 'models', 'aresnet18_relmha'
    )


def test_report_is_rendered_outside_the_checkout(installed, tmp_path):
    run_outside(installed, tmp_path, sys.executable, '-c', RENDER)
