"""Scores against loops over classes and against numpy; signs as declared, whatever the data say."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.classifier import Head, Outputs
from margincons.errors import PixelRangeError, ShapeError, UnknownNameError, UsageError
from margincons.scores import (
    NOT_RECORDED,
    SCORES,
    all_scores,
    doctor,
    energy,
    entropy,
    feature_margin,
    first_order_margin,
    logit_margin,
    max_probability,
    probability_margin,
    robustness_sign,
)
from margincons.threat import NORMS

DUAL = {"Linf": 1, "L2": 2, "L1": np.inf}


def random_head(classes=6, features=4):
    torch.manual_seed(0)
    head = Head(
        weight=torch.randn(classes, features, dtype=torch.float64), bias=torch.randn(classes, dtype=torch.float64)
    )
    return head, torch.randn(20, features, dtype=torch.float64)


def test_probability_scores_are_those_of_a_softmax_written_out():
    logits = 3 * torch.randn(30, 7, dtype=torch.float64)
    for row, values in enumerate(logits.tolist()):
        powers = [math.exp(value) for value in values]
        shares = sorted(power / sum(powers) for power in powers)
        expected = {
            logit_margin: sorted(values)[-1] - sorted(values)[-2],
            probability_margin: shares[-1] - shares[-2],
            max_probability: shares[-1],
            entropy: -sum(share * math.log(share) for share in shares),
            energy: -math.log(sum(powers)),
        }
        for score, value in expected.items():
            assert score(logits)[row].item() == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_scores_stay_finite_where_the_softmax_saturates():
    logits = torch.tensor([[900.0, -900.0, 0.0], [0.0, 0.0, 0.0]])
    assert_close(logit_margin(logits), torch.tensor([900.0, 0.0]))
    assert_close(entropy(logits), torch.tensor([0.0, math.log(3)]))
    assert_close(energy(logits), torch.tensor([-900.0, -math.log(3)]))
    assert_close(probability_margin(logits), torch.tensor([1.0, 0.0]))


def test_doctor_is_the_odds_that_two_labels_drawn_from_the_softmax_differ():
    logits = 2 * torch.randn(30, 4, dtype=torch.float64)
    for row, chances in enumerate(logits.softmax(dim=1).tolist()):
        pairs = [(p * q, a == b) for a, p in enumerate(chances) for b, q in enumerate(chances)]
        same, apart = (sum(chance for chance, alike in pairs if alike == wanted) for wanted in (True, False))
        assert doctor(logits)[row].item() == pytest.approx(apart / same, rel=1e-9)
    draws = torch.multinomial(logits[:1].softmax(dim=1), 40_000, replacement=True, generator=torch.Generator())
    differ = (draws[0, ::2] != draws[0, 1::2]).double().mean().item()
    assert doctor(logits[:1]).item() == pytest.approx(differ / (1 - differ), rel=0.1)


def test_doctor_keeps_the_order_of_images_where_the_square_of_a_probability_rounds_to_one():
    logits = torch.tensor([[20.0, 0.0, 0.0], [30.0, 0.0, 0.0], [40.0, 0.0, 0.0]])
    assert (1 - logits.softmax(dim=1).square().sum(dim=1)).tolist() == [0, 0, 0]
    odds = doctor(logits)
    assert (odds[:-1] > odds[1:]).all()
    assert_close(odds, 4 * torch.tensor([-20.0, -30.0, -40.0]).exp())  # 2 p (1 - p), and 1 - p is 2 exp(-gap)
    assert_close(doctor(torch.zeros(1, 5)), torch.tensor([4.0]))


@pytest.mark.parametrize("norm", NORMS)
def test_the_feature_margin_is_the_least_distance_to_a_rivals_hyperplane(norm):
    head, features = random_head()
    logits = head(features)
    margins = feature_margin(logits, head, norm=norm)
    for row, values in enumerate(logits.numpy()):
        own = values.argmax()
        distances = [
            (values[own] - values[rival]) / np.linalg.norm(head.weight[own] - head.weight[rival], DUAL[norm])
            for rival in range(6)
            if rival != own
        ]
        assert margins[row].item() == pytest.approx(min(distances), rel=1e-12)


def unit_step(direction, norm):
    """The vector of norm 1 that gains most along a direction, (d,)."""
    if norm == "L2":
        return direction / direction.norm()
    return direction.sign() * (1 if norm == "Linf" else torch.eye(len(direction))[direction.abs().argmax()])


@pytest.mark.parametrize("norm", NORMS)
def test_the_steepest_step_of_the_feature_margin_reaches_another_class_and_a_shorter_one_does_not(norm):
    head, features = random_head()
    own, margins = head(features).argmax(dim=1), feature_margin(head(features), head, norm=norm)
    for row, feature in enumerate(features):
        rivals = [rival for rival in range(6) if rival != own[row]]
        steps = torch.stack([unit_step(head.weight[rival] - head.weight[own[row]], norm) for rival in rivals])
        short, far = (head(feature + length * margins[row] * steps).argmax(dim=1) for length in (1 - 1e-9, 1 + 1e-9))
        assert (short == own[row]).all()
        assert (far != own[row]).any()


def test_a_rival_with_the_predicted_classs_weights_is_never_reached():
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    head = Head(weight=weight, bias=torch.tensor([0.5, 0.0, 0.0]))
    features = torch.tensor([[3.0, 0.0]])
    assert_close(feature_margin(head(features), head, norm="L2"), torch.tensor([3.5 / math.sqrt(5)]))
    for bias in (head.bias[:2], torch.zeros(2)):  # the second pair ties everywhere: still no step tells them apart
        twins = Head(weight=weight[:2], bias=bias)
        assert feature_margin(twins(features), twins, norm="L2").item() == math.inf


def test_the_feature_margin_of_a_thousand_classes_needs_no_table_of_all_differences():
    head = Head(weight=torch.randn(1000, 2048), bias=torch.zeros(1000))  # which would take 8 GB
    logits = head(torch.randn(2, 2048))
    gaps, own = logits.max(dim=1, keepdim=True).values - logits, logits.argmax(dim=1)
    lengths = (head.weight[own][:, None] - head.weight[None]).norm(dim=2)
    expected = (gaps / lengths).scatter(1, own[:, None], torch.inf).amin(dim=1)
    assert_close(feature_margin(logits, head, norm="L2"), expected)


def test_signs_are_declared_and_point_from_brittle_to_robust():
    sure, torn = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
    head = Head(weight=torch.eye(3), bias=torch.zeros(3))
    of_sure, of_torn = (all_scores(Outputs(logits=x, features=x), head, norm="L2") for x in (sure, torn))
    assert list(of_sure) == list(SCORES)
    for name in SCORES:
        assert robustness_sign(name) * (of_sure[name] - of_torn[name]).item() > 0, name
        assert SCORES[name].brittle_when == {1: "low", -1: "high"}[robustness_sign(name)]


def test_scores_outside_of_records_have_a_sign_of_their_own_and_no_column():
    assert not set(NOT_RECORDED) & set(SCORES)
    assert robustness_sign("first_order_margin") == 1
    assert robustness_sign("doctor") == robustness_sign("gradient_norm") == -1
    sure, torn = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.1, 0.0, 0.0]])
    assert doctor(sure) < doctor(torn)  # as declared: high where brittle


def test_without_a_head_only_the_feature_margin_is_missing():
    logits = torch.randn(4, 3)
    scores = all_scores(Outputs(logits=logits, features=None), None, norm="Linf")
    assert set(SCORES) - set(scores) == {"feature_margin"}
    assert all(values.shape == (4,) for values in scores.values())


def test_an_unknown_score_and_a_single_class_are_refused():
    with pytest.raises(UnknownNameError, match="Unknown score 'logit_margn'; the nearest are: logit_margin"):
        robustness_sign("logit_margn")
    for logits in (torch.zeros(3, 1), torch.zeros(3)):
        with pytest.raises(ShapeError, match=r"Expected logits to be \(n, k\) with k >= 2"):
            logit_margin(logits)


@pytest.mark.parametrize("norm", NORMS)
def test_the_first_order_margin_of_a_linear_network_is_its_distance_to_the_nearest_hyperplane(norm):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double()
    inputs = torch.rand(20, 3, 2, 2, dtype=torch.float64)
    weight, logits = model[1].weight.detach().numpy(), model(inputs).detach().numpy()
    for row, (values, found) in enumerate(zip(logits, first_order_margin(model, inputs, norm=norm), strict=True)):
        own = values.argmax()
        distances = [
            (values[own] - values[rival]) / np.linalg.norm(weight[own] - weight[rival], ord=DUAL[norm])
            for rival in range(5)
            if rival != own
        ]
        assert found.item() == pytest.approx(min(distances)), row


def test_without_a_rival_there_is_no_boundary_to_be_near_and_off_the_pixel_scale_none_is_sought():
    inputs = torch.rand(2, 3, 2, 2)
    with pytest.raises(UsageError, match=r"Expected one rival or more, got 0\."):
        first_order_margin(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), inputs, norm="L2", rivals=0)
    with pytest.raises(PixelRangeError):
        first_order_margin(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), inputs + 1, norm="L2")
    with pytest.raises(ShapeError, match=r"Expected logits to be \(n, k\) with k >= 2"):
        first_order_margin(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), inputs, norm="L2")


class Mapped(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def test_the_first_order_margin_ignores_the_scale_of_the_logits_and_leaves_no_gradient_behind():
    model, inputs = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4)), torch.rand(6, 3, 2, 2)
    plain = first_order_margin(model, inputs, norm="Linf")
    assert_close(first_order_margin(Mapped(lambda x: 50 * model(x)), inputs, norm="Linf"), plain)
    assert (first_order_margin(model, inputs, norm="Linf", rivals=1) >= plain).all()  # fewer rivals, no nearer
    assert all(parameter.grad is None for parameter in model.parameters())
    flat = Mapped(lambda x: x.flatten(1)[:, :3] * 0 + torch.arange(3))
    assert torch.isinf(first_order_margin(flat, inputs, norm="L2")).all()
