import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.attacks.pgd import pgd
from margincons.certificates import lower_bounds
from margincons.errors import PixelRangeError, UnknownNameError, UnsupportedLayerError, UsageError
from margincons.threat import dual_norm, vector_norm

NORMS = ("Linf", "L2", "L1")
DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def hyperplane():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    network[1].bias.data = -0.5 * network[1].weight.data.sum(dim=1)
    return network.eval()


@pytest.mark.parametrize("method", ["interval", "crown"])
def test_a_hyperplane_inside_the_box_has_its_closed_form(method):
    """In Linf for both; the box that intervals put round an L2 or L1 ball is larger than the ball."""
    network, images = hyperplane(), 0.4 + 0.2 * torch.rand(40, 1, 4, 4)
    weight, bias = (parameter.detach().double() for parameter in network[1].parameters())
    difference = weight[:1] - weight[1:]
    gap = (images.double().flatten(1) @ difference.T + bias[0] - bias[1])[:, 0].abs()
    for norm in NORMS:
        exact = gap / vector_norm(difference, dual_norm(norm))
        bounds = lower_bounds(network, images, norm=norm, method=method, tolerance=1e-5)
        assert (bounds <= exact * (1 + 1e-6)).all()
        if norm == "Linf" or method == "crown":
            assert_close(bounds, exact, rtol=3e-5, atol=1e-7)


def test_sums_instead_of_averages_have_their_closed_form_behind_a_black_image():
    """f = 2 (x1 + x2 + x3 + x4) - 1 rises by 8 epsilon at most, whereas averages would make it 2 epsilon."""
    network = nn.Sequential(nn.AvgPool2d(2, divisor_override=1), nn.Flatten(), nn.Linear(1, 2)).eval()
    network[2].weight.data = torch.tensor([[2.0], [0.0]])
    network[2].bias.data = torch.tensor([-1.0, 0.0])
    images = torch.tensor([0.0, 0.25]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert_close(lower_bounds(network, images, tolerance=1e-5), torch.full((2,), 1 / 8).double(), rtol=1e-4, atol=0)


def test_pixels_at_the_end_of_their_range_make_the_margin_larger():
    """f = x1 + x2 - 0.5 at (0.9, 0): only x1 can fall, so the margin is 0.4 in every norm."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    network[1].weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    network[1].bias.data = torch.tensor([-0.5, 0.0])
    image = torch.tensor([0.9, 0.0]).view(1, 1, 1, 2)
    for norm in NORMS:
        assert lower_bounds(network.eval(), image, norm=norm).item() == pytest.approx(0.4, rel=2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_a_class_that_nothing_in_the_pixel_box_leaves_has_an_infinite_bound(norm):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    network[1].bias.data = torch.tensor([100.0, 0.0, 0.0])
    assert (lower_bounds(network.eval(), torch.rand(3, 1, 2, 2), norm=norm) == torch.inf).all()


def test_a_constant_network_has_an_infinite_bound():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.tensor([0.1, 0.0])
    assert lower_bounds(network.eval(), torch.rand(1, 1, 2, 2)).item() == torch.inf


def test_a_tie_and_a_wrong_label_have_the_bound_zero():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.zeros_(network[1].weight)
    network[1].bias.data = torch.tensor([1.0, 1.0, 0.0])
    assert lower_bounds(network.eval(), torch.rand(2, 1, 2, 2)).tolist() == [0, 0]
    network[1].bias.data = torch.tensor([1.0, 0.0, 0.0])
    assert lower_bounds(network, torch.rand(2, 1, 2, 2), labels=torch.tensor([1, 0])).tolist() == [0, torch.inf]


@pytest.mark.parametrize("norm", NORMS)
def test_no_attack_ends_below_a_bound_and_crown_is_above_intervals(residual, norm):
    network, images = residual(1), torch.rand(12, 1, 2, 2)
    labels = network(images).argmax(dim=1)
    weak, strong = (lower_bounds(network, images, norm=norm, method=method) for method in ("interval", "crown"))
    assert (weak <= strong * (1 + 1e-3)).all()
    assert strong.isfinite().sum() > 6
    budget = 1.001 * strong[strong.isfinite()].median().item()
    attack = pgd(network, images, labels, norm=norm, epsilon=budget)
    assert (strong <= attack.upper).all()


def test_batches_and_tolerances_change_a_bound_by_no_more_than_the_tolerance(residual):
    network, images = residual(1), torch.rand(9, 1, 2, 2)
    fine = lower_bounds(network, images, tolerance=1e-6)
    assert_close(lower_bounds(network, images, tolerance=1e-6, batch_size=2), fine)
    coarse = lower_bounds(network, images, tolerance=0.05)
    assert (coarse <= fine * (1 + 1e-6)).all()
    assert (coarse >= fine * 0.94).all()


def test_intervals_inside_crown_are_looser(dense):
    network, images = dense(0, 4, 12, 12, 3), torch.rand(6, 1, 1, 4)
    coarse, fine = lower_bounds(network, images, refine=0), lower_bounds(network, images)
    assert (coarse <= fine * (1 + 1e-3)).all()
    assert coarse.sum() < 0.98 * fine.sum()


def test_bad_arguments_are_refused(residual):
    network, images = residual(0), torch.rand(2, 1, 2, 2)
    with pytest.raises(UnknownNameError, match="Unknown method 'crwn'; the nearest are: crown"):
        lower_bounds(network, images, method="crwn")
    with pytest.raises(UnknownNameError, match="Unknown norm 'linf'"):
        lower_bounds(network, images, norm="linf")
    with pytest.raises(UsageError, match="between 0 and 1, got 0"):
        lower_bounds(network, images, tolerance=0)
    with pytest.raises(PixelRangeError):
        lower_bounds(network, 255 * images)
    with pytest.raises(UnsupportedLayerError, match=r"1 \(Sigmoid\)"):
        lower_bounds(nn.Sequential(nn.Flatten(), nn.Sigmoid()), images)


@pytest.mark.data
def test_a_network_trained_by_others_is_certified_below_what_attacks_reach(monkeypatch, absent):
    if not (DATA / "nets.py").exists():
        absent(f"{DATA} holds the networks of others; it is not shipped")
    monkeypatch.syspath_prepend(str(DATA))
    network = __import__("nets").cnn_a_adv()
    del sys.modules["nets"]
    pixels = np.load(DATA / "cifar10_test_first1017.npz")["x"][1:3]
    images = torch.from_numpy(pixels).float() / 255
    bounds = lower_bounds(network, images, tolerance=0.02)
    labels = network(images).argmax(dim=1)
    for factor, leaves in ((1.0, False), (3.5, True)):
        for image, label, bound in zip(images.split(1), labels.split(1), bounds.tolist(), strict=True):
            assert pgd(network, image, label, norm="Linf", epsilon=factor * bound).success.item() == leaves
