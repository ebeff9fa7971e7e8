"""Parallel maps keep the order of the tasks, and build the same crops byte for byte."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from timm_convattn.data.crops import build_crops
from timm_convattn.data.engines import ordered_map
from timm_convattn.errors import InputError

BOX = [10, 20, 30, 40]


@pytest.fixture
def frames(flir_writer):
    """A folder with frames for several tasks in each split."""
    writer = flir_writer()
    writer.split('train', [[('person', BOX), ('car', [index, 4, 5, 6])] for index in range(40)])
    writer.split('val', [[('bicycle', BOX)] for _ in range(20)])
    return writer


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('num_proc', [1, 3])
def test_results_have_the_order_of_the_tasks(num_proc):
    with ordered_map('local', num_proc, None) as map_in_order:
        assert list(map_in_order(abs, range(-50, 0))) == list(range(50, 0, -1))
        assert list(map_in_order(abs, [])) == []


@pytest.mark.slow
def test_ray_cluster_builds_the_same_crops_and_names_a_broken_frame(frames, tmp_path, ray_variables):
    pytest.importorskip('ray', reason="needs the extra 'ray'")
    build_crops(frames.folder, tmp_path / 'here')
    shutil.copytree(frames.folder, tmp_path / 'frames with a broken one')
    (broken,) = (tmp_path / 'frames with a broken one').rglob('TEST_00007.jpeg')
    broken.write_bytes(b'no image')
    command = [sys.executable, Path(__file__).with_name('build_on_ray.py'), frames.folder]
    command += [tmp_path / 'frames with a broken one', tmp_path / 'there']
    done = subprocess.run(command, env=ray_variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / 'there') == files(tmp_path / 'here')
    assert 'TEST_00007.jpeg cannot be decoded' in done.stdout
    closed = [line for line in done.stdout.splitlines() if line.startswith('threads at shutdown:')]
    assert len(closed) == 2
    assert [line for line in closed if 'StreamingExecutor' in line or 'iter_threaded' in line] == []
    assert not (tmp_path / 'broken').exists()


def test_address_of_a_local_engine_or_of_no_cluster_is_refused(frames, tmp_path):
    with pytest.raises(InputError, match='Add --engine ray'):
        build_crops(frames.folder, tmp_path / 'out', address='127.0.0.1:1')
    pytest.importorskip('ray', reason="needs the extra 'ray'")
    with pytest.raises(InputError, match=r'No Ray cluster at 127\.0\.0\.1:1 .*refused.*ray start --head'):
        build_crops(frames.folder, tmp_path / 'out', engine='ray', address='127.0.0.1:1')
