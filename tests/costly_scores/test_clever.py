"""CLEVER against closed forms on linear networks, and samples against the ball they should fill."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.costly_scores import clever
from margincons.costly_scores.clever import clever_fits, gap_slopes, random_step
from margincons.costly_scores.reverse_weibull import EXCESS
from margincons.errors import PixelRangeError, ShapeError, UsageError
from margincons.passes import CountPasses
from margincons.threat import NORMS, vector_norm

DUAL = {"Linf": 1, "L2": 2, "L1": np.inf}
FEW = {"batches": 2, "samples": 2}


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double()


def distances(model, inputs, norm):
    """Distance to the nearest hyperplane, in numpy, (n,)."""
    weight, logits = model[1].weight.detach().numpy(), model(inputs).detach().numpy()
    found = []
    for values in logits:
        own = values.argmax()
        rivals = [rival for rival in range(5) if rival != own]
        apart = [np.linalg.norm(weight[own] - weight[rival], ord=DUAL[norm]) for rival in rivals]
        found.append(min((values[own] - values[rivals]) / apart))
    return torch.tensor(found)


@pytest.mark.parametrize("norm", NORMS)
def test_clever_of_a_linear_network_is_its_distance_to_the_nearest_hyperplane(norm):
    model, inputs = linear(), torch.rand(20, 3, 2, 2, dtype=torch.float64)
    exact = distances(model, inputs, norm)
    assert_close(clever(model, inputs, norm=norm, radius=100.0, **FEW), exact)
    radius = exact.median().item()
    assert_close(clever(model, inputs, norm=norm, radius=radius, **FEW), exact.clamp(max=radius))


def steepest_seen(network, inputs, classes, *, draws):
    """Largest slopes among the same random images, (n, rivals)."""
    options = {"radius": 0.5, "norm": "Linf", "seed": 0, "indices": torch.arange(len(inputs))}
    moved = [(inputs + random_step(inputs, draw=draw, **options)).clamp(0, 1) for draw in range(draws)]
    return torch.stack([gap_slopes(network, images, classes, norm="Linf") for images in moved]).amax(dim=0)


def test_the_constant_is_at_or_above_every_slope_that_was_sampled_and_the_passes_are_as_stated():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    model, inputs = CountPasses(network), torch.rand(30, 3, 2, 2, dtype=torch.float64)
    found = clever(model, inputs, norm="Linf", radius=0.5, batches=5, samples=3)
    assert (model.forward_images, model.backward_images) == (30 * (5 * 3 + 1), 30 * 5 * 3 * 3)
    top = network(inputs).topk(4, dim=1)
    slopes = steepest_seen(network, inputs, top.indices, draws=15)
    seen = ((top.values[:, :1] - top.values[:, 1:]) / slopes).amin(dim=1).clamp(max=0.5)
    assert (found <= seen + 1e-12).all()
    assert (found >= seen / 11).all()  # and at most ten ranges of the maxima above them


def test_fewer_rivals_reach_no_nearer_and_an_image_keeps_its_samples_in_any_batch():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    inputs = torch.rand(8, 3, 2, 2, dtype=torch.float64)
    whole = clever(network, inputs, norm="L2", radius=1.0, batches=4, samples=4)
    assert (clever(network, inputs, norm="L2", radius=1.0, batches=4, samples=4, rivals=1) >= whole).all()
    part = clever(network, inputs[5:], norm="L2", radius=1.0, batches=4, samples=4, indices=torch.arange(5, 8))
    assert_close(part, whole[5:])


@pytest.mark.parametrize("norm", NORMS)
def test_steps_fill_the_ball_evenly(norm):
    inputs = torch.zeros(4000, 1, 1, 3, dtype=torch.float64)
    steps = random_step(inputs, radius=2.0, norm=norm, seed=0, indices=torch.arange(4000), draw=3)
    sizes = vector_norm(steps, norm)
    assert sizes.max() <= 2 + 1e-6
    shares = (sizes / 2) ** 3  # of the volume within: uniform from 0 to 1
    assert_close(shares.mean(), torch.tensor(0.5, dtype=torch.float64), atol=0.02, rtol=0)
    assert_close(shares.var(), torch.tensor(1 / 12, dtype=torch.float64), atol=0.01, rtol=0)
    assert (steps.mean(dim=0).abs() < 0.08).all()
    assert (steps[:, 0, 0, 0] * steps[:, 0, 0, 1]).mean().abs() < 0.08


def test_a_flat_network_has_the_radius_and_a_tie_has_nothing():
    flat = CountPasses(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double())
    nn.init.zeros_(flat.model[1].weight)
    inputs = torch.rand(3, 3, 2, 2, dtype=torch.float64)
    assert_close(clever(flat, inputs, norm="L2", radius=0.7, **FEW), torch.full((3,), 0.7, dtype=torch.float64))
    nn.init.zeros_(flat.model[1].bias)
    assert_close(clever(flat, inputs, norm="L2", radius=0.7, **FEW), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("wrong", [{"radius": 0.0}, {"batches": 1}, {"samples": 0}, {"rivals": 0}], ids=str)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(UsageError, match="Expected a radius above 0, 2 batches or more"):
        clever(linear(), torch.rand(1, 3, 2, 2), **{"norm": "L2", "radius": 1.0, **wrong})


def test_images_off_the_pixel_scale_and_too_few_indices_are_refused():
    inputs, options = torch.rand(3, 3, 2, 2).double(), {"norm": "L2", "radius": 1.0, **FEW}
    with pytest.raises(PixelRangeError):
        clever(linear(), 5 * inputs, **options)
    with pytest.raises(ShapeError, match="indices"):
        clever(linear(), inputs, indices=torch.tensor([7]), **options)


def test_where_the_grid_decides_the_constant_is_ten_ranges_above_the_largest_slope():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 4)).double()
    inputs, batches = torch.rand(40, 3, 2, 2, dtype=torch.float64), 6
    found = clever_fits(network, inputs, norm="Linf", radius=0.5, batches=batches, samples=1)
    assert torch.equal(found.distance, clever(network, inputs, norm="Linf", radius=0.5, batches=batches, samples=1))
    top = network(inputs).topk(4, dim=1)
    options = {"radius": 0.5, "norm": "Linf", "seed": 0, "indices": torch.arange(40)}
    moved = [(inputs + random_step(inputs, draw=draw, **options)).clamp(0, 1) for draw in range(batches)]
    slopes = torch.stack([gap_slopes(network, images, top.indices, norm="Linf") for images in moved])
    most = slopes.amax(dim=0) + EXCESS[1] * (slopes.amax(dim=0) - slopes.amin(dim=0))
    least = ((top.values[:, :1] - top.values[:, 1:]) / most).gather(1, found.nearest[:, None])[:, 0]
    decided = found.decided_at_limit
    assert 0 < decided.sum() < 40
    assert_close(found.distance[decided], least[decided], rtol=1e-5, atol=0)
    assert (found.distance[~decided] > least[~decided] * (1 + 1e-5)).all()
    assert not clever_fits(linear(), inputs, norm="Linf", radius=0.5, **FEW).at_limit.any()  # one slope, to rounding
