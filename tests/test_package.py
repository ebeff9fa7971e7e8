"""The package as others get it: built, installed and used outside the checkout."""

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import timm_convattn

pytestmark = pytest.mark.slow

# every module, from where it was installed; those that end in __main__ are programs
IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import timm_convattn
folder = pathlib.Path(timm_convattn.__file__).parent
assert folder.parent == pathlib.Path(sys.argv[1]), folder
for module in pkgutil.walk_packages([str(folder)], 'timm_convattn.'):
    if not module.name.endswith('.__main__'):
        found = pathlib.Path(importlib.import_module(module.name).__file__)
        assert found.is_relative_to(folder), found
"""

RENDER = """
import pathlib
from timm_convattn.studies.page import Report, write_pages
write_pages(Report({}, [], {}, []), pathlib.Path('.'))
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
def checker(root):
    """The functions with which a release is checked as well."""
    return runpy.run_path(str(root / '.ci' / 'check_wheel.py'))


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


def test_wheel_holds_the_packages_and_nothing_else(wheel, checker, tmp_path):
    assert wheel.name.startswith(f'timm_convattn-{timm_convattn.__version__}-')
    checker['check_contents'](wheel)
    other = tmp_path / wheel.name
    shutil.copy(wheel, other)
    with zipfile.ZipFile(other, 'a') as archive:
        archive.writestr('tests/test_models.py', '')
    with pytest.raises(SystemExit, match=r"unexpected \['tests/test_models.py'\]"):
        checker['check_contents'](other)


def test_source_distribution_holds_sources_and_no_leftovers(built):
    (path,) = built.glob('*.tar.gz')
    with tarfile.open(path) as archive:
        names = {name.split('/', 1)[1] for name in archive.getnames() if '/' in name}
    assert {'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md', 'train_scripts/finetune.py'} <= names
    leftovers = ('__pycache__', '.venv', 'runs/', 'studies/', 'build/', 'dist/', '.ruff_cache', '.hypothesis')
    assert [name for name in names if name.startswith(leftovers) or '__pycache__' in name] == []


def test_every_module_is_imported_from_where_it_was_installed(installed, tmp_path):
    run_outside(installed, tmp_path, sys.executable, '-c', IMPORT_ALL, installed)


def test_quickstart_of_readme_runs_outside_the_checkout(root, installed, tmp_path):
    run_outside(installed, tmp_path, sys.executable, root / '.ci' / 'check_wheel.py', '--quickstart')


def test_quickstart_is_checked_with_the_installed_package_only(checker):
    with pytest.raises(SystemExit, match='is the checkout'):
        checker['run_quickstart']()


def test_version_of_the_citation_is_that_of_the_package(root):
    assert f'version: {timm_convattn.__version__}\n' in (root / 'CITATION.cff').read_text()


def test_command_line_is_installed(installed, tmp_path):
    said = run_outside(installed, tmp_path, installed / 'bin' / 'timm-convattn', '--version')
    assert said == f'timm-convattn {timm_convattn.__version__}\n'
    assert 'aresnet18_relmha' in run_outside(
        installed, tmp_path, installed / 'bin' / 'timm-convattn', 'models', 'aresnet18_relmha'
    )


def test_report_is_rendered_outside_the_checkout(installed, tmp_path):
    run_outside(installed, tmp_path, sys.executable, '-c', RENDER)
