"""Whoever decodes, the results come in the order of the tasks and the crops are the same, byte for byte."""

import shutil
import tempfile

import pytest

from timm_convattn.data.crops import build_crops
from timm_convattn.data.engines import ordered_map
from timm_convattn.errors import InputError

BOX = [10, 20, 30, 40]


@pytest.fixture
def frames(flir_writer):
    """Enough frames for several tasks in each split."""
    writer = flir_writer()
    writer.split('train', [[('person', BOX), ('car', [index, 4, 5, 6])] for index in range(40)])
    writer.split('val', [[('bicycle', BOX)] for _ in range(20)])
    return writer


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two nodes."""
    pytest.importorskip('ray', reason="needs the extra 'ray'")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix='ray.')  # its sockets need a short path
    monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    monkeypatch.setenv('RAY_TMPDIR', folder)
    nodes = Cluster(initialize_head=True, head_node_args={'num_cpus': 1, 'include_dashboard': False})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('num_proc', [1, 3])
def test_results_come_in_the_order_of_the_tasks(num_proc):
    with ordered_map('local', num_proc, None) as map_in_order:
        assert list(map_in_order(abs, range(-50, 0))) == list(range(50, 0, -1))
        assert list(map_in_order(abs, [])) == []


def test_ray_cluster_builds_the_same_crops_and_names_a_broken_frame(frames, cluster, tmp_path):
    here = build_crops(frames.folder, tmp_path / 'here')
    there = build_crops(frames.folder, tmp_path / 'there', engine='ray', address=cluster.address)
    assert there == here
    assert files(tmp_path / 'there') == files(tmp_path / 'here')

    frames.frames('train')[7].write_bytes(b'no image')
    with pytest.raises(InputError, match='cannot be decoded'):
        build_crops(frames.folder, tmp_path / 'broken', engine='ray', address=cluster.address)
    assert not (tmp_path / 'broken').exists()


def test_address_without_ray_and_address_without_a_cluster_are_refused(frames, tmp_path):
    with pytest.raises(InputError, match='Say --engine ray'):
        build_crops(frames.folder, tmp_path / 'out', address='127.0.0.1:1')
    pytest.importorskip('ray', reason="needs the extra 'ray'")
    with pytest.raises(InputError, match=r'No Ray cluster at 127\.0\.0\.1:1 .*refused.*ray start --head'):
        build_crops(frames.folder, tmp_path / 'out', engine='ray', address='127.0.0.1:1')
