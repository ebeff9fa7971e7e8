"""Building crops: their pixels and columns, the files, and failures."""

import json
import subprocess
import sys

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from timm_convattn.data import crops as crops_module
from timm_convattn.data.crops import build_crops, format_counts, load_crops
from timm_convattn.errors import InputError
from timm_convattn.paper import TABLE_1

BOX = [10, 20, 30, 40]


def test_crops_are_the_boxes_of_the_frames(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', BOX), ('dog', [600, 500, 41, 13])], [('car', [3, 4, 5, 6])]])
    writer.split('val', [[('bicycle', BOX)]])
    writer.split('video', [[('car', BOX)]])
    built = build_crops(writer.folder, tmp_path / 'out')
    loaded = datasets.load_dataset(str(tmp_path / 'out'))
    assert list(loaded) == ['train', 'validation', 'test']
    train = loaded['train']
    assert train.features['label'] == datasets.ClassLabel(names=['person', 'vehicle', 'bicycle', 'dog'])
    assert isinstance(train.features['image'], datasets.Image)
    assert train['label'][:] == [0, 3, 1]
    assert train['frame'][:] == ['TEST_00000', 'TEST_00000', 'TEST_00001']
    assert train['bbox'][:] == [[10, 20, 30, 40], [600, 500, 40, 12], [3, 4, 5, 6]]
    assert train['source'][2] == 'train/thermal_8_bit/TEST_00001.jpeg'
    frame = np.asarray(Image.open(writer.frames('train')[0]))
    assert train[0]['image'].mode == 'L'
    assert np.array_equal(np.asarray(train[0]['image']), frame[20:60, 10:40])
    assert built.counts['train'] == {'person': 1, 'vehicle': 1, 'bicycle': 0, 'dog': 1}


def test_two_class_drops_and_counts_the_other_boxes(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', BOX), ('dog', BOX), ('car', BOX), ('other vehicle', BOX)]])
    built = build_crops(writer.folder, tmp_path / 'out', classes='two_class')
    assert built.counts == {'train': {'person': 1, 'vehicle': 1}}
    assert built.dropped['train'] == {
        'category that is not used: dog': 1,
        'category that is not used: other vehicle': 1,
    }
    assert load_crops(tmp_path / 'out')['train'].features['label'].names == ['person', 'vehicle']


def test_boxes_under_the_smallest_size_are_dropped(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', [0, 0, 9, 50]), ('person', [0, 0, 10, 10])]])
    built = build_crops(writer.folder, tmp_path / 'out', min_size=10)
    assert built.counts['train']['person'] == 1
    assert built.dropped['train'] == {'box under 10 pixels': 1}


def test_shards_do_not_depend_on_the_number_of_processes(flir_writer, tmp_path, monkeypatch):
    writer = flir_writer(size=(64, 48))
    writer.split('train', [[('person', [1, 2, 30, 40]), ('car', [5, 5, 20, 20])]] * 70)
    writer.split('val', [[('person', [1, 2, 30, 40])]])
    monkeypatch.setattr(crops_module, 'ROWS_PER_GROUP', 16)
    monkeypatch.setattr(crops_module, 'ROWS_PER_SHARD', 48)
    build_crops(writer.folder, tmp_path / 'one')
    build_crops(writer.folder, tmp_path / 'two', num_proc=2)
    names = sorted(path.name for path in (tmp_path / 'one' / 'data').iterdir())
    assert names == [*(f'train-{i:05d}-of-00003.parquet' for i in range(3)), 'validation-00000-of-00001.parquet']
    for name in names:
        ours, theirs = ((tmp_path / run / 'data' / name).read_bytes() for run in ('one', 'two'))
        assert ours == theirs
    shard = pq.ParquetFile(tmp_path / 'one' / 'data' / names[0])
    assert [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)] == [16, 16, 16]
    assert len(load_crops(tmp_path / 'one')['train']) == 140


def test_split_without_crops_is_counted_and_has_no_shard(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)]])
    writer.split('val', [[('other vehicle', BOX)]])
    built = build_crops(writer.folder, tmp_path / 'out')
    assert built.counts['validation'] == {'person': 0, 'vehicle': 0, 'bicycle': 0, 'dog': 0}
    assert list(load_crops(tmp_path / 'out')) == ['train']


def test_folder_without_a_box_of_the_classes_is_refused(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('other vehicle', BOX)]])
    with pytest.raises(InputError, match='has no box of person, vehicle, bicycle, dog'):
        build_crops(writer.folder, tmp_path / 'out')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['flir']


def test_output_that_is_not_empty_is_refused_and_unchanged(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)]])
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'mine.txt').write_text('mine')
    with pytest.raises(InputError, match='already exists'):
        build_crops(writer.folder, out)
    assert [path.name for path in out.iterdir()] == ['mine.txt']


def test_broken_frame_leaves_no_files_or_is_skipped(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)], [('car', BOX)]])
    path = writer.frames('train')[0]
    path.write_bytes(path.read_bytes()[:3000])
    for num_proc in (1, 2):
        with pytest.raises(InputError, match=r'TEST_00000\.jpeg cannot be decoded'):
            build_crops(writer.folder, tmp_path / 'out', num_proc=num_proc)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['flir']
    built = build_crops(writer.folder, tmp_path / 'out', missing='skip')
    assert built.dropped['train'] == {'frame that cannot be decoded (frames)': 1}
    assert built.counts['train']['vehicle'] == 1


def test_counts_and_options_are_written_to_crops_json(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', BOX), ('car', [1, 1, 0, 0])]])
    build_crops(writer.folder, tmp_path / 'out')
    built = json.loads((tmp_path / 'out' / 'crops.json').read_text())
    assert built['layout'] == 'FLIR ADAS v1.3'
    assert built['counts'] == {'train': {'person': 1, 'vehicle': 0, 'bicycle': 0, 'dog': 0}}
    assert built['dropped'] == {'train': {'empty or inverted box': 1}}
    assert built['options'] == {'classes': 'four_class', 'min_size': 1, 'bits': 8, 'missing': 'fail'}


def test_counts_of_the_starter_set_are_those_of_table_1(flir_writer, tmp_path):
    """With as many boxes per category as in FLIR ADAS v1.3, at the border too, the counts are those of the paper."""
    writer = flir_writer(size=(64, 48), prefix='FLIR')
    flir_counts = {
        'train': {'person': 22_372, 'car': 41_260, 'bicycle': 3_986, 'dog': 226, 'other vehicle': 5},
        'val': {'person': 5_779, 'car': 5_432, 'bicycle': 471, 'dog': 14, 'other vehicle': 63},
    }
    for split, counts in flir_counts.items():
        boxes = [(name, [60, 44, 5, 5] if i % 9 else [0, 0, 1, 1]) for name, n in counts.items() for i in range(n)]
        writer.split(split, [boxes[i::20] for i in range(20)])
    built = build_crops(writer.folder, tmp_path / 'out')
    assert built.counts == TABLE_1
    table = format_counts(built)
    assert table.count('paper, Table 1') == 2
    lines = [line.split()[-5:] for line in table.splitlines()]
    assert lines[1] == lines[2] == ['22,372', '41,260', '3,986', '226', '67,844']
    assert lines[3] == lines[4] == ['5,779', '5,432', '471', '14', '11,696']


def test_other_frames_in_the_layout_are_not_compared_with_table_1(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)]])
    assert 'Table 1' not in format_counts(build_crops(writer.folder, tmp_path / 'out'))


def build_dataset(root, *args):
    command = [sys.executable, str(root / 'train_scripts' / 'build_dataset.py'), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_script_builds_and_prints_the_table_and_draws_a_sheet(root, flir_writer, tmp_path):
    writer = flir_writer('v2')
    writer.split('train', [[('person', BOX), ('bike', BOX)]])
    writer.split('val', [[('car', BOX)]])
    run = build_dataset(
        root, '--flir-root', writer.folder, '--out', tmp_path / 'out', '--sheet', tmp_path / 'sheet.png'
    )
    assert run.returncode == 0, run.stderr
    assert 'split       person  vehicle  bicycle  dog  total' in run.stdout
    assert 'train            1        0        1    0      2' in run.stdout
    assert Image.open(tmp_path / 'sheet.png').width > 1000


def test_script_prints_invalid_input_in_one_line_and_exits_with_1(root, tmp_path):
    run = build_dataset(root, '--flir-root', tmp_path / 'nowhere', '--out', tmp_path / 'out')
    assert run.returncode == 1
    assert run.stderr.startswith('error: ')
    assert 'Traceback' not in run.stderr
