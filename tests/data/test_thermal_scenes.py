"""Drawn scenes: the layout, boxes and class balance, and classes that a linear model cannot separate."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from timm_convattn.data.flir import Box
from timm_convattn.data.thermal_scenes import CATEGORY_IDS, HEIGHT, WIDTH, draw_frame, write_scenes
from timm_convattn.errors import InputError

SEED = 0
NUM_TRAIN, NUM_VAL = 110, 40  # of the 450 frames of the default data set, so that the file runs in seconds

Drawn = tuple[npt.NDArray[np.uint8], list[Box]]


@pytest.fixture(scope='module')
def drawn() -> list[Drawn]:
    """A subsample of the frames of the default data set, drawn once."""
    return [draw_frame(SEED, index) for index in range(NUM_TRAIN + NUM_VAL)]


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set on disk."""
    root = tmp_path_factory.mktemp('scenes') / 'small'
    write_scenes(root, seed=SEED, num_train=3, num_val=2)
    return root


def files_under(root: Path) -> dict[str, bytes]:
    """Every file below `root` by its relative path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def crops(frames: list[Drawn]) -> tuple[npt.NDArray[np.float32], list[str], npt.NDArray[np.float64]]:
    """The boxes cut out at 60x60 (flattened), their categories, and their width, height and aspect."""
    pixels, names, sizes = [], [], []
    for frame, boxes in frames:
        for box in boxes:
            crop = Image.fromarray(frame).crop((box.x, box.y, box.x + box.w, box.y + box.h))
            pixels.append(np.asarray(crop.resize((60, 60), Image.Resampling.BILINEAR), dtype=np.float32).ravel())
            names.append(box.category)
            sizes.append((box.w, box.h, box.w / box.h))
    return np.stack(pixels), names, np.array(sizes)


def test_same_seed_draws_the_same_frames() -> None:
    first_frame, first_boxes = draw_frame(7, 3)
    second_frame, second_boxes = draw_frame(7, 3)
    assert np.array_equal(first_frame, second_frame)
    assert first_boxes == second_boxes


def test_other_seed_or_index_draws_another_frame() -> None:
    frame, _ = draw_frame(7, 3)
    assert not np.array_equal(frame, draw_frame(8, 3)[0])
    assert not np.array_equal(frame, draw_frame(7, 4)[0])


def test_frames_are_640_by_512_of_8_bits(drawn: list[Drawn]) -> None:
    assert {(frame.shape, frame.dtype) for frame, _ in drawn} == {((512, 640), np.dtype(np.uint8))}


def test_boxes_lie_inside_the_frame(drawn: list[Drawn]) -> None:
    boxes = [box for _, boxes in drawn for box in boxes]
    assert all(box.x >= 0 and box.y >= 0 and box.x + box.w <= WIDTH and box.y + box.h <= HEIGHT for box in boxes)


def test_no_box_is_under_eight_pixels_on_a_side(drawn: list[Drawn]) -> None:
    assert min(min(box.w, box.h) for _, boxes in drawn for box in boxes) >= 8


def test_median_box_is_45_to_65_pixels_long(drawn: list[Drawn]) -> None:
    assert 45 <= np.median([max(box.w, box.h) for _, boxes in drawn for box in boxes]) <= 65


@pytest.mark.parametrize('split', [slice(0, NUM_TRAIN), slice(NUM_TRAIN, None)], ids=['train', 'val'])
def test_no_class_is_under_three_percent(drawn: list[Drawn], split: slice) -> None:
    counts = Counter(box.category for _, boxes in drawn[split] for box in boxes)
    assert set(counts) == set(CATEGORY_IDS)
    assert min(counts.values()) >= 0.03 * counts.total()


def test_gain_and_offset_differ_from_frame_to_frame(drawn: list[Drawn]) -> None:
    means, spreads = zip(*((frame.mean(), frame.std()) for frame, _ in drawn), strict=True)
    assert np.std(means) > 15
    assert np.std(spreads) > 5


def test_layout_is_flir_v13(written: Path) -> None:
    for split, count in (('train', 3), ('val', 2)):
        document = json.loads((written / split / 'thermal_annotations.json').read_text(encoding='utf-8'))
        assert set(document) == {'info', 'licenses', 'categories', 'images', 'annotations'}
        assert {c['name']: c['id'] for c in document['categories']} == {'person': 1, 'bicycle': 2, 'car': 3, 'dog': 17}
        assert all(set(category) == {'id', 'name', 'supercategory'} for category in document['categories'])
        assert [image['id'] for image in document['images']] == list(range(count))
        for entry in document['images']:
            assert (entry['width'], entry['height']) == (640, 512)
            with Image.open(written / split / entry['file_name']) as image:
                assert (image.format, image.mode, image.size) == ('JPEG', 'L', (640, 512))
        assert len(list((written / split / 'thermal_8_bit').iterdir())) == count


def test_annotations_are_the_boxes_that_were_drawn(written: Path) -> None:
    document = json.loads((written / 'val' / 'thermal_annotations.json').read_text(encoding='utf-8'))
    expected = [(image_id, box) for image_id in range(2) for box in draw_frame(SEED, 3 + image_id)[1]]
    assert [a['id'] for a in document['annotations']] == list(range(len(expected)))
    for annotation, (image_id, box) in zip(document['annotations'], expected, strict=True):
        assert annotation['image_id'] == image_id
        assert annotation['category_id'] == CATEGORY_IDS[box.category]
        assert annotation['bbox'] == [box.x, box.y, box.w, box.h]
        assert annotation['area'] == box.w * box.h
        assert annotation['iscrowd'] == 0


def test_same_seed_writes_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / 'again', seed=SEED, num_train=3, num_val=2)
    assert files_under(tmp_path / 'again') == files_under(written)


def test_frames_do_not_depend_on_how_many_are_drawn(written: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / 'fewer', seed=SEED, num_train=2, num_val=1)
    few, many = files_under(tmp_path / 'fewer'), files_under(written)
    for index in (1, 2):
        name = f'train/thermal_8_bit/SCENE_{index:05d}.jpeg'
        assert few[name] == many[name]


def test_no_frame_is_in_both_splits(written: Path) -> None:
    stems = {split: {path.stem for path in (written / split / 'thermal_8_bit').iterdir()} for split in ('train', 'val')}
    assert stems['train'].isdisjoint(stems['val'])
    contents = [content for name, content in files_under(written).items() if name.endswith('.jpeg')]
    assert len(set(contents)) == 5


def test_folder_that_is_not_empty_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'note.txt').write_text('mine', encoding='utf-8')
    with pytest.raises(InputError, match='already exists'):
        write_scenes(tmp_path / 'full', num_train=1, num_val=1)
    assert files_under(tmp_path) == {'full/note.txt': b'mine'}


def test_existing_file_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('mine', encoding='utf-8')
    with pytest.raises(InputError, match='already exists'):
        write_scenes(tmp_path / 'file', num_train=1, num_val=1)
    assert files_under(tmp_path) == {'file': b'mine'}


def test_empty_folder_is_filled_without_other_files_next_to_it(tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    write_scenes(tmp_path / 'empty', num_train=1, num_val=1)
    assert [path.name for path in tmp_path.iterdir()] == ['empty']
    assert sorted(path.name for path in (tmp_path / 'empty').iterdir()) == ['train', 'val']


def test_failure_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_at_second(seed: int, index: int) -> Drawn:
        if index == 1:
            raise OSError('disk is full')
        return draw_frame(seed, index)

    monkeypatch.setattr('timm_convattn.data.thermal_scenes.draw_frame', fail_at_second)
    with pytest.raises(OSError, match='disk is full'):
        write_scenes(tmp_path / 'scenes', num_train=2, num_val=1)
    assert list(tmp_path.iterdir()) == []


def test_logistic_regression_on_pixels_stays_below_080_macro_f1(drawn: list[Drawn]) -> None:
    train_pixels, train_names, _ = crops(drawn[:NUM_TRAIN])
    val_pixels, val_names, _ = crops(drawn[NUM_TRAIN:])
    for c in (1e-4, 1e-3, 1e-2, 1e-1):
        model = make_pipeline(StandardScaler(), PCA(200, random_state=0), LogisticRegression(C=c, max_iter=1000))
        found = model.fit(train_pixels, train_names).predict(val_pixels)
        assert f1_score(val_names, found, average='macro') < 0.80


@pytest.mark.parametrize('class_weight', [None, 'balanced'])
def test_logistic_regression_on_box_size_stays_below_080_macro_f1(drawn: list[Drawn], class_weight: str | None) -> None:
    _, train_names, train_sizes = crops(drawn[:NUM_TRAIN])
    _, val_names, val_sizes = crops(drawn[NUM_TRAIN:])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=10, max_iter=1000, class_weight=class_weight))
    found = model.fit(train_sizes, train_names).predict(val_sizes)
    assert f1_score(val_names, found, average='macro') < 0.80
