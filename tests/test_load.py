"""Long work and large data: memory stays flat over thousands of steps, and bounded over a hundred thousand crops."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flir_writer import FlirWriter
from torch.utils.data import DataLoader

import timm_convattn.training.finetune
from timm_convattn.config import parse_config
from timm_convattn.data.augment import Augment, AugmentAmounts, Normalize
from timm_convattn.data.samplers import EpochSampler
from timm_convattn.data.sources import open_crops
from timm_convattn.data.store import identity_collate, open_store
from timm_convattn.training.finetune import finetune
from timm_convattn.training.loop import Training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='memory is read from /proc'),
]


def resident():
    """Memory of this process, in bytes."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def batches(crops, normalize):
    """Batches without end, as training makes them."""
    stored = open_store(crops, (32, 32))
    sampler = EpochSampler(len(stored), seed=0)
    loader = DataLoader(stored, batch_size=8, sampler=sampler, collate_fn=identity_collate, generator=torch.Generator())
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        for pixels, labels, indices in loader:
            yield normalize(pixels, indices, epoch), labels


def growth(steps, warm_up):
    """Take steps; give how much memory grew after the first ones, as a share."""
    for _ in itertools.islice(steps, warm_up):
        pass
    before = resident()
    for _ in steps:
        pass
    return resident() / before - 1


@pytest.fixture(scope='module')
def endless(tiny_crops):
    normalize = Normalize((0.4,), (0.2,), Augment(AugmentAmounts(rotation=10, hflip=0.5, shear=10), seed=0))
    return lambda: batches(open_crops(str(tiny_crops), ('train',))['train'], normalize)


def test_memory_is_flat_over_ten_thousand_steps_of_input(endless):
    assert growth(itertools.islice(endless(), 10_000), warm_up=1_000) < 0.02


def test_memory_is_flat_over_five_hundred_steps_of_the_training_loop(tiny_crops, tmp_path, monkeypatch):
    seen = []

    class Watched(Training):
        def _finish_epoch(self):
            super()._finish_epoch()
            seen.append((self.progress.step, resident()))

    monkeypatch.setattr(timm_convattn.training.finetune, 'Training', Watched)
    options = ['--model', 'convattn', '--model-args', 'backbone=test_resnet', '--in-chans', '1', '--img-size', '32']
    options += ['--batch-size', '8', '--epochs', '167', '--ema', '--clip-grad', '1', '--threads', '1']
    options += ['--evaluate-every', '10', '--checkpoint-every', '20', '--data', str(tiny_crops)]
    run = finetune(parse_config([*options, '--output', str(tmp_path / 'run')]))
    assert len(list((run / 'checkpoints').iterdir())) == 2
    assert seen[-1][0] == 501
    before = next(memory for step, memory in seen if step > 120)  # two checkpoints and four evaluations
    assert seen[-1][1] / before - 1 < 0.02


PEAK = """
import pathlib, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
lines = pathlib.Path('/proc/self/status').read_text().splitlines()
print(1024 * int(next(line.split()[1] for line in lines if line.startswith('VmHWM'))))
"""


def peak(root, script, *args):
    """Run a script; give the most memory that it had."""
    command = [sys.executable, '-c', PEAK, str(root / 'train_scripts' / script), *map(str, args)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout.split()[-1])


def write_frames(folder, num_frames, boxes_per_frame):
    """A FLIR folder of one image under many names."""
    writer = FlirWriter(folder, size=(640, 512))
    boxes = [('person' if i % 2 else 'car', [6 * (i % 100), 20 + i % 7, 24, 30]) for i in range(boxes_per_frame)]
    writer.split('val', [boxes[:50]])
    coco = writer.split('train', [boxes])
    first = writer.frames('train')[0]
    image, objects = coco['images'][0], list(coco['annotations'])
    for index in range(1, num_frames):
        name = f'{first.stem[:-5]}{index + 10:05d}{first.suffix}'
        os.link(first, first.with_name(name))
        coco['images'].append({**image, 'id': index, 'file_name': f'{first.parent.name}/{name}'})
        coco['annotations'] += [{**entry, 'image_id': index} for entry in objects]
    writer.write('train', coco)
    return writer.folder


def test_100_000_crops_build_and_train_in_the_memory_of_10_000(root, tmp_path):
    peaks = {}
    for frames in (100, 1_000):
        folder = tmp_path / str(frames)
        flir = write_frames(folder / 'flir', frames, boxes_per_frame=100)
        built = peak(root, 'build_dataset.py', '--flir-root', flir, '--out', folder / 'crops')
        model = ['--model', 'test_vit', '--img-size', 32, '--in-chans', 1, '--batch-size', 1_000, '--threads', 1]
        epochs = ['--epochs', 1, '--hflip', 0, '--rotation', 0, '--shear', 0]
        run = folder / 'run'
        trained = peak(root, 'finetune.py', '--data', folder / 'crops', '--output', run, *model, *epochs)
        peaks[frames] = (built, trained)
        assert sum(json.loads((run / 'results.json').read_text())['training']['crops'].values()) == 100 * frames
    # 90,000 crops more: their PNGs are 70 MB, their pixels at 32 x 32 are 92 MB, both mapped files that count while
    # they are read
    built, trained = (more - few for more, few in zip(peaks[1_000], peaks[100], strict=True))
    assert built < 150e6, peaks
    assert trained < 350e6, peaks
