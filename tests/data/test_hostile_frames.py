"""Hostile annotations and images: each is read correctly or refused, and nothing outside of its folder is touched."""

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
NAMES += ['link.jpeg', 'ring', 'out/secret.jpeg', 'thermal_8_bit/../../../secret.jpeg']
NAMES += ['con', 'a\nb', '\x1b[31mred', '人.jpeg']
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


def paths_in(value, path=()):
    """Return all paths into a JSON value."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += paths_in(child, (*path, key))
    return found


@st.composite
def mutated(draw, coco):
    """Draw a COCO object in which some values are replaced, removed or repeated."""
    changed = copy.deepcopy(coco)
    for _ in range(draw(st.integers(1, 4))):
        found = paths_in(changed)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        parent = changed
        for key in path:
            parent = parent[key]
        what = draw(st.sampled_from(['replace', 'replace', 'remove', 'repeat']))
        if what == 'replace':
            parent[last] = draw(junk)
        elif what == 'remove':
            del parent[last]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
    return changed


def everything_in(folder):
    return {str(path): path.lstat().st_size for path in folder.rglob('*')}


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A FLIR folder with links to files outside of it, next to such a file."""
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
    """Read the folder: the result is valid or an `InputError`, and no file changes."""
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


def read_annotations(home, writer, contents):
    path = writer.folder / 'train' / 'thermal_annotations.json'
    path.write_bytes(contents)
    return check_reading(home, writer)


def test_annotations_with_any_value_anywhere_are_read_or_refused(home):
    root, writer, coco = home
    seen = set()

    @cases(900)
    @given(mutated(coco))
    def check(changed):
        seen.add(read_annotations(root, writer, json.dumps(changed).encode()))

    check()
    assert seen == {'read', 'refused'}


def test_annotations_with_broken_text_are_read_or_refused(home):
    root, writer, coco = home
    text = json.dumps(coco).encode()

    @cases(300)
    @given(st.integers(0, len(text)), st.integers(0, 40), st.binary(max_size=20))
    def check(start, gone, new):
        read_annotations(root, writer, text[:start] + new + text[start + gone :])

    check()
    others = [b'', b'null', b'[' * 100_000, b'{"images": ' + b'9' * 5000 + b'}', b'\xef\xbb\xbf{}']
    for contents in (*others, text.decode().encode('utf-16')):
        read_annotations(root, writer, contents)


@pytest.mark.parametrize('name', NAMES)
def test_no_file_name_leaves_the_folder_of_its_annotations(home, name):
    root, writer, coco = home
    changed = copy.deepcopy(coco)
    changed['images'][0]['file_name'] = name
    read_annotations(root, writer, json.dumps(changed).encode())
    if name in ('link.jpeg', 'ring', 'out/secret.jpeg', '/etc/passwd') or '../' in name:
        pattern = r'lies outside|cannot be one' + ('|not on disk' if name == 'ring' else '')
        with pytest.raises(InputError, match=pattern):
            read_flir(writer.folder)


def test_crops_of_any_annotations_are_counted_correctly_and_complete(home, tmp_path):
    root, writer, coco = home
    path, out = writer.folder / 'train' / 'thermal_annotations.json', tmp_path / 'crops'

    @cases(60)
    @given(mutated(coco))
    def check(changed):
        path.write_text(json.dumps(changed))
        before = everything_in(root)
        try:
            built = build_crops(writer.folder, out, missing='skip', progress=False)
        except InputError:
            assert not list(tmp_path.iterdir())
        else:
            crops = load_crops(out)
            assert {split: len(rows) for split, rows in crops.items()} == {
                split: sum(counts.values()) for split, counts in built.counts.items() if sum(counts.values())
            }
            for file in sorted(out.rglob('*'), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            out.rmdir()
        assert everything_in(root) == before

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
def test_images_of_any_format_and_extension_are_read_as_grey_or_refused(tmp_path, kind):
    image = read(tmp_path / 'frame.jpeg', IMAGES[kind], percentiles=(1, 99))
    assert isinstance(image, Image.Image) or (kind == 'lab tiff' and 'cannot be decoded' in image)


def test_broken_images_are_read_or_refused(tmp_path):
    seen = set()

    @cases(700)
    @given(st.sampled_from(sorted(IMAGES)), st.floats(0, 1), st.integers(0, 60), st.binary(max_size=30), st.booleans())
    def check(kind, position, gone, new, cut):
        contents = IMAGES[kind]
        start = int(position * len(contents))
        broken = contents[:start] if cut else contents[:start] + new + contents[start + gone :]
        seen.add(isinstance(read(tmp_path / 'frame.jpeg', broken, percentiles=(1, 99)), Image.Image))

    check()
    assert seen == {True, False}
    assert 'cannot be decoded' in read(tmp_path / 'frame.jpeg', b'')


def png_of(width, height, data=b''):
    """Return a PNG whose header states a size, whatever its data."""

    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')


@pytest.mark.parametrize('side', [9_000, 60_000, 2**31 - 1])
def test_image_that_would_fill_memory_is_refused_before_decoding(tmp_path, side):
    contents = png_of(side, side, zlib.compress(bytes(10_000_000)))
    before = resident()
    message = read(tmp_path / 'frame.png', contents, size=(side, side))
    assert 'more than 64000000 pixels' in message or 'cannot be decoded' in message
    assert resident() - before < 50e6


def resident():
    with open('/proc/self/statm') as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def test_non_finite_counts_are_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 16), np.nan, np.float32)).save(buffer, 'TIFF')
    assert 'holds NaN or infinite values' in read(tmp_path / 'frame.tiff', buffer.getvalue(), percentiles=(1, 99))
