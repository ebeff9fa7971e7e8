"""timm's own tests, from the source distribution of the installed version, on the smallest model of each kind."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import timm

MODELS = ['aresnet18_relmha', 'aaresnet18', 'aaresnet50', 'avgg11_relmha', 'avgg11_bn_relmha', 'aavgg16']
MODELS += ['vgg11_bn_gap', 'convattn']
TESTS_PER_MODEL = 11


@pytest.fixture(scope='module')
def timm_tests(tmp_path_factory):
    """timm's test_models.py; the wheel has no tests, the source distribution has."""
    folder = tmp_path_factory.mktemp('timm')
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--no-binary', 'timm']
    command += ['--dest', str(folder), f'timm=={timm.__version__}']
    download = subprocess.run(command, capture_output=True, text=True, check=False)
    if download.returncode != 0:
        pytest.skip(f'the source distribution of timm {timm.__version__} cannot be had: {download.stderr[-200:]}')
    with tarfile.open(next(folder.glob('timm-*.tar.gz'))) as archive:
        archive.extractall(folder, filter='data')
    return next(folder.glob('timm-*/tests/test_models.py'))


@pytest.mark.slow
def test_every_test_of_timm_passes_on_our_models(timm_tests, tmp_path):
    markers = ['base', 'cfg', 'cfg_nonstd', 'forward', 'backward', 'torchscript', 'features', 'fxforward', 'fxbackward']
    (tmp_path / 'pytest.ini').write_text(
        '[pytest]\nmarkers =\n' + ''.join(f'    {marker}\n' for marker in [*markers, 'timeout'])
    )
    environment = {
        **os.environ,
        'TIMM_SUITE_MODELS': ','.join(MODELS),
        'PYTHONPATH': str(Path(__file__).parent),
        'OMP_NUM_THREADS': str(os.cpu_count()),
    }
    command = [sys.executable, '-m', 'pytest', '-q', '-c', str(tmp_path / 'pytest.ini'), '--rootdir', str(tmp_path)]
    command += ['-p', 'timm_suite_plugin', '-p', 'no:cacheprovider', str(timm_tests)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:]
    passed = re.search(r'(\d+) passed', run.stdout)
    assert passed, run.stdout[-2000:]
    assert int(passed[1]) >= TESTS_PER_MODEL * len(MODELS)
