import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn
from torch.testing import assert_close

from margincons.attacks.steps import hinge_sum, input_gradient, steepest_step
from margincons.errors import UnknownNameError
from margincons.threat import vector_norm


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4))


def test_the_gradient_of_the_log_odds_is_that_of_the_cross_entropy_over_the_probability_of_error(linear):
    images, labels = torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    probability = linear(images).softmax(dim=1)
    rise = ((probability - torch.eye(4)[labels]) @ linear[1].weight).detach()
    error = (1 - probability.gather(1, labels[:, None])).detach()
    assert_close(input_gradient(linear, images, labels), rise.view_as(images))
    assert_close(input_gradient(linear, images, labels, loss="log_odds"), (rise / error).view_as(images))


def test_the_cross_entropy_is_flat_only_where_the_rivals_probability_is_no_number_of_single_precision():
    leads = torch.tensor([17.0, 60.0, 103.0, 104.0, 110.0])  # 1 - p rounds to 0 from 17 on, exp(-lead) from 149 log 2
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    network[1].weight.data = torch.tensor([[0.0], [-1.0]])
    images, labels = leads.view(-1, 1, 1, 1), torch.zeros(5, dtype=torch.int64)
    flat = input_gradient(network, images, labels).flatten() == 0
    assert flat.tolist() == (leads > 149 * math.log(2)).tolist()
    assert_close(input_gradient(network, images, labels, loss="log_odds"), -torch.ones_like(images))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 3.0]))
def test_the_hinge_is_minus_that_of_carlini_and_wagner(seed, kappa):
    draw = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(5, 4, generator=draw), torch.randint(4, (5,), generator=draw)
    theirs = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        theirs += max(row.pop(label) - max(row), -kappa)
    assert hinge_sum(logits, labels, kappa).item() == pytest.approx(-theirs, abs=1e-5)


@pytest.mark.parametrize("kappa", [0.0, 0.3])
def test_the_hinge_climbs_towards_the_best_rival_and_not_at_all_once_it_leads_by_kappa(linear, kappa):
    images, labels = torch.rand(40, 3, 2, 2), torch.arange(40) % 4
    logits = linear(images).detach()
    rival = logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    lead = (logits.gather(1, rival[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
    assert 0 < (lead > kappa).sum() < 40
    weight = linear[1].weight.detach()
    uphill = torch.where((lead < kappa)[:, None], weight[rival] - weight[labels], 0).view_as(images)
    assert_close(input_gradient(linear, images, labels, loss=partial(hinge_sum, kappa=kappa)), uphill)
    if kappa == 0:
        assert_close(input_gradient(linear, images, labels, loss="hinge"), uphill)


def test_a_loss_that_does_not_exist_is_refused_by_name(linear):
    with pytest.raises(UnknownNameError, match="Unknown loss 'crossentropy'; the nearest are: cross_entropy"):
        input_gradient(linear, torch.rand(2, 3, 2, 2), torch.tensor([0, 1]), loss="crossentropy")


def test_the_gradient_leaves_parameters_and_images_without_one(linear):
    images = torch.rand(2, 3, 2, 2)
    with torch.no_grad():
        input_gradient(linear, images, torch.tensor([0, 1]))
    assert images.grad is None
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in linear.parameters())


def test_a_network_sure_beyond_single_precision_has_a_gradient_in_its_log_odds_alone(linear):
    images = torch.rand(5, 3, 2, 2)
    for parameter in linear.parameters():
        parameter.data *= 1e4
    logits = linear(images)
    assert (logits.softmax(dim=1).amax(dim=1) == 1).any()  # where the cross-entropy is flat in fp32
    gradient = input_gradient(linear, images, logits.argmax(dim=1), loss="log_odds")
    flat = input_gradient(linear, images, logits.argmax(dim=1)).flatten(1).abs().amax(dim=1) == 0
    assert (flat == (logits.softmax(dim=1).sort(dim=1).values[:, :-1].sum(dim=1) == 0)).all()
    (own, rival), weight = logits.topk(2).indices.T, linear[1].weight.detach()
    assert_close(gradient, (weight[rival] - weight[own]).view_as(images))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_step_is_the_steepest_of_its_length(norm):
    torch.manual_seed(0)
    gradient, at, length = torch.randn(8, 1, 2, 3), torch.rand(8, 1, 2, 3), 0.7
    step = steepest_step(gradient, at, length, norm)
    gain = (gradient * step).flatten(1).sum(dim=1)
    dual = {"Linf": "L1", "L2": "L2", "L1": "Linf"}[norm]
    if norm != "L1":
        assert_close(gain, length * vector_norm(gradient, dual))
        return
    for slope, start, found in zip(gradient.flatten(1), at.flatten(1), gain, strict=True):
        split = torch.cat([-slope, slope]).tolist()  # up and down parts of each pixel's move
        box = [(0, 1 - pixel) for pixel in start.tolist()] + [(0, pixel) for pixel in start.tolist()]
        best = linprog(split, A_ub=[[1] * 12], b_ub=[length], bounds=box)
        assert found.item() == pytest.approx(-best.fun, abs=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_flat_function_gives_no_step(norm):
    flat = torch.zeros(2, 1, 2, 2)
    assert_close(steepest_step(flat, flat + 0.5, 0.1, norm), flat)


def test_a_gradient_whose_square_underflows_still_gives_a_whole_l2_step():
    gradient = torch.full((1, 1, 2, 2), 1e-30)
    assert_close(vector_norm(steepest_step(gradient, gradient, 0.1, "L2"), "L2"), torch.tensor([0.1]))


def test_an_unknown_norm_is_refused():
    with pytest.raises(UnknownNameError, match=r"Unknown norm 'l2'.*L2"):
        steepest_step(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), 0.1, "l2")
