import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from flir_writer import FlirWriter
from PIL import Image

from timm_convattn.inference import Classifier, load_classifier


def test_the_table_has_every_image_sorted_and_other_files_are_named(cli, model_folder, images):
    done = cli('predict', model_folder, images, '--threads', 1)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split()[:3] == ['image', 'answer', 'confidence']
    assert [row.split()[0] for row in rows] == [str(images / name) for name in ('a.png', 'b.png', 'deep/c.jpg')]
    assert len({row.index(row.split()[1]) for row in rows}) == 1  # aligned
    assert f'skipped, not images (1): {images / "notes.txt"}' in done.stderr
    assert '3 classified' in done.stderr


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('batch_size', [1, 2, 64])
def test_json_equals_the_classifier_for_any_batches_and_threads(cli, model_folder, images, threads, batch_size):
    options = ['--json', '--top', 2, '--threads', threads, '--batch-size', batch_size]
    done = cli('predict', f'local-dir:{model_folder}', images / 'b.png', images / 'deep', *options)
    classifier = load_classifier(str(model_folder))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    paths = [images / 'b.png', images / 'deep' / 'c.jpg']
    assert [record['image'] for record in records] == [str(path) for path in paths]
    for record, prediction in zip(records, classifier.classify([classifier.open(path) for path in paths]), strict=True):
        assert record['label'] == prediction.label
        assert record['is_answered']
        assert record['confidence'] == pytest.approx(prediction.confidence, abs=2e-6)
        assert list(record['top']) == [name for name, _ in prediction.top(2)]


def test_rejected_images_are_marked_in_every_format(cli, model_folder, images):
    command = ['predict', model_folder, images, '--reject-at', '0.05', '--threads', 1]
    records = [json.loads(line) for line in cli(*command, '--json').stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(cli(*command, '--csv').stdout)))
    table = cli(*command)
    threshold = load_classifier(str(model_folder), reject_at=0.05).threshold
    assert threshold > 0.5
    sure = [record['confidence'] >= threshold for record in records]
    assert not all(sure)
    for answered, record, row, line in zip(sure, records, rows, table.stdout.splitlines()[1:], strict=True):
        assert record['is_answered'] is answered
        assert (record['label'] is not None) is answered
        assert row['is_answered'] == str(answered).lower()
        assert (row['label'] == '') is not answered
        assert ('rejected' in line) is not answered
        assert row['class_1'] == next(iter(record['top']))
    assert f'{sure.count(False)} rejected with a confidence below {threshold:.3f}' in table.stderr


@pytest.fixture
def frames(tmp_path):
    writer = FlirWriter(tmp_path / 'flir', size=(64, 48))
    boxes = [('person', [2, 2, 20, 30]), ('car', [30, 10, 40, 20]), ('dog', [100, 100, 5, 5])]
    writer.split('val', [boxes, [], [('bicycle', [0, 0, 10, 10])]])
    return writer.folder / 'val' / 'thermal_annotations.json', writer.frames('val')


def test_each_box_of_the_named_frame_is_classified_as_its_crop(cli, model_folder, frames):
    annotations, paths = frames
    done = cli('predict', model_folder, paths[0], '--boxes', annotations, '--json', '--threads', 1)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record['box'], record['category']) for record in records] == [
        ([2, 2, 20, 30], 'person'),
        ([30, 10, 34, 20], 'car'),  # clipped
    ]
    assert 'box outside its frame (1)' in done.stderr
    classifier = load_classifier(str(model_folder))
    crop = classifier.open(paths[0]).crop((30, 10, 64, 30))
    assert records[1]['confidence'] == pytest.approx(classifier.classify([crop])[0].confidence, abs=2e-6)


def test_without_paths_all_boxes_are_classified_and_csv_has_positions(cli, model_folder, frames):
    annotations, paths = frames
    done = cli('predict', model_folder, '--boxes', annotations, '--csv', '--threads', 1)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row['category'] for row in rows] == ['person', 'car', 'bicycle']
    assert [rows[1][key] for key in 'xywh'] == ['30', '10', '34', '20']
    nothing = cli('predict', model_folder, paths[1], '--boxes', annotations)
    assert nothing.returncode == 1
    assert 'has no box of' in nothing.stderr


def test_broken_files_are_reported_and_the_others_classified(cli, model_folder, images, tmp_path):
    (tmp_path / 'broken.png').write_bytes((images / 'a.png').read_bytes()[:60])
    Image.fromarray(np.full((8, 9), 30_000, np.uint16)).save(tmp_path / 'counts.tiff')
    Image.new('L', (9_000, 8_000)).save(tmp_path / 'bomb.png')
    (tmp_path / 'good.png').write_bytes((images / 'a.png').read_bytes())
    done = cli('predict', model_folder, tmp_path, '--threads', 1)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert 'broken.png cannot be decoded' in done.stderr
    assert 'counts.tiff has 16 bits. Scale it to 8 bits with --bits 16.' in done.stderr
    assert 'bomb.png has more than 64000000 pixels' in done.stderr
    assert '3 files could not be decoded' in done.stderr
    assert cli('predict', model_folder, tmp_path / 'counts.tiff', '--bits', 16, '--threads', 1).returncode == 0


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['resnet18x', 'IMAGES'], "There is no model 'resnet18x'. Did you mean"),
        (['aresnet50_relmha', 'IMAGES'], 'is not trained'),
        (['/nowhere', 'IMAGES'], "There is no model '/nowhere'"),
        (['IMAGES', 'IMAGES'], 'holds no model: it has no config.json'),
        (['MODEL', '/nowhere.png'], 'There is no file or folder /nowhere.png'),
        (['MODEL', 'EMPTY'], 'holds no images'),
        (['MODEL'], 'There is nothing to classify'),
        (['MODEL', 'IMAGES', '--top', '0'], '--top is 0'),
        (['MODEL', 'IMAGES', '--json', '--csv'], 'Use one of them'),
        (['MODEL', 'IMAGES', '--reject-at', '7'], 'target error rate is 7.0'),
        (['MODEL', 'IMAGES', '--device', 'toaster'], 'toaster cannot be used here'),
        (['MODEL', 'IMAGES', '--percentiles', '9', '1'], 'The percentiles are 9.0 and 1.0'),
        (['MODEL', 'IMAGES', '--boxes', '/nowhere.json'], 'There is no file /nowhere.json'),
    ],
)
def test_invalid_input_is_reported_in_one_line(cli, model_folder, images, tmp_path, args, message):
    (tmp_path / 'empty').mkdir()
    paths = {'MODEL': model_folder, 'IMAGES': images, 'EMPTY': tmp_path / 'empty'}
    done = cli('predict', *(paths.get(arg, arg) for arg in args))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith('error: ')
    assert message in last
    assert done.stdout == ''


@pytest.mark.slow
def test_a_closed_pipe_ends_without_a_traceback(root, model_folder, images):
    command = [sys.executable, '-m', 'timm_convattn_cli', 'predict', model_folder, *[images] * 3, '--threads', '1']
    read, write = os.pipe()
    os.close(read)  # as `| head` does when it has seen enough
    finished = subprocess.run([*map(str, command)], cwd=root, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert finished.returncode == 141
    assert b'Traceback' not in finished.stderr
    assert b'Exception ignored' not in finished.stderr


def test_ctrl_c_ends_with_status_130(cli, model_folder, images, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, 'classify_batch', stopped)
    done = cli('predict', model_folder, images)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == 'stopped'
