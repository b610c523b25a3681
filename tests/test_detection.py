"""Detection on tables small enough to count by hand, and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as sklearn

from margincons.detection import brittle_share, clean_accuracy, curves, detection, robust_accuracy
from margincons.errors import DegenerateError, MissingColumnError, RecordError, UnknownNameError, UsageError
from margincons.records import read_record
from margincons.scores import SCORES
from margincons.threat import vector_norm


def table_of(upper, score, name="logit_margin"):
    return pd.DataFrame({"upper": upper, name: score})


def random_table(n=200, seed=0):
    rng = np.random.default_rng(seed)
    margins = rng.random(n).astype(np.float32)
    return table_of(margins, (margins + 0.4 * rng.random(n)).round(2))


def test_six_images_counted_by_hand():
    table = table_of([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.0, 4.0, 2.0, 3.0, 5.0, 6.0])
    found = detection(table, epsilon=0.25, replicates=50)  # the brittle two have ranks 1 and 4 from the least score
    assert found.auroc.value == pytest.approx(6 / 8)
    assert found.aupr.value == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert found.aupr_trapezoid.value == pytest.approx(0.5 * 1 + 0.5 * (1 / 3 + 2 / 4) / 2)
    assert found.fpr95.value == pytest.approx(2 / 4)
    assert found.threshold95.value == 4.0
    assert (found.brittle.value, found.n) == (pytest.approx(2 / 6), 6)


def test_every_statistic_is_scikit_learns():
    table = random_table()
    brittle, score = (table["upper"] <= 0.3).to_numpy(), -table["logit_margin"].to_numpy()
    found = detection(table, epsilon=0.3, replicates=50)
    assert found.auroc.value == pytest.approx(sklearn.roc_auc_score(brittle, score))
    assert found.aupr.value == pytest.approx(sklearn.average_precision_score(brittle, score))
    precision, recall, _ = sklearn.precision_recall_curve(brittle, score)
    assert found.aupr_trapezoid.value == pytest.approx(sklearn.auc(recall, precision))
    false, true, thresholds = sklearn.roc_curve(brittle, score, drop_intermediate=False)
    assert found.fpr95.value == pytest.approx(false[true >= 0.95].min())
    assert found.threshold95.value == pytest.approx(-thresholds[true >= 0.95].max())


@pytest.mark.parametrize("name", SCORES)
def test_the_direction_of_a_score_is_declared_and_bad_scores_stay_bad(name):
    margins = np.linspace(0.1, 1, 10)
    sign = {"low": 1, "high": -1}[SCORES[name].brittle_when]
    good = detection(table_of(margins, sign * margins, name), epsilon=0.5, score=name, replicates=50)
    bad = detection(table_of(margins, -sign * margins, name), epsilon=0.5, score=name, replicates=50)
    assert (good.auroc.value, bad.auroc.value) == (1, 0)
    assert (good.fpr95.value, bad.fpr95.value) == (0, 1)


@pytest.mark.parametrize("name", ["logit_margin", "entropy"])
def test_the_threshold_is_in_the_scores_own_units_and_finds_95_percent(name):
    table = random_table().rename(columns={"logit_margin": name})
    table[name] *= {"low": 1, "high": -1}[SCORES[name].brittle_when]
    threshold = detection(table, epsilon=0.3, score=name, replicates=200).threshold95
    brittle = table["upper"] <= 0.3
    flagged = table[name] <= threshold.value if name == "logit_margin" else table[name] >= threshold.value
    assert (flagged & brittle).sum() >= 0.95 * brittle.sum()
    assert threshold.value in table[name].to_numpy()
    assert threshold.low <= threshold.value <= threshold.high


def test_a_failed_attack_is_not_brittle_at_any_epsilon():
    table = table_of([0.1, 0.2, np.inf, np.inf], [1.0, 2.0, 3.0, 4.0])
    found = detection(table, epsilon=1e9, replicates=50)
    assert (found.brittle.value, found.auroc.value) == (0.5, 1)


def test_a_margin_of_just_epsilon_is_brittle_and_not_robust():
    table = table_of(np.array([0.1, 0.3], dtype=np.float32), [1.0, 2.0]).assign(label=[0, 0], predicted=[0, 0])
    assert detection(table, epsilon=0.1, replicates=50).brittle.value == 0.5
    assert robust_accuracy(table, epsilon=0.1).value == 0.5


@pytest.mark.parametrize(("norm", "epsilon"), [("Linf", 0.1), ("Linf", 8 / 255), ("L2", 0.5), ("L1", 12.0)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_an_attack_that_spends_just_its_budget_leaves_no_image_robust(norm, epsilon, shape):
    inputs = torch.rand(50, *shape)
    steps = torch.randn_like(inputs).sign() if norm == "Linf" else torch.randn_like(inputs)
    moved = inputs + epsilon * steps / vector_norm(steps, norm).view(-1, 1, 1, 1)
    upper = vector_norm(moved - inputs, norm)  # not clamped: every image spends its whole budget, up to rounding
    assert (upper > epsilon).any()
    table = pd.DataFrame({"label": 0, "predicted": 0, "upper": upper.numpy()})
    assert robust_accuracy(table, epsilon=epsilon).value == 0


@pytest.mark.parametrize("function", [robust_accuracy, brittle_share, detection, curves])
def test_a_budget_tells_who_is_brittle_there_only_and_a_lower_bound_everywhere(function):
    table = read_record("digits/ibp/Linf/fgsm-crown")
    function(table, epsilon=0.1)
    function(table, epsilon=0.12, margin="lower")
    with pytest.raises(RecordError, match=r"who is brittle at 0\.12, got fgsm with a budget of 0\.1, which says"):
        function(table, epsilon=0.12)


def test_curves_pass_through_the_points_that_are_counted():
    found = curves(table_of([0.1, 0.2, 0.3, 0.4], [1.0, 3.0, 2.0, 4.0]), epsilon=0.25)
    assert set(zip(found.false_positive_rate, found.true_positive_rate, strict=True)) >= {(0, 0), (0.5, 0.5), (1, 1)}
    assert set(zip(found.recall, found.precision, strict=True)) >= {(0.5, 1), (0.5, 0.5), (1, 2 / 3)}


@pytest.mark.parametrize("seed", range(3))
def test_the_areas_under_the_curves_are_the_estimates(seed):
    table = random_table(seed=seed)
    table.loc[:3, "logit_margin"] = np.inf
    found, drawn = detection(table, epsilon=0.4, replicates=50), curves(table, epsilon=0.4)
    assert sklearn.auc(drawn.false_positive_rate, drawn.true_positive_rate) == pytest.approx(found.auroc.value)
    assert sklearn.auc(drawn.recall, drawn.precision) == pytest.approx(found.aupr_trapezoid.value)


def test_accuracies_count_images():
    table = pd.DataFrame({"label": [0, 1, 2, 3], "predicted": [0, 1, 2, 0], "upper": [0.1, 0.3, np.inf, 0.9]})
    assert clean_accuracy(table).value == 0.75
    assert robust_accuracy(table, epsilon=0.2).value == 0.5  # the wrong image has a margin, and is not robust
    assert robust_accuracy(table.assign(lower=0.0), epsilon=0.2, margin="lower").value == 0


@pytest.mark.parametrize("function", [lambda *a, **k: detection(*a, replicates=50, **k), curves])
@pytest.mark.parametrize(
    ("table", "options", "error", "text"),
    [
        (random_table(), {"epsilon": 0}, DegenerateError, "none of 200 rows are positive"),
        (random_table(), {"epsilon": 2}, DegenerateError, "all of 200 rows are positive"),
        (random_table(), {"epsilon": 0.3, "score": "entropy"}, MissingColumnError, "Expected a column 'entropy'"),
        (random_table(), {"epsilon": 0.3, "score": "entropi"}, UnknownNameError, "Unknown score 'entropi'"),
        (random_table(), {"epsilon": 0.3, "margin": "lower"}, MissingColumnError, "Expected a column 'lower'"),
        (random_table(), {"epsilon": "8/255"}, UsageError, "Expected epsilon to be a number"),
        (table_of([0.1, np.nan], [1, 2]), {"epsilon": 0.3}, DegenerateError, "1 of 2 rows of upper are NaN"),
        (table_of([0.1, 0.9], [1, np.nan]), {"epsilon": 0.3}, DegenerateError, "1 of 2 rows of score are NaN"),
    ],
)
def test_what_cannot_be_detected_is_refused(function, table, options, error, text):
    with pytest.raises(error) as caught:
        function(table, **options)
    assert text in str(caught.value)
