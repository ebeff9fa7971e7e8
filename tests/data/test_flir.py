"""FLIR folders of both releases, and invalid ones."""

import numpy as np
import pytest
from PIL import Image

from timm_convattn.data.flir import Box, Frame, read_flir, read_frame
from timm_convattn.data.images import scale_percentiles
from timm_convattn.errors import InputError

BOX = [10, 20, 30, 40]


@pytest.mark.parametrize(('layout', 'bicycle'), [('v1.3', 'bicycle'), ('v2', 'bike')])
def test_frames_and_boxes_of_both_layouts_are_read(flir_writer, layout, bicycle):
    writer = flir_writer(layout)
    writer.split('train', [[('person', BOX), (bicycle, [0, 0, 5, 6])], []])
    writer.split('val', [[('car', BOX)]])
    writer.split('video', [[('dog', BOX)]])
    flir = read_flir(writer.folder)
    assert list(flir.splits) == ['train', 'validation', 'test']
    (frame,) = flir.splits['train'].frames  # frames without boxes are left out
    assert frame.boxes == (Box('person', 10, 20, 30, 40), Box(bicycle, 0, 0, 5, 6))
    assert (frame.stem, frame.width, frame.height) == ('TEST_00000', 640, 512)
    assert frame.source == frame.path.relative_to(writer.folder).as_posix()
    assert read_frame(frame).size == (640, 512)


@pytest.mark.parametrize(
    ('bbox', 'expected'),
    [
        ([600, 500, 41, 13], Box('person', 600, 500, 40, 12)),  # one pixel outside, as in FLIR
        ([-5, -5, 10, 10], Box('person', 0, 0, 5, 5)),
        ([1.5, 2.5, 3.0, 3.0], Box('person', 1, 2, 4, 4)),  # all pixels that it touches
    ],
)
def test_boxes_are_clipped_to_whole_pixels_of_the_frame(flir_writer, bbox, expected):
    writer = flir_writer()
    writer.split('train', [[('person', bbox)]])
    assert read_flir(writer.folder).splits['train'].frames[0].boxes == (expected,)


@pytest.mark.parametrize(
    ('bbox', 'reason'),
    [
        ([10, 10, 0, 5], 'empty or inverted box'),
        ([10, 10, -4, 5], 'empty or inverted box'),
        ([640, 10, 5, 5], 'box outside its frame'),
        ([-20, 10, 5, 5], 'box outside its frame'),
        ([1, 2, 3], 'box that is not four numbers'),
        ([1, 2, float('nan'), 4], 'box that is not four numbers'),
        ([1, 2, '3', 4], 'box that is not four numbers'),
        (None, 'box that is not four numbers'),
    ],
)
def test_invalid_boxes_are_dropped_and_counted(flir_writer, bbox, reason):
    writer = flir_writer()
    writer.split('train', [[('person', bbox), ('car', BOX)]])
    split = read_flir(writer.folder).splits['train']
    assert [box.category for box in split.frames[0].boxes] == ['car']
    assert split.dropped == {reason: 1}


def test_unknown_categories_and_images_are_counted(flir_writer):
    writer = flir_writer()
    coco = writer.split('train', [[('person', BOX), ('person', BOX), ('person', BOX)]])
    coco['annotations'][0]['category_id'] = 77
    coco['annotations'][1]['image_id'] = 5
    writer.write('train', coco)
    split = read_flir(writer.folder).splits['train']
    assert split.dropped == {'unknown category id 77': 1, 'box of an image that is not listed': 1}
    assert len(split.frames[0].boxes) == 1


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match='nowhere is not a folder'):
        read_flir(tmp_path / 'nowhere')


def test_folder_of_neither_layout_names_expected_and_seen_folders(tmp_path):
    (tmp_path / 'images').mkdir()
    with pytest.raises(
        InputError,
        match=r'train/thermal_annotations.json \(FLIR ADAS v1.3\) or images_thermal_train/coco.json .*saw images',
    ):
        read_flir(tmp_path)


@pytest.mark.parametrize('content', ['{"images": [', '', '\x00', '[]', '{"images": 3}', '{"images": [1]}'])
def test_broken_annotations_are_refused_by_name(flir_writer, content):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)]])
    (writer.folder / 'train' / 'thermal_annotations.json').write_text(content)
    with pytest.raises(InputError, match=r'thermal_annotations\.json'):
        read_flir(writer.folder)


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        (('images', 0, 'width'), '640', r'"width" is \'640\' .* wanted int'),
        (('images', 0, 'id'), None, r'"id" is None'),
        (('images', 1, 'id'), 0, r'two images have the id 0'),
        (('images', 0, 'file_name'), 7, r'"file_name" is 7 .* wanted str'),
        (('categories', 0, 'name'), None, r'"name" is None'),
    ],
)
def test_fields_of_a_wrong_type_are_refused_by_name(flir_writer, path, value, message):
    writer = flir_writer()
    coco = writer.split('train', [[('person', BOX)], [('person', BOX)]])
    key, index, name = path
    coco[key][index][name] = value
    writer.write('train', coco)
    with pytest.raises(InputError, match=message):
        read_flir(writer.folder)


def test_missing_frames_are_counted_and_named_or_skipped(flir_writer):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)]] * 8)
    for path in writer.frames('train')[:7]:
        path.unlink()
    with pytest.raises(InputError, match=r'7 frames .* not on disk, the first: train/thermal_8_bit/TEST_00000.jpeg'):
        read_flir(writer.folder)
    split = read_flir(writer.folder, missing='skip').splits['train']
    assert len(split.frames) == 1
    assert len(split.missing) == 7


@pytest.mark.parametrize('name', ['../../secret.jpeg', '/etc/hostname', 'thermal_8_bit/../../../secret.jpeg'])
def test_file_names_outside_of_the_folder_are_refused(flir_writer, name):
    writer = flir_writer()
    coco = writer.split('train', [[('person', BOX)]])
    coco['images'][0]['file_name'] = name
    writer.write('train', coco)
    with pytest.raises(InputError, match='lies outside'):
        read_flir(writer.folder, missing='skip')


def test_links_to_files_outside_of_the_folder_are_refused(flir_writer, tmp_path):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)]])
    outside = tmp_path / 'outside.jpeg'
    (frame,) = writer.frames('train')
    frame.rename(outside)
    frame.symlink_to(outside)
    with pytest.raises(InputError, match='lies outside'):
        read_flir(writer.folder)


def frame_of(path, size=(640, 512)):
    return Frame(path, path.name, *size, ())


def test_truncated_frame_is_named(flir_writer):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)]])
    (path,) = writer.frames('train')
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r'TEST_00000.jpeg cannot be decoded .*truncated'):
        read_frame(frame_of(path))


@pytest.mark.parametrize('content', [b'', b'not an image', b'\x89PNG\r\n\x1a\n'])
def test_file_that_is_not_an_image_is_named(tmp_path, content):
    path = tmp_path / 'frame.jpeg'
    path.write_bytes(content)
    with pytest.raises(InputError, match=r'frame\.jpeg cannot be decoded'):
        read_frame(frame_of(path))


def test_frame_of_another_size_than_annotated_is_refused(tmp_path):
    path = tmp_path / 'frame.jpeg'
    Image.new('RGB', (416, 416)).save(path)
    with pytest.raises(InputError, match=r'416 x 416 pixels \(RGB\), its annotations 640 x 512'):
        read_frame(frame_of(path))


def test_rgb_frame_of_the_annotated_size_becomes_grey(tmp_path):
    path = tmp_path / 'frame.png'
    grey = np.random.default_rng(0).integers(0, 256, (416, 416), dtype=np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(path)
    assert np.array_equal(np.asarray(read_frame(frame_of(path, (416, 416)))), grey)


def test_16_bit_frames_are_scaled_by_percentiles_when_asked_for(flir_writer):
    writer = flir_writer()
    writer.split('train', [[('person', BOX)]])
    counts = np.random.default_rng(0).normal(8000, 300, (512, 640)).astype(np.uint16)
    folder = writer.folder / 'train' / 'thermal_16_bit'
    folder.mkdir()
    Image.fromarray(counts).save(folder / 'TEST_00000.tiff')
    (frame,) = read_flir(writer.folder, bits=16).splits['train'].frames
    assert frame.source == 'train/thermal_16_bit/TEST_00000.tiff'
    pixels = np.asarray(read_frame(frame, percentiles=(1.0, 99.0)))
    assert 0.01 <= (pixels == 0).mean() < 0.015
    assert 0.01 <= (pixels == 255).mean() < 0.015
    middle = (pixels > 0) & (pixels < 255)
    slope, offset = np.polyfit(counts[middle], pixels[middle], 1)
    assert np.abs(slope * counts[middle] + offset - pixels[middle]).max() < 1
    with pytest.raises(InputError, match=r'has 16 bits\. Scale it to 8 bits with --bits 16'):
        read_frame(frame)


def test_percentiles_out_of_order_are_refused():
    with pytest.raises(InputError, match='wanted 0 <= low < high <= 100'):
        scale_percentiles(np.zeros((2, 2)), 99, 1)


def test_frame_of_one_value_is_scaled_to_black():
    assert (scale_percentiles(np.full((4, 4), 7000, np.uint16)) == 0).all()
