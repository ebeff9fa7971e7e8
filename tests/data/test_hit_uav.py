"""HIT-UAV in FLIR's layout: the split by frame ids, categories, unchanged frames, and invalid input."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from script_runner import run_script

from timm_convattn.data.flir import Box, read_flir

FRAMES = {
    'train': ['1_60_30_0_00249.jpg', '0_90_50_0_01000.jpg', '1_100_50_0_00003.jpg'],
    'val': ['0_70_90_0_01249.jpg'],
    'test': ['1_80_60_1_01250.jpg', '0_130_60_0_01001.jpg'],
}
BOX = [3, 4, 10, 8]


@pytest.fixture
def hit_uav(tmp_path):
    """A small download: `annotation`, `filename`, and ids that continue from split to split."""
    folder, number = tmp_path / 'HIT-UAV', 0
    (folder / 'normal_json' / 'annotations').mkdir(parents=True)
    for split, names in FRAMES.items():
        (folder / 'normal_json' / split).mkdir()
        images, boxes = [], []
        for name in names:
            pixels = np.random.default_rng(number).integers(0, 256, (48, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / 'normal_json' / split / name)
            images.append({'filename': name, 'height': 48, 'width': 64, 'id': number, 'date_captured': '20210116'})
            boxes += [{'id': 0, 'image_id': number, 'category_id': kind, 'bbox': BOX} for kind in range(5)]
            number += 1
        write(folder, split, {'images': images, 'categories': [], 'annotation': boxes})
    return folder


def annotations(folder, split):
    return folder / 'normal_json' / 'annotations' / f'{split}.json'


def write(folder, split, content):
    annotations(folder, split).write_text(json.dumps(content))


def convert(root, *args):
    return run_script(root / 'train_scripts' / 'convert_hit_uav.py', *args)


def test_every_fifth_block_of_250_ids_is_validation_and_the_rest_training(root, hit_uav, tmp_path):
    done = convert(root, '--hit-uav', hit_uav, '--out', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    assert 'train: 2 frames, 8 boxes' in done.stdout
    assert 'val: 2 frames, 8 boxes' in done.stdout
    flir = read_flir(tmp_path / 'out')
    sources = {name: [frame.source for frame in split.frames] for name, split in flir.splits.items()}
    assert sources == {
        'train': ['train/thermal_8_bit/UAV_00249.jpeg', 'train/thermal_8_bit/UAV_01250.jpeg'],
        'validation': ['val/thermal_8_bit/UAV_01000.jpeg', 'val/thermal_8_bit/UAV_01249.jpeg'],
    }
    names = ['person', 'car', 'bicycle', 'other vehicle']  # in the order of HIT-UAV's ids, without its "DontCare"
    for frame in flir.frames:
        assert frame.boxes == tuple(Box(name, *BOX) for name in names)
        assert (frame.width, frame.height) == (64, 48)
    original = hit_uav / 'normal_json' / 'train' / '1_60_30_0_00249.jpg'
    assert flir.frames[0].path.read_bytes() == original.read_bytes()


def test_annotations_have_flirs_ids_and_fields(root, hit_uav, tmp_path):
    done = convert(root, '--hit-uav', hit_uav / 'normal_json', '--out', tmp_path / 'out', '--altitudes', 60, 130)
    assert done.returncode == 0, done.stderr
    coco = json.loads((tmp_path / 'out' / 'val' / 'thermal_annotations.json').read_text())
    names = ['UAV_01000', 'UAV_01249', 'UAV_01001']
    assert [image['file_name'] for image in coco['images']] == [f'thermal_8_bit/{name}.jpeg' for name in names]
    assert {kind['id']: kind['name'] for kind in coco['categories']} == {
        1: 'person',
        2: 'bicycle',
        3: 'car',
        91: 'other vehicle',
    }
    assert [box['category_id'] for box in coco['annotations']] == [1, 3, 2, 91] * 3
    assert [box['id'] for box in coco['annotations']] == list(range(1, 13))
    assert coco['annotations'][4] == {
        'id': 5,
        'image_id': 1,
        'category_id': 1,
        'bbox': BOX,
        'area': 80,
        'iscrowd': 0,
        'segmentation': [[3, 4, 13, 4, 13, 12, 3, 12]],
        'extra_info': {'human_annotated': True},
    }


def lose_a_frame(folder):
    (folder / 'normal_json' / 'test' / FRAMES['test'][0]).unlink()


def lose_annotations(folder):
    annotations(folder, 'test').unlink()


def set_value(*path, value):
    def change(folder):
        content = json.loads(annotations(folder, 'val').read_text())
        target = content
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
        write(folder, 'val', content)

    return change


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lose_a_frame, r'1 frames that the annotations name are not on disk, the first: .*1_80_60_1_01250.jpg'),
        (lose_annotations, r'test.json could not be read as HIT-UAV'),
        (lambda folder: annotations(folder, 'val').write_text('{"images": ['), r'val.json could not be read'),
        (set_value('annotation', value=None), r'val.json could not be read'),
        (set_value('images', 0, 'filename', value='../train/0_70_90_0_01249.jpg'), r'an image is .*\.\./train'),
        (set_value('images', 0, 'width', value='64'), r'val.json could not be read'),
        (set_value('images', 0, 'filename', value='1_60_30_0_00249.jpg'), r'not on disk'),
        (set_value('annotation', 0, 'category_id', value=9), r'val.json could not be read .*KeyError: 9'),
        (set_value('annotation', 0, 'image_id', value=77), r'val.json could not be read .*KeyError: 77'),
        (set_value('annotation', 0, 'bbox', value=[1, 2, 3]), r'a box is \[1, 2, 3\]'),
        (set_value('annotation', 0, 'bbox', value=[1, 2, 3, '4']), r'a box is '),
        (set_value('annotation', 0, 'bbox', value=[1, 2, 3, float('inf')]), r'val.json could not be read'),
    ],
)
def test_invalid_input_is_one_line_and_writes_nothing(root, hit_uav, tmp_path, damage, message):
    damage(hit_uav)
    done = convert(root, '--hit-uav', hit_uav, '--out', tmp_path / 'out')
    assert done.returncode == 1
    assert done.stderr.startswith('error: ')
    assert done.stderr.count('\n') == 1
    assert re.search(message, done.stderr), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['HIT-UAV']


def test_output_that_is_not_empty_is_unchanged(root, hit_uav, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine.txt').write_text('mine')
    done = convert(root, '--hit-uav', hit_uav, '--out', tmp_path / 'out')
    assert done.returncode == 1
    assert 'already exists' in done.stderr
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mine.txt']


def test_altitudes_without_frames_for_both_splits_are_refused(root, hit_uav, tmp_path):
    done = convert(root, '--hit-uav', hit_uav, '--out', tmp_path / 'out', '--altitudes', 100, 100)
    assert done.returncode == 1
    assert 'has 1 frames from 100 to 100 m' in done.stderr
