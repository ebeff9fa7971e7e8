"""Batches: pixels of the crops, their augmentation, and the order of the samples."""

import datasets
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from torchvision.transforms import ColorJitter, InterpolationMode, RandomAffine
from torchvision.transforms.v2 import functional as tvf

from timm_convattn.data.augment import Augment, AugmentAmounts, Normalize, affine_grid, affine_matrices, uniform
from timm_convattn.data.crop_images import CropImages, ResizeToPixels
from timm_convattn.data.samplers import BalancedSampler, EpochSampler

NOTHING = AugmentAmounts(hflip=0, rotation=0, shift=0, shear=0, zoom=0, brightness=0)


def crops_of(*sizes: tuple[int, int], mode: str = 'L') -> datasets.Dataset:
    rng = np.random.default_rng(0)
    channels = (3,) if mode == 'RGB' else ()
    images = [Image.fromarray(rng.integers(0, 256, (*size, *channels), dtype=np.uint8)) for size in sizes]
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.ClassLabel(names=['a', 'b'])})
    return datasets.Dataset.from_dict({'image': images, 'label': [0] * len(images)}, features=features)


@pytest.mark.parametrize('mode', ['L', 'RGB'])
@pytest.mark.parametrize('in_chans', [1, 3])
def test_pixels_without_augmentation_are_those_of_timms_evaluation(mode, in_chans):
    crops = crops_of((40, 20), (100, 130), (60, 60), mode=mode)
    config = {'input_size': (in_chans, 60, 48), 'interpolation': 'bilinear', 'crop_pct': 1.0, 'crop_mode': 'squash'}
    config |= {'mean': (0.4,) * in_chans, 'std': (0.2,) * in_chans}
    expected = CropImages(crops, timm.data.create_transform(**config), in_chans)
    ours = CropImages(crops, ResizeToPixels((60, 48)), in_chans)
    normalize = Normalize(config['mean'], config['std'])
    for index in range(len(crops)):
        pixels, label, same_index = ours[index]
        assert pixels.dtype == torch.uint8
        assert (label, same_index) == (0, index)
        batch = normalize(pixels[None], torch.tensor([index]), epoch=0)
        torch.testing.assert_close(batch[0], expected[index][0])


@pytest.mark.parametrize(
    ('angle', 'translate', 'shear', 'scale'),
    [(20, (0, 0), 0, 1), (0, (6, -4), 0, 1), (0, (0, 0), 15, 1), (0, (0, 0), 0, 1.3), (20, (6, -4), -12, 0.8)],
)
def test_affine_matrices_agree_with_torchvisions_affine(angle, translate, shear, scale):
    torch.manual_seed(0)
    images = torch.rand(1, 2, 40, 60)
    matrices = affine_matrices(
        flip=torch.tensor([False]),
        angle=torch.tensor([float(angle)]),
        translate=torch.tensor([[translate[0] / 60, translate[1] / 40]]),
        shear=torch.tensor([float(shear)]),
        scale=torch.tensor([float(scale)]),
        size=(40, 60),
    )
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    ours = F.grid_sample(images, grid, padding_mode='zeros', align_corners=False)
    theirs = tvf.affine(
        images,
        angle=angle,
        translate=list(translate),
        scale=scale,
        shear=[shear, 0],
        interpolation=InterpolationMode.BILINEAR,
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_affine_grid_is_that_of_torch():
    matrices = torch.randn(5, 2, 3)
    expected = F.affine_grid(matrices, [5, 1, 9, 14], align_corners=False)
    found = affine_grid(matrices, (9, 14))
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_parameters_are_distributed_as_those_of_torchvision():
    amounts, side = AugmentAmounts(rotation=12.0, shift=0.2, shear=7.0, zoom=0.3, brightness=0.4), 10_000
    drawn = Augment(amounts, seed=0).draw(torch.arange(4000), epoch=1)
    torch.manual_seed(0)
    affine = [RandomAffine.get_params([-12, 12], [0.2, 0.2], [0.7, 1.3], [-7, 7], [side, side]) for _ in range(4000)]
    jitter = [ColorJitter.get_params([0.6, 1.4], None, None, None)[1] for _ in range(4000)]
    columns = {
        'angle': (drawn.angle, [angle for angle, *_ in affine]),
        'shift to the right': (drawn.translate[:, 0], [shift[0] / side for _, shift, *_ in affine]),
        'shift down': (drawn.translate[:, 1], [shift[1] / side for _, shift, *_ in affine]),
        'zoom': (drawn.scale, [scale for _, _, scale, _ in affine]),
        'shear': (drawn.shear, [shear[0] for *_, shear in affine]),
        'brightness': (drawn.brightness, jitter),
    }
    for name, (ours, theirs) in columns.items():
        assert stats.ks_2samp(ours.numpy(), theirs).pvalue > 0.01, name
    assert stats.binomtest(int(drawn.flip.sum()), 4000, amounts.hflip).pvalue > 0.01


def test_flip_mirrors_the_image():
    images = torch.rand(64, 1, 8, 10)
    augment = Augment(AugmentAmounts(hflip=0.5, rotation=0, shift=0, shear=0, zoom=0, brightness=0), seed=0)
    out = augment(images, torch.arange(64), epoch=0)
    flipped = torch.tensor([torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(out, images, strict=True)])
    same = torch.tensor([torch.allclose(a, b, atol=1e-5) for a, b in zip(out, images, strict=True)])
    assert (flipped ^ same).all()
    assert 16 < flipped.sum() < 48


def test_amounts_of_zero_change_nothing():
    images = torch.rand(4, 3, 9, 9)
    torch.testing.assert_close(Augment(NOTHING, seed=0)(images, torch.arange(4), epoch=3), images)


def test_brightness_is_a_factor_within_its_bounds_and_stays_in_range():
    augment = Augment(AugmentAmounts(hflip=0, rotation=0, shift=0, shear=0, zoom=0, brightness=0.2), seed=0)
    factors = augment(torch.full((2000, 1, 1, 1), 0.5), torch.arange(2000), epoch=0).flatten() / 0.5
    assert 0.8 <= factors.min() < 0.81
    assert 1.19 < factors.max() <= 1.2
    assert augment(torch.ones(100, 1, 1, 1), torch.arange(100), epoch=0).max() == 1


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    images = torch.rand(8, 1, 20, 20)
    indices = torch.tensor([5, 3, 100, 7, 0, 1, 2, 99])
    whole = Augment(AugmentAmounts(), seed=1)(images, indices, epoch=2)
    order = torch.tensor([3, 1, 0])
    part = Augment(AugmentAmounts(), seed=1)(images[order], indices[order], epoch=2)
    assert torch.equal(part, whole[order])
    assert not torch.equal(Augment(AugmentAmounts(), seed=1)(images, indices, epoch=3), whole)
    assert not torch.equal(Augment(AugmentAmounts(), seed=2)(images, indices, epoch=2), whole)


def test_uniform_numbers_are_uniform_and_independent():
    numbers = uniform(seed=0, epoch=0, indices=np.arange(20_000), count=7)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.01
    assert np.abs(numbers.var(0) - 1 / 12).max() < 0.003
    other_epoch = uniform(seed=0, epoch=1, indices=np.arange(20_000), count=7)
    columns = np.concatenate([numbers[1:], numbers[:-1], other_epoch[:-1]], axis=1)
    correlation = np.corrcoef(columns.T) - np.eye(21)
    assert np.abs(correlation).max() < 0.03


def test_order_depends_on_seed_and_epoch_and_has_each_index_once():
    sampler, other = EpochSampler(100, seed=0), EpochSampler(100, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(100))
    assert list(sampler) == first
    assert list(other) != first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_balanced_order_has_each_class_equally_often_and_other_indices():
    labels = [0] * 70 + [1] * 20 + [3] * 10
    sampler = BalancedSampler(labels, seed=3)
    order = np.array(list(sampler))
    assert len(order) == len(sampler) == 100
    assert np.bincount(np.array(labels)[order % 100]).tolist() in ([33, 34, 0, 33], [33, 33, 0, 34], [34, 33, 0, 33])
    assert len(set(order)) == 100  # a repeated crop is augmented differently
    rare = order[np.array(labels)[order % 100] == 3]
    assert set(np.bincount(rare % 100)[90:]) <= {3, 4}  # each is drawn before one is repeated
    assert set(rare // 100) == {0, 1, 2, 3}
    assert list(sampler) == order.tolist()
    sampler.set_epoch(1)
    assert list(sampler) != order.tolist()


def test_index_past_the_last_crop_wraps_around():
    crops = crops_of((40, 20), (30, 30), (20, 50))
    images = CropImages(crops, ResizeToPixels((24, 24)), in_chans=1)
    pixels, label, index = images[7]
    assert torch.equal(pixels, images[1][0])
    assert (label, index) == (images[1][1], 7)
