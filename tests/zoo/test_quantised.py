import pytest
import torch
from torch.testing import assert_close

from margincons.attacks.steps import input_gradient
from margincons.data import load_images
from margincons.zoo import load_model
from margincons.zoo.quantised import Quantised, quantise


@pytest.fixture
def blurred():
    images = load_images("digits", n=20)
    noise = 0.1 * torch.rand(images.inputs.shape, generator=torch.Generator().manual_seed(0))
    return (images.inputs + noise).clamp(0, 1), images.labels


@pytest.mark.parametrize("levels", [2, 5, 17])
def test_every_pixel_becomes_the_nearest_level(blurred, levels):
    inputs, _ = blurred
    grid = torch.linspace(0, 1, levels)
    nearest = grid[(inputs[..., None] - grid).abs().argmin(dim=-1)]
    assert_close(quantise(inputs, levels), nearest)


def test_the_grid_on_which_the_digits_are_stored_leaves_them_alone():
    inputs = load_images("digits").inputs
    assert torch.equal(quantise(inputs, 17), inputs)


def test_the_defence_has_no_gradient_and_its_bypass_that_of_the_network_at_the_rounded_pixels(blurred):
    inputs, labels = blurred
    network = load_model("digits/standard")
    assert not input_gradient(Quantised(network, levels=5), inputs, labels).any()
    through = Quantised(network, levels=5, straight_through=True)
    assert_close(input_gradient(through, inputs, labels), input_gradient(network, quantise(inputs, 5), labels))


def test_the_bypass_computes_the_logits_of_the_defence_to_the_last_bit(blurred):
    inputs, _ = blurred
    network = load_model("digits/standard")
    plain, through = (Quantised(network, levels=9, straight_through=flag)(inputs) for flag in (False, True))
    assert torch.equal(plain, through)
