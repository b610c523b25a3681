"""Shifts of images against SciPy, pooling, rolling and closed forms; draws that belong to an image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from torch.nn import functional
from torch.testing import assert_close

from margincons.data import load_images
from margincons.data.shifts import OCCLUDER, SHIFTS, shift
from margincons.errors import PixelRangeError, ShapeError, UnknownNameError, UsageError

SIZES = st.sampled_from([(1, 1, 8, 8), (3, 3, 32, 32), (2, 3, 9, 14)])
DRAWN = ["noise", "translation", "occlusion"]


def some_images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SHIFTS)
@given(size=SIZES, severity=st.integers(0, 3), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_images_of_any_size_stay_images_and_severity_0_leaves_them_alone(name, size, severity, seed):
    inputs = some_images(*size, seed=seed)
    kept = inputs.clone()
    shifted = shift(inputs, severity, name=name, seed=seed)
    assert shifted.shape == size
    assert shifted.dtype == inputs.dtype
    assert shifted.min() >= 0
    assert shifted.max() <= 1
    assert_close(inputs, kept, rtol=0, atol=0)  # nothing is changed in place
    assert torch.equal(shifted, inputs) == (severity == 0)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shifted_image_is_the_same_in_every_batch_and_order(name):
    inputs, indices = some_images(12, 3, 10, 10), torch.arange(100, 112)
    whole = shift(inputs, 2, name=name, seed=3, indices=indices)
    some = torch.tensor([7, 2, 11])
    assert_close(shift(inputs[some], 2, name=name, seed=3, indices=indices[some]), whole[some], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SHIFTS)
def test_only_what_is_drawn_changes_with_the_seed_and_with_the_image(name):
    inputs = some_images(1, 1, 8, 8).expand(40, 1, 8, 8)
    shifted = shift(inputs, 1, name=name, seed=0)
    assert torch.equal(shifted, shift(inputs, 1, name=name, seed=1)) == (name not in DRAWN)
    assert torch.allclose(shifted, shifted[:1], atol=1e-6) == (name not in DRAWN)


@pytest.mark.parametrize("name", SHIFTS)
def test_no_images_stay_none_and_a_severity_may_be_a_float(name):
    inputs = some_images(2, 1, 8, 8)
    assert shift(inputs[:0], 1, name=name).shape == (0, 1, 8, 8)
    assert torch.equal(shift(inputs, 2.0, name=name), shift(inputs, 2, name=name))


@pytest.mark.parametrize("name", SHIFTS)
def test_a_higher_severity_moves_digits_further(name):
    inputs = load_images("digits", n=200).inputs
    moved = [float((shift(inputs, severity, name=name) - inputs).norm()) for severity in (0, 1, 2, 3)]
    assert moved == sorted(set(moved))


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_noise_is_normal_with_the_stated_deviation_where_the_range_leaves_room(severity):
    inputs = torch.full((400, 1, 8, 8), 0.5)
    deviation = SHIFTS["noise"].strengths[severity - 1]
    drawn = SHIFTS["noise"].apply(inputs, deviation, seed=0, indices=torch.arange(400)) - inputs
    assert stats.kstest(drawn.flatten().numpy(), stats.norm(0, deviation).cdf).pvalue > 0.01
    assert stats.kstest(drawn.flatten().numpy(), stats.norm(0, 1.05 * deviation).cdf).pvalue < 0.01
    assert_close(shift(inputs, severity, name="noise"), (inputs + drawn).clamp(0, 1), rtol=0, atol=0)


@pytest.mark.parametrize(("severity", "kept"), [(1, 0.75), (2, 0.5), (3, 0.25)])
def test_contrast_keeps_each_mean_and_shrinks_each_deviation_by_the_stated_share(severity, kept):
    inputs = some_images(5, 3, 8, 8)
    shifted = shift(inputs, severity, name="contrast")
    assert_close(shifted.mean(dim=(1, 2, 3)), inputs.mean(dim=(1, 2, 3)))
    assert_close(shifted.std(dim=(1, 2, 3)), kept * inputs.std(dim=(1, 2, 3)))


def test_brightness_adds_its_strength_and_stops_at_white():
    inputs = torch.tensor([0.0, 0.5, 0.95]).view(1, 1, 1, 3)
    assert_close(shift(inputs, 1, name="brightness"), torch.tensor([0.1, 0.6, 1.0]).view(1, 1, 1, 3))


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_blur_is_scipys_gaussian_filter(severity):
    inputs = some_images(3, 3, 8, 11)
    deviation = SHIFTS["blur"].strengths[severity - 1]
    scipys = ndimage.gaussian_filter(inputs.double().numpy(), deviation, axes=(2, 3), mode="nearest")
    assert_close(shift(inputs, severity, name="blur"), torch.from_numpy(scipys).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grey", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["blur", "low_resolution", "translation", "contrast"])
def test_what_moves_or_averages_pixels_leaves_a_constant_image_alone(name, grey):
    inputs = torch.full((4, 3, 8, 8), grey)
    assert_close(shift(inputs, 3, name=name), inputs)


def test_low_resolution_is_pooling_and_repetition_where_the_factor_divides_the_side():
    for side in (8, 32):
        inputs = some_images(3, 3, side, side)
        expected = functional.avg_pool2d(inputs, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        assert_close(shift(inputs, 2, name="low_resolution"), expected)
    sides = {len(shift(some_images(1, 1, 8, 8), s, name="low_resolution").unique()) for s in (1, 2, 3)}
    assert sides == {25, 16, 9}  # 5, 4 and 3 pixels a side


@pytest.mark.parametrize("pixels", [1, 2, 3])
def test_translation_is_a_roll_in_one_of_four_directions_with_the_edge_repeated_behind_it(pixels):
    inputs = some_images(400, 1, 8, 9)
    shifted, taken = shift(inputs, pixels, name="translation"), []
    for image, moved in zip(inputs, shifted, strict=True):
        for number, (step, axis) in enumerate([(pixels, 1), (-pixels, 1), (pixels, 2), (-pixels, 2)]):
            side = image.shape[axis]
            sources = (torch.arange(side) - step).clamp(0, side - 1)
            inner = slice(step, None) if step > 0 else slice(None, step)
            if torch.equal(moved, image.index_select(axis, sources)):
                rolled = torch.roll(image, step, dims=axis)
                assert torch.equal(moved.movedim(axis, 0)[inner], rolled.movedim(axis, 0)[inner])
                taken.append(number)
    assert len(taken) == 400  # each in exactly one
    assert stats.chisquare(np.bincount(taken, minlength=4)).pvalue > 0.001  # directions equally likely


@pytest.mark.parametrize(("severity", "share"), [(1, 1 / 16), (2, 9 / 64), (3, 1 / 4)])
@pytest.mark.parametrize("side", [8, 32])
def test_occlusion_covers_one_square_of_the_stated_area_in_all_channels_and_reaches_every_corner(severity, share, side):
    inputs = 0.4 * some_images(600 if side == 8 else 20, 3, side, side)  # below the occluder's grey
    shifted = shift(inputs, severity, name="occlusion")
    covered = shifted == OCCLUDER
    assert (covered == covered[:, :1]).all()
    assert_close(covered.double().mean(dim=(1, 2, 3)), torch.full((len(inputs),), share).double())
    for mask in covered[:, 0]:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == round(share**0.5 * side)
    assert torch.equal(shifted[~covered], inputs[~covered])
    if side == 8:
        hit = covered[:, 0].any(dim=0)
        assert hit.all()


def test_what_cannot_be_meant_is_refused():
    inputs = some_images(2, 1, 8, 8)
    with pytest.raises(UnknownNameError, match="fog"):
        shift(inputs, 1, name="fog")
    for severity in (-1, 4):
        with pytest.raises(UsageError, match=f"severity from 0 to 3, got {severity}"):
            shift(inputs, severity, name="blur")
    for indices in ([0], [0, 1, 2]):
        with pytest.raises(ShapeError, match="indices"):
            shift(inputs, 1, name="blur", indices=torch.tensor(indices))
    with pytest.raises(PixelRangeError):
        shift(255 * inputs, 1, name="blur")
