"""Annotations and images that nobody would write: each is read rightly or refused in a sentence, inside its folder."""

import copy
import io
import json
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from flir_writer import FlirWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from timm_convattn.data.crops import build_crops, load_crops
from timm_convattn.data.flir import Frame, read_flir, read_frame
from timm_convattn.errors import InputError

FOLDER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def cases(number):
    return settings(max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=FOLDER)


NAMES = ['thermal_8_bit/TEST_00000.jpeg', '../val/x.jpeg', '/etc/passwd', '..', '', '.', 'a' * 5000, 'nul\0', '\ud800']
NAMES += [
    'link.jpeg',
    'ring',
    'out/secret.jpeg',
    'thermal_8_bit/../../../secret.jpeg',
    'con',
    'a\nb',
    '\x1b[31mred',
    '人.jpeg',
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 700),
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 10**4000]),
    st.floats(),
    st.sampled_from([1e308, -1e308, 1e-320, float('nan'), float('inf')]),
    st.text(st.characters(), max_size=20),
    st.sampled_from(NAMES),
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """All paths into a JSON value."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += places(child, (*path, key))
    return found


@st.composite
def mutated(draw, coco):
    """A COCO object in which some values are others, gone, or there twice."""
    bent = copy.deepcopy(coco)
    for _ in range(draw(st.integers(1, 4))):
        found = places(bent)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        place = bent
        for key in path:
            place = place[key]
        what = draw(st.sampled_from(['replace', 'replace', 'remove', 'repeat']))
        if what == 'replace':
            place[last] = draw(junk)
        elif what == 'remove':
            del place[last]
        elif isinstance(place, list):
            place.append(copy.deepcopy(place[last]))
    return bent


def everything_in(folder):
    return {str(path): path.lstat().st_size for path in folder.rglob('*')}


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A FLIR folder with links that leave it, beside a file that is none of its business."""
    home = tmp_path_factory.mktemp('hostile')
    writer = FlirWriter(home / 'flir', size=(64, 48))
    boxes = [('person', [1, 2, 20, 30]), ('car', [30.5, 4, 12, 9.25]), ('other vehicle', [0, 0, 5, 5])]
    coco = writer.split('train', [boxes, boxes[:1], []])
    writer.split('val', [boxes])
    train = writer.folder / 'train'
    (home / 'secret.jpeg').write_bytes(writer.frames('train')[0].read_bytes())
    (train / 'link.jpeg').symlink_to(home / 'secret.jpeg')
    (train / 'ring').symlink_to(train / 'ring')
    (train / 'out').symlink_to(home)
    return home, writer, coco


def check_reading(home, writer):
    """Read and build; whatever comes of it, it is right or an `InputError`, and nothing is written elsewhere."""
    before, inside = everything_in(home), (writer.folder / 'train').resolve()
    try:
        flir = read_flir(writer.folder, missing='skip')
    except InputError as error:
        assert str(error).isprintable()
        return 'refused'
    for frame in flir.splits['train'].frames:
        assert frame.path.resolve().is_relative_to(inside)
        for box in frame.boxes:
            assert 0 <= box.x < box.x + box.w <= frame.width
            assert 0 <= box.y < box.y + box.h <= frame.height
            assert box.category.isprintable()
    assert all(reason.isprintable() for split in flir.splits.values() for reason in split.dropped)
    assert everything_in(home) == before
    return 'read'


def outcomes_of(home, writer, contents):
    path = writer.folder / 'train' / 'thermal_annotations.json'
    path.write_bytes(contents)
    return check_reading(home, writer)


def test_annotations_with_any_value_anywhere_are_read_or_refused(home):
    place, writer, coco = home
    seen = set()

    @cases(900)
    @given(mutated(coco))
    def check(bent):
        seen.add(outcomes_of(place, writer, json.dumps(bent).encode()))

    check()
    assert seen == {'read', 'refused'}


def test_annotations_with_broken_text_are_read_or_refused(home):
    place, writer, coco = home
    text = json.dumps(coco).encode()

    @cases(300)
    @given(st.integers(0, len(text)), st.integers(0, 40), st.binary(max_size=20))
    def check(start, gone, new):
        outcomes_of(place, writer, text[:start] + new + text[start + gone :])

    check()
    for contents in (
        b'',
        b'[' * 100_000,
        b'{"images": ' + b'9' * 5000 + b'}',
        b'\xef\xbb\xbf{}',
        b'null',
        text.decode().encode('utf-16'),
    ):
        outcomes_of(place, writer, contents)


@pytest.mark.parametrize('name', NAMES)
def test_no_file_name_leaves_the_folder_of_its_annotations(home, name):
    place, writer, coco = home
    bent = copy.deepcopy(coco)
    bent['images'][0]['file_name'] = name
    outcomes_of(place, writer, json.dumps(bent).encode())
    if name in ('link.jpeg', 'ring', 'out/secret.jpeg', '/etc/passwd') or '../' in name:
        with pytest.raises(
            InputError, match=r'lies outside|cannot be one' + ('|not on disk' if name == 'ring' else '')
        ):
            read_flir(writer.folder)


def test_crops_of_any_annotations_count_what_they_hold_and_appear_whole_or_not_at_all(home, tmp_path):
    place, writer, coco = home
    path, out = writer.folder / 'train' / 'thermal_annotations.json', tmp_path / 'crops'

    @cases(60)
    @given(mutated(coco))
    def check(bent):
        path.write_text(json.dumps(bent))
        before = everything_in(place)
        try:
            made = build_crops(writer.folder, out, missing='skip', progress=False)
        except InputError:
            assert not list(tmp_path.iterdir())
        else:
            crops = load_crops(out)
            assert {split: len(rows) for split, rows in crops.items()} == {
                split: sum(counts.values()) for split, counts in made.counts.items() if sum(counts.values())
            }
            for file in sorted(out.rglob('*'), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            out.rmdir()
        assert everything_in(place) == before

    check()


def encoded(format, mode='L', **options):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
    gray = Image.fromarray(pixels)
    if mode == 'I;16':
        image = Image.fromarray(pixels.astype(np.uint16) * 200)
    elif mode == 'LAB':
        image = Image.merge('LAB', [gray] * 3)
    else:
        image = gray.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


IMAGES = {
    'jpeg': encoded('JPEG'),
    'cmyk jpeg': encoded('JPEG', 'CMYK'),
    'png': encoded('PNG'),
    'palette png': encoded('PNG', 'P'),
    'png with alpha': encoded('PNG', 'RGBA'),
    '16-bit png': encoded('PNG', 'I;16'),
    'tiff': encoded('TIFF'),
    'float tiff': encoded('TIFF', 'F'),
    'lab tiff': encoded('TIFF', 'LAB'),
    'packed tiff': encoded('TIFF', compression='tiff_lzw'),
    'animated gif': encoded('GIF', save_all=True, append_images=[Image.new('L', (16, 12), 200)]),
    'bmp': encoded('BMP', '1'),
    'webp': encoded('WEBP', 'RGB'),
}


def read(path, contents, size=(16, 12), percentiles=None):
    path.write_bytes(contents)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            image = read_frame(Frame(path, path.name, *size, ()), percentiles)
        except InputError as error:
            return str(error)
    assert (image.mode, image.size) == ('L', size)
    return image


@pytest.mark.parametrize('kind', IMAGES)
def test_images_of_any_kind_under_any_ending_are_read_as_grey_or_refused(tmp_path, kind):
    image = read(tmp_path / 'frame.jpeg', IMAGES[kind], percentiles=(1, 99))
    assert isinstance(image, Image.Image) or (kind == 'lab tiff' and 'cannot be decoded' in image)


def test_broken_images_are_read_or_refused(tmp_path):
    seen = set()

    @cases(700)
    @given(st.sampled_from(sorted(IMAGES)), st.floats(0, 1), st.integers(0, 60), st.binary(max_size=30), st.booleans())
    def check(kind, place, gone, new, cut):
        contents = IMAGES[kind]
        start = int(place * len(contents))
        broken = contents[:start] if cut else contents[:start] + new + contents[start + gone :]
        seen.add(isinstance(read(tmp_path / 'frame.jpeg', broken, percentiles=(1, 99)), Image.Image))

    check()
    assert seen == {True, False}
    assert 'cannot be decoded' in read(tmp_path / 'frame.jpeg', b'')


def png_of(width, height, data=b''):
    """A PNG that says it is of any size."""

    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')


@pytest.mark.parametrize('side', [9_000, 60_000, 2**31 - 1])
def test_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path, side):
    contents = png_of(side, side, zlib.compress(bytes(10_000_000)))
    before = resident()
    said = read(tmp_path / 'frame.png', contents, size=(side, side))
    assert 'more than 64000000 pixels' in said or 'cannot be decoded' in said
    assert resident() - before < 50e6


def resident():
    with open('/proc/self/statm') as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def test_counts_that_are_no_numbers_are_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 16), np.nan, np.float32)).save(buffer, 'TIFF')
    assert 'holds NaN or infinite values' in read(tmp_path / 'frame.tiff', buffer.getvalue(), percentiles=(1, 99))
