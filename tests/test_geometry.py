"""Geometry against linear maps whose stretch is known, linear programs, and inequalities that no network escapes."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog, minimize
from torch import nn

from margincons.classifier import Classifier, Head
from margincons.data import load_images
from margincons.errors import DegenerateError, MissingColumnError, UsageError
from margincons.geometry import equidistance, isometry, stretch, stretch_along
from margincons.margins import input_margins
from margincons.records import read_record, shipped_records
from margincons.scores import feature_margin, logit_margin
from margincons.threat import NORMS, vector_norm
from margincons.zoo import load_model

SHIPPED = [name for name in shipped_records() if name.startswith("digits/") and name.endswith("minimum_norm")]
ORDER = {"Linf": np.inf, "L2": 2, "L1": 1}


def table_of(upper, feature, logit):
    return pd.DataFrame({"upper": upper, "feature_distance": feature, "logit_margin": logit})


def test_a_scaled_isometry_has_no_spread_of_stretch_and_keeps_every_order():
    margins = np.linspace(0.05, 0.4, 50)
    found = isometry(table_of(margins, 7 * margins, 3 * margins), replicates=200)
    assert found.input_feature.value == found.feature_logit.value == found.input_logit.value == pytest.approx(1)
    assert found.stretch_spread.value == pytest.approx(0, abs=1e-12)
    assert found.margin_spread.value == pytest.approx(np.std(np.log(margins)))
    assert (found.n, found.left_out) == (50, 0)


def test_the_three_correlations_are_scipys_and_carry_standard_errors():
    rng = np.random.default_rng(0)
    margins = rng.lognormal(size=200)
    features = margins * rng.lognormal(sigma=0.5, size=200)
    logits = features * rng.lognormal(sigma=0.5, size=200)
    found = isometry(table_of(margins, features, logits), replicates=300)
    for estimate, x, y in (
        (found.input_feature, margins, features),
        (found.feature_logit, features, logits),
        (found.input_logit, margins, logits),
    ):
        assert estimate.value == pytest.approx(stats.kendalltau(x, y).statistic)
        assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(estimate.standard_error, rel=0.2)
    assert found.stretch_spread.value == pytest.approx(0.5, rel=0.1)


def test_independent_lognormal_stretch_costs_just_the_tau_that_the_two_spreads_predict():
    rng = np.random.default_rng(1)
    margins, factor = rng.lognormal(sigma=0.6, size=4000), rng.lognormal(sigma=0.45, size=4000)
    found = isometry(table_of(margins, margins * factor, margins), replicates=50)
    correlation = 1 / np.hypot(1, found.stretch_spread.value / found.margin_spread.value)
    assert found.input_feature.value == pytest.approx(2 / np.pi * np.arcsin(correlation), abs=0.02)


def test_images_without_a_witness_are_left_out_and_counted():
    margins = np.array([0.1, 0.2, 0.3, np.inf])
    found = isometry(table_of(margins, [1, 2, 3, np.nan], [5, 6, 7, 1.0]), replicates=50)
    assert (found.n, found.left_out, found.input_logit.value) == (3, 1, pytest.approx(1))
    stretches = stretch(table_of([0.0, *margins[1:]], [1, 0, 6, np.nan], 0.0))
    np.testing.assert_allclose(stretches, [np.nan, 0, 20, np.nan])


@pytest.mark.parametrize(
    ("table", "error", "text"),
    [
        (table_of([0.1, 0.2], [np.nan, np.nan], [1, 2]), DegenerateError, "0 of 2 images have a feature distance"),
        (table_of([0.1, 0.1], [1, 2], [1, 2]), DegenerateError, "all 2 rows of x are 0.1"),
        (pd.DataFrame({"upper": [1, 2]}), MissingColumnError, "Expected a column 'feature_distance'"),
    ],
)
def test_what_has_no_isometry_is_refused(table, error, text):
    with pytest.raises(error) as caught:
        isometry(table)
    assert text in str(caught.value)


@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_extractor_stretches_alike_all_along_a_path(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 3)).double()
    inputs, moved = torch.rand(2, 6, 3, 2, 2, dtype=torch.float64)
    moved[-1] = inputs[-1]
    found = stretch_along(Classifier(model, inputs), inputs, moved, torch.tensor([0.1, 0.5, 1.0]), norm=norm)
    delta = (moved - inputs).flatten(1)
    expected = vector_norm(delta @ model[1].weight.detach().T, norm) / vector_norm(delta, norm)
    torch.testing.assert_close(found[:-1], expected[:-1, None].expand(-1, 3))
    assert found[-1].isnan().all()


def test_a_bend_in_the_extractor_shows_where_it_is():
    body = nn.Linear(1, 1)
    body.weight.data, body.bias.data = torch.tensor([[4.0]]), torch.tensor([-2.0])  # relu(4 x - 2): flat up to 1/2
    model = nn.Sequential(nn.Flatten(), body, nn.ReLU(), nn.Linear(1, 2))
    inputs, moved = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    found = stretch_along(Classifier(model, moved), inputs, moved, torch.tensor([0.25, 0.5, 0.75, 1.0]), norm="Linf")
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 4 / 3, 2.0]]))


def test_a_share_of_the_way_lies_between_its_ends():
    model, inputs = load_model("digits/mlp"), load_images("digits", n=2).inputs
    with pytest.raises(UsageError, match=r"Expected shares of the way in \(0, 1\], got \[0"):
        stretch_along(Classifier(model, inputs), inputs, inputs, torch.tensor([0.0, 1.0]), norm="L2")


def test_the_whole_way_to_a_witness_is_the_stretch_on_record():
    images, table = load_images("digits", n=20), read_record("digits/mlp/Linf/minimum_norm").head(20)
    model = load_model("digits/mlp")
    bounds = input_margins(model, images.inputs, effort="exhaustive")
    found = stretch_along(
        Classifier(model, images.inputs), images.inputs, bounds.adversarial, torch.ones(1), norm="Linf"
    )
    agree = np.isclose(found[:, 0].numpy(), stretch(table), rtol=0.01)
    assert agree.mean() >= 0.75  # another path, where the attack found another witness as near


@pytest.mark.parametrize("name", SHIPPED)
def test_a_witness_lies_no_nearer_in_feature_space_than_the_heads_boundary(name):
    table = read_record(name)
    assert (table["feature_distance"] >= table["feature_margin"] * (1 - 1e-4)).all()


def least_step(weight, bias, features, rival, own, norm):
    """Smallest step in feature space after which ``rival`` overtakes ``own``, by a solver that knows no formula."""
    gain, gap = weight[rival] - weight[own], (weight[own] - weight[rival]) @ features + bias[own] - bias[rival]
    d = len(features)
    if norm == "L2":
        start = gain * gap / (gain @ gain) + 0.1
        reach = {"type": "ineq", "fun": lambda step: gain @ step - gap, "jac": lambda step: gain}
        found = minimize(lambda z: z @ z, start, jac=lambda z: 2 * z, constraints=reach, tol=1e-12)
        return np.sqrt(found.fun)
    if norm == "Linf":  # step in [-t, t]^d, least t
        bounds = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
        cost = np.r_[np.zeros(d), 1]
    else:  # step = up - down, both non-negative, least sum
        bounds, cost = np.zeros((0, 2 * d)), np.ones(2 * d)
        gain = np.r_[gain, -gain]
    size = len(cost)
    rows = np.vstack([bounds, -np.r_[gain, np.zeros(size - len(gain))]])
    limits = [(0, None)] * size if norm == "L1" else [(None, None)] * size
    return linprog(cost, A_ub=rows, b_ub=np.r_[np.zeros(len(bounds)), -gap], bounds=limits).fun


@pytest.mark.parametrize("norm", NORMS)
def test_the_exact_feature_margin_is_what_a_solver_finds_over_all_rivals(norm):
    rng = np.random.default_rng(0)
    weight, bias, features = rng.normal(size=(5, 4)), rng.normal(size=5), rng.normal(size=(12, 4))
    head = Head(weight=torch.tensor(weight), bias=torch.tensor(bias))
    logits = head(torch.tensor(features))
    margins = feature_margin(logits, head, norm=norm)
    for row, own in enumerate(logits.argmax(dim=1).tolist()):
        steps = [least_step(weight, bias, features[row], rival, own, norm) for rival in range(5) if rival != own]
        assert margins[row].item() == pytest.approx(min(steps), rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_no_random_step_shorter_than_the_feature_margin_of_a_bundled_network_changes_its_decision(norm):
    model, inputs = load_model("digits/pgd_at"), load_images("digits", n=30).inputs
    classifier = Classifier(model, inputs)
    outputs, rng = classifier(inputs), np.random.default_rng(0)
    margins = feature_margin(outputs.logits, classifier.head, norm=norm)
    steps = torch.tensor(rng.normal(size=(200, *outputs.features.shape)), dtype=torch.float32)
    steps = steps / torch.linalg.vector_norm(steps, ORDER[norm], dim=2, keepdim=True)
    moved = classifier.head(outputs.features + 0.999 * margins[:, None] * steps).argmax(dim=2)
    assert (moved == outputs.predicted).all()


def test_a_simplex_is_equidistant_in_l2_and_its_two_margins_are_proportional():
    head = Head(weight=torch.eye(4, dtype=torch.float64), bias=torch.zeros(4, dtype=torch.float64))
    found = equidistance(head, norm="L2")
    assert found.distances.tolist() == pytest.approx([2**0.5] * 6)
    assert (found.index, found.variation) == (pytest.approx(1), pytest.approx(0))
    logits = torch.randn(50, 4, dtype=torch.float64)
    torch.testing.assert_close(feature_margin(logits, head, norm="L2") * 2**0.5, logit_margin(logits))


@pytest.mark.parametrize(("norm", "expected"), [("Linf", [3, 5, 2]), ("L2", [3, 17**0.5, 2**0.5]), ("L1", [3, 4, 1])])
def test_distances_between_classes_are_in_the_dual_norm(norm, expected):
    head = Head(weight=torch.tensor([[0.0, 0.0], [3.0, 0.0], [4.0, 1.0]]), bias=torch.zeros(3))
    found = equidistance(head, norm=norm)
    assert found.distances.tolist() == pytest.approx(expected)
    assert found.index == pytest.approx(min(expected) / max(expected))
    assert found.variation == pytest.approx(np.std(expected) / np.mean(expected))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(NORMS), st.integers(3, 8))
def test_the_index_bounds_how_far_the_two_margins_can_disagree(seed, norm, classes):
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 3, generator=draw, dtype=torch.float64)
    head = Head(weight=weight, bias=torch.randn(classes, generator=draw, dtype=torch.float64))
    logits = head(torch.randn(40, 3, generator=draw, dtype=torch.float64))
    logit, feature = logit_margin(logits), feature_margin(logits, head, norm=norm)
    found = equidistance(head, norm=norm)
    shortest, longest = found.distances.min(), found.distances.max()
    assert (feature <= logit / shortest * (1 + 1e-9)).all()
    assert (feature >= logit / longest * (1 - 1e-9)).all()
    clearly = logit[:, None] * found.index > logit * (1 + 1e-9)  # ahead by more than the factor 1 / index
    assert (feature[:, None] > feature)[clearly].all()


def test_twins_have_index_0_and_a_head_of_twins_alone_is_refused():
    head = Head(weight=torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), bias=torch.zeros(3))
    assert equidistance(head, norm="L2").index == 0
    with pytest.raises(DegenerateError, match="all 2 classes share their weights"):
        equidistance(Head(weight=head.weight[:2], bias=head.bias[:2]), norm="L2")
