"""Non-finite losses, precisions, and reproducibility."""

import json
from contextlib import contextmanager

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from test_survival import state

import timm_convattn.training.finetune
from timm_convattn.data.augment import Normalize
from timm_convattn.data.samplers import EpochSampler
from timm_convattn.errors import InputError
from timm_convattn.layers import RelMha2d
from timm_convattn.training.finetune import finetune
from timm_convattn.training.loss_watch import LossWatch


@pytest.mark.parametrize('poison', [float('nan'), float('inf')])
def test_non_finite_loss_stops_the_run_and_keeps_earlier_checkpoints(tiny_config, tmp_path, monkeypatch, poison):
    original, seen = Normalize.__call__, []

    def poisoned(self, pixels, indices, epoch):
        images = original(self, pixels, indices, epoch)
        if epoch == 1:
            seen.append(indices.tolist())
            if len(seen) == 2:
                images[3] = poison
        return images

    monkeypatch.setattr(Normalize, '__call__', poisoned)
    with pytest.raises(InputError) as stopped:
        finetune(tiny_config('--model', 'resnet10t', '--schedule', 'constant', '--epochs', '3'))
    said = str(stopped.value)
    assert said.startswith('The loss is nan at step 5, at a learning rate of 0.001, on the training crops ')
    assert f'crops {", ".join(map(str, seen[1]))}. Lower --lr' in said
    assert [path.name for path in (tmp_path / 'run' / 'checkpoints').iterdir()] == ['epoch_0001_batch_000000']
    assert len((tmp_path / 'run' / 'log.jsonl').read_text().splitlines()) == 1


def test_training_that_diverges_is_stopped(tiny_config):
    options = ['--optimizer', 'momentum', '--lr', '1e30', '--schedule', 'constant']
    with pytest.raises(
        InputError, match=r'The loss is (nan|inf) at step \d+, at a learning rate of 1e\+30, .* There is no check'
    ):
        finetune(tiny_config('--model', 'resnet10t', *options))


def test_losses_on_a_gpu_are_checked_in_groups_and_at_the_end_of_an_epoch(tmp_path):
    watch = LossWatch(tmp_path, torch.device('cuda'))
    for step in range(30):
        watch.add(torch.tensor(1.0), torch.tensor([step]), step, 0.1)
    watch.add(torch.tensor(float('inf')), torch.tensor([7, 8]), 30, 0.1)
    with pytest.raises(InputError, match=r'is inf at step 31, .* on the training crops 7, 8\.'):
        watch.check()
    watch.check()


LEARNABLE = ['--model', 'resnet10t', '--epochs', '12', '--hflip', '0', '--rotation', '0', '--shear', '0']


@pytest.mark.parametrize('precision', ['no', 'bf16'])
def test_both_precisions_learn(tiny_config, precision):
    run = finetune(tiny_config(*LEARNABLE, '--mixed-precision', precision))
    assert json.loads((run / 'results.json').read_text())['metrics']['macro_f1'] > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
def test_fp16_learns_with_scaled_gradients(tiny_config):
    run = finetune(tiny_config(*LEARNABLE, '--mixed-precision', 'fp16'))
    assert json.loads((run / 'results.json').read_text())['metrics']['macro_f1'] > 0.9
    scales = [torch.load(path)['scale'] for path in run.glob('checkpoints/*/scaler.pt')]
    assert len(scales) == 2 and min(scales) > 1


@pytest.fixture
def half_on_cpu(monkeypatch):
    """accelerate with float16 and its gradient scaler on the CPU, where it offers neither, to test the loop."""

    def create(config, folder):
        accelerator = Accelerator(mixed_precision='fp16', project_dir=folder)
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler('cpu', init_scale=2.0**30)
        return accelerator

    monkeypatch.setattr(timm_convattn.training.finetune, 'create_accelerator', create)


@pytest.mark.slow
def test_float16_learns_although_the_first_scales_are_too_large(tiny_config, half_on_cpu):
    types = set()
    config = tiny_config(*LEARNABLE, '--model', 'convattn', '--model-args', 'backbone=resnet10t')
    with watch_outputs(RelMha2d, types):
        run = finetune(config)
    assert types == {torch.float16, torch.float32}  # training and evaluation
    assert json.loads((run / 'results.json').read_text())['metrics']['macro_f1'] > 0.9
    newest = max((run / 'checkpoints').iterdir())
    scale = torch.load(newest / 'scaler.pt')['scale']
    assert 1 < scale < 2.0**30  # halved whenever gradients overflowed
    assert all(value.isfinite().all() for value in load_file(newest / 'model.safetensors').values())


@contextmanager
def watch_outputs(kind, types):
    """Record the types of the outputs of modules of a class."""

    def note(module, args, output):
        if isinstance(module, kind):
            types.add(output.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_fp16_without_a_gpu_is_refused_instead_of_being_float32(tiny_config, tmp_path):
    with pytest.raises(InputError, match=r'fp16 needs a GPU, this run has a cpu. Use --mixed-precision bf16'):
        finetune(tiny_config('--mixed-precision', 'fp16'))
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('args', [['--batch-size', '1'], ['--limit-train', '1']])
def test_batches_of_one_crop_need_a_map_of_several_positions(tiny_config, tmp_path, args):
    with pytest.raises(InputError, match=r'cannot train on batches of one crop: .*larger batch or image'):
        finetune(tiny_config('--model', 'convattn', '--model-args', 'backbone=resnet10t', *args))
    assert not (tmp_path / 'run').exists()
    args = ['--model', 'resnet10t', '--img-size', '64', '--epochs', '1', *args, '--limit-train', '1']
    assert (finetune(tiny_config(*args)) / 'results.json').exists()


def test_two_runs_of_one_command_are_equal(tiny_config):
    args = ['--model', 'convattn', '--model-args', 'backbone=resnet10t', 'attn_drop=0.1', '--ema', '--drop-rate', '0.2']
    first, second = (state(finetune(tiny_config(*args, output=name))) for name in ('first', 'second'))
    for part in first:
        assert first[part] == second[part], part


def test_order_of_the_crops_depends_on_seed_and_epoch_alone():
    def order(seed, epoch, epochs_before=0):
        sampler = EpochSampler(100, seed)
        for past in range(epochs_before):
            sampler.set_epoch(past)
            list(sampler)
        torch.manual_seed(epochs_before)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 5) == order(3, 5, epochs_before=4)
    assert sorted(order(3, 5)) == list(range(100))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
