"""Truth: linear networks, whose crossings are known along every ray, and a brute force over single pixels."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.attacks.crossings import STRETCHES, Crossings, best_rival, gap
from margincons.attacks.descent import Pairs
from margincons.attacks.pixel_exchange import exchange_for_each_rival, exchange_pixels
from margincons.threat import vector_norm


class Halfspace(nn.Module):
    """Class 1 where the mean pixel is above one half."""

    def forward(self, inputs):
        lead = 4 * (inputs.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([-lead, lead], dim=1)


class Bumps(nn.Module):
    """The lead of class 0 falls as pixels leave one half, faster on one side than on the other."""

    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, inputs):
        away = self.side * (inputs.flatten(1) - 0.5)
        lead = 1 - torch.where(away > 0, away * torch.linspace(1.1, 3, away.shape[1]), -away).sum(dim=1)
        return torch.stack([lead, torch.zeros_like(lead)], dim=1)


class Hidden(nn.Module):
    """The lead of class 0 falls with the first pixel; five times as fast with the last, once that has moved by 0.1."""

    def forward(self, inputs):
        moved = (inputs.flatten(1) - 0.5).abs()
        lead = 0.4 - moved[:, 0] - 5 * (moved[:, -1] - 0.1).clamp(min=0)
        return torch.stack([lead, torch.zeros_like(lead)], dim=1)


def crossings_of(network, inputs, delta, rate=1.0, norm="Linf"):
    nearest = Crossings.none_yet(network, inputs, network(inputs).argmax(dim=1), norm)
    everyone = torch.arange(len(inputs))
    radius = vector_norm(delta, norm)
    points = (inputs + delta).clamp(0, 1)
    nearest.update(everyone, radius, delta, network(points), torch.full((len(inputs),), rate))
    return nearest


def test_the_line_search_finds_where_a_ray_meets_a_plane():
    inputs = torch.full((3, 1, 4, 4), 0.2) + 0.05 * torch.arange(3).view(3, 1, 1, 1)
    nearest = crossings_of(Halfspace(), inputs, torch.full_like(inputs, 0.35), rate=8.0)
    nearest.line_search()
    assert_close(nearest.radius, torch.tensor([0.3, 0.25, 0.2]), rtol=2e-4, atol=0)
    assert (gap(Halfspace()(nearest.points()), nearest.labels) < 0).all()
    assert_close(nearest.radius, nearest.delta.flatten(1).abs().amax(dim=1))


def test_only_the_nearest_crossing_of_an_image_is_kept_and_a_point_short_of_the_boundary_never_counts():
    inputs = torch.full((2, 1, 2, 2), 0.3)
    nearest = Crossings.none_yet(Halfspace(), inputs, torch.zeros(2, dtype=torch.long), "Linf")
    image, radius = torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.3, 0.1])
    delta = radius.view(3, 1, 1, 1).expand(3, 1, 2, 2)
    nearest.update(image, radius, delta, Halfspace()(inputs[image] + delta), torch.ones(3))
    assert_close(nearest.radius, torch.tensor([0.3, torch.inf]))
    assert nearest.rival[0] == 1
    nearest.update(image, radius + 0.05, delta + 0.05, Halfspace()(inputs[image] + delta + 0.05), torch.ones(3))
    assert_close(nearest.radius[0], torch.tensor(0.3))


def test_a_miss_is_pushed_on_by_the_least_stretch_that_crosses():
    inputs = torch.full((1, 1, 2, 2), 0.3)
    nearest = crossings_of(Halfspace(), inputs, torch.full_like(inputs, 0.19))
    assert nearest.radius.isinf()
    nearest.stretch_misses()
    least = min(stretch for stretch in STRETCHES if stretch * 0.19 > 0.2 + 1e-4)
    assert_close(nearest.radius, torch.tensor([least * 0.19]))


class Detour(nn.Module):
    """Class 1 begins at 0.3 towards (1, 1, 1); class 2 at 0.32 towards (1, 1, -1), and at 0.2 towards (1, -1, -1)."""

    def forward(self, inputs):
        moved = inputs.flatten(1) - 0.5
        first = moved.sum(dim=1) - 0.899
        second = torch.maximum(moved @ torch.tensor([1.0, 1, -1]) - 0.959, moved @ torch.tensor([1.0, -1, -1]) - 0.6)
        return torch.stack([torch.zeros_like(first), first, second], dim=1)


def test_the_best_rival_is_never_the_label():
    logits = torch.tensor([[3.0, 1, 2], [3, 1, 2]])
    assert best_rival(logits, torch.tensor([0, 1])).tolist() == [2, 0]


@pytest.mark.parametrize("side", [1, -1])
def test_exchanged_pixels_are_those_a_brute_force_would_move_to_the_other_end(side):
    """All pixels start at one end, where every gradient says to stay; the other end is better for each."""
    network, inputs = Bumps(side), torch.full((1, 1, 3, 3), 0.5)
    nearest = crossings_of(network, inputs, torch.full_like(inputs, -0.2 * side))
    single = []
    for pixel in range(9):
        moved = nearest.delta.flatten().clone()
        moved[pixel] = 0.2 * side
        single.append(gap(network(inputs + moved.view_as(inputs)), nearest.labels).item())
    best = torch.tensor(single).argsort()
    exchange_pixels(nearest)
    moved = (side * nearest.delta.flatten() > 0).nonzero()[:, 0]
    assert set(moved.tolist()) == set(best[:8].tolist())  # eight are tried together at most
    assert_close(nearest.gap, gap(network(nearest.points()), nearest.labels))
    assert_close(nearest.delta.abs(), nearest.radius.expand(9).view_as(inputs))  # the ray was followed back
    assert 0 < nearest.radius < 0.2


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_an_image_of_another_class_from_the_start_stays_where_it_is(norm):
    inputs = torch.full((1, 1, 2, 2), 0.7)
    nearest = Crossings.none_yet(Halfspace(), inputs, torch.zeros(1, dtype=torch.long), norm)
    nearest.update(
        torch.zeros(1, dtype=torch.long), torch.zeros(1), torch.zeros_like(inputs), Halfspace()(inputs), torch.ones(1)
    )
    exchange_pixels(nearest)
    assert nearest.radius.item() == 0 and not nearest.delta.any()


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_a_pixel_that_no_gradient_points_to_takes_the_whole_radius(norm):
    """One pixel alone crosses at 0.1 + 0.4 / 5; the first, which the gradient at the image points to, at 0.4."""
    inputs = torch.full((2, 1, 2, 2), 0.5)
    along_the_first = torch.zeros_like(inputs)
    along_the_first[:, 0, 0, 0] = 0.42
    nearest = crossings_of(Hidden(), inputs, along_the_first, norm=norm)
    exchange_pixels(nearest)
    assert_close(nearest.radius, torch.full((2,), 0.18), rtol=1e-3, atol=0)
    assert_close(nearest.delta.flatten(1).abs(), torch.tensor([0, 0, 0, 0.18]).expand(2, 4), rtol=1e-3, atol=1e-6)


def test_in_l1_what_a_pixel_has_no_room_for_is_left_to_the_others():
    """The lead of 0.24 falls twice as fast with pixel 0, which has room for 0.1, and half as fast with pixel 1."""
    network, inputs = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), torch.tensor([0.1, 0.5]).view(1, 1, 1, 2)
    network[1].weight.data = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    network[1].bias.data = torch.tensor([0.24 - 0.2 + 0.25, 0.0])
    nearest = crossings_of(network, inputs, torch.tensor([0.0, 0.49]).view(1, 1, 1, 2), norm="L1")
    exchange_pixels(nearest)
    assert 0.18 <= nearest.radius.item() < 0.25  # at best 0.1 and 0.08; a ray at a time comes near, from 0.48
    assert_close(nearest.radius, vector_norm(nearest.delta, "L1"))
    assert (nearest.points() >= 0).all() and nearest.delta.flatten()[0] < -0.05


def test_in_l2_half_the_radius_on_one_pixel_leaves_the_others_what_keeps_the_norm():
    """The lead of 0.5 falls with pixel 0 by 1, and by 2 with pixel 1: the nearest crossing is (0.1, 0.2)."""
    network, inputs = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), torch.full((1, 1, 1, 2), 0.5)
    network[1].weight.data = torch.tensor([[-1.0, -2.0], [0.0, 0.0]])
    network[1].bias.data = torch.tensor([2.0, 0.0])
    nearest = crossings_of(network, inputs, torch.tensor([0.0, 0.255]).view(1, 1, 1, 2), norm="L2")
    exchange_pixels(nearest)
    half = torch.tensor([1, 3**0.5])  # half of the radius on pixel 0, the rest on pixel 1
    assert_close(nearest.delta.flatten(), 0.5 * half / (half @ torch.tensor([1.0, 2.0])), rtol=1e-3, atol=0)
    assert_close(nearest.radius, vector_norm(nearest.delta, "L2"))


def test_a_rival_that_seems_farther_is_found_nearer_once_its_own_pixels_are_exchanged():
    network, inputs = Detour(), torch.full((1, 1, 1, 3), 0.5)
    to_first, to_second = torch.full_like(inputs, 0.3), torch.tensor([0.32, 0.32, -0.32]).view(1, 1, 1, 3)
    nearest = crossings_of(network, inputs, to_first)
    exchange_pixels(nearest)
    assert nearest.rival.item() == 1 and 0.299 < nearest.radius.item() <= 0.3
    pairs = {"image": torch.zeros(2, dtype=torch.long), "delta": torch.cat([to_first, to_second])}
    exchange_for_each_rival(nearest, Pairs(**pairs, radius=torch.tensor([0.3, 0.32]), rate=torch.full((2,), 3.0)))
    assert nearest.rival.item() == 2
    assert_close(nearest.radius, torch.tensor([0.2]), atol=1e-3, rtol=0)
    assert_close(nearest.delta.flatten(), torch.tensor([0.2, -0.2, -0.2]), atol=1e-3, rtol=0)
    assert_close(nearest.gap, gap(network(nearest.points()), nearest.labels))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_an_exchange_never_lengthens_a_crossing_or_leaves_the_box_and_spares_what_never_crossed(norm):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    inputs = torch.rand(40, 1, 4, 4).mul(1.6).sub(0.3).clamp(0, 1)
    delta = (torch.rand_like(inputs) - 0.5) * 1.2
    nearest = crossings_of(network, inputs, delta, norm=norm)
    radius, start = nearest.radius.clone(), nearest.delta.clone()
    exchange_pixels(nearest)
    crossed = radius.isfinite()
    assert crossed.any() and (~crossed).any()
    assert (nearest.radius <= radius * (1 + 1e-6)).all() and (nearest.radius < 0.99 * radius)[crossed].any()
    assert (nearest.delta[~crossed] == start[~crossed]).all()
    assert_close(vector_norm(nearest.points() - inputs, norm)[crossed], nearest.radius[crossed])
    assert (nearest.gap <= 0)[crossed].all()
    assert_close(gap(network(nearest.points()), nearest.labels)[crossed], nearest.gap[crossed])
