"""Local complexity against networks whose hyperplanes are known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from margincons.errors import UnsupportedLayerError, UsageError
from margincons.studies.local_complexity import local_complexity, random_frame, relu_count
from margincons.zoo import load_model


def one_hidden_layer(weight, bias):
    hidden = nn.Linear(weight.shape[1], len(weight))
    hidden.weight, hidden.bias = nn.Parameter(weight), nn.Parameter(bias)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(len(weight), 2)).double()


@settings(deadline=None)
@given(dimension=st.integers(2, 20), data=st.data())
def test_a_frame_is_orthonormal_and_comes_again_with_its_seed(dimension, data):
    directions = data.draw(st.integers(1, dimension))
    frame = random_frame(dimension, directions, seed=3)
    assert_close(frame @ frame.T, torch.eye(directions), atol=1e-5, rtol=0)
    assert torch.equal(frame, random_frame(dimension, directions, seed=3))
    assert not torch.equal(frame, random_frame(dimension, directions, seed=4))


def test_a_direction_and_its_opposite_are_drawn_equally_often():
    firsts = torch.stack([random_frame(4, 4, seed=seed) for seed in range(400)])
    assert firsts.mean(dim=0).abs().max() < 4 * 0.5 / 400**0.5  # each entry has variance 1/4


@settings(deadline=None)
@given(seed=st.integers(0, 200), radius=st.floats(0.01, 2))
def test_in_one_hidden_layer_it_counts_the_hyperplanes_that_cut_the_polytope(seed, radius):
    draw = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(30, 6, generator=draw).double(), torch.randn(30, generator=draw).double()
    images = torch.rand(5, 1, 2, 3, generator=draw).double()
    frame = random_frame(6, 4, seed=seed).double()
    # A hyperplane w.x + b = 0 cuts conv{x +- r v} exactly where |w.x + b| < r max |w.v|.
    reach = radius * (weight @ frame.T).abs().amax(dim=1)
    expected = ((images.flatten(1) @ weight.T + bias).abs() < reach).sum(dim=1)
    model = one_hidden_layer(weight, bias)
    assert_close(local_complexity(model, images, radius=radius, directions=4, seed=seed, batch_size=2), expected)
    assert relu_count(model, images[:1]) == 30


def test_a_hyperplane_through_an_image_always_counts_and_one_beyond_the_ball_never():
    weight = torch.randn(10, 9, generator=torch.Generator().manual_seed(0)).double()
    weight /= weight.norm(dim=1, keepdim=True)
    images = torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64)
    at_image = -(weight @ images.flatten())
    assert local_complexity(one_hidden_layer(weight, at_image), images, radius=0.01, directions=9).item() == 10
    assert local_complexity(one_hidden_layer(weight, at_image + 0.011), images, radius=0.01, directions=9).item() == 0


def test_it_grows_with_the_radius_up_to_all_relus_and_keeps_the_order_of_images():
    model, images = load_model("digits/pgd_at"), torch.rand(7, 1, 8, 8)
    total = relu_count(model, images[:1])
    assert total == 16 * 64 + 32 * 16 + 64
    before = torch.zeros(7, dtype=torch.int64)
    for radius in (0.01, 0.1, 1.0):
        counts = local_complexity(model, images, radius=radius)
        assert (before <= counts).all()
        assert (counts <= total).all()
        before = counts
    assert_close(local_complexity(model, images.flip(0), radius=1.0, batch_size=3), before.flip(0))


def test_no_bend_is_found_in_a_network_that_is_linear_there():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(inplace=True))
    for layer in (model[1], model[3]):
        nn.init.constant_(layer.bias, 100.0)
    images = torch.rand(3, 1, 2, 2)
    assert local_complexity(model, images, radius=0.1, directions=4).tolist() == [0, 0, 0]


def test_what_cannot_be_counted_is_refused():
    class Functional(nn.Module):
        def forward(self, inputs):
            return functional.relu(inputs.flatten(1))

    images = torch.rand(2, 1, 2, 2)
    with pytest.raises(UnsupportedLayerError, match=r"it runs no torch\.nn\.ReLU"):
        local_complexity(Functional(), images, radius=0.1, directions=2)
    with pytest.raises(UsageError, match="Expected a radius above 0, got 0"):
        local_complexity(load_model("digits/mlp"), images, radius=0.0)
    with pytest.raises(UsageError, match="Expected 1 to 4 directions in 4 dimensions, got 5"):
        local_complexity(Functional(), images, radius=0.1, directions=5)
