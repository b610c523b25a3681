"""Each weighted form against scikit-learn with sample weights, or the point value on the rows repeated."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from margincons.statistics import metrics, weighted

RANKED = ("kendall_tau", "spearman")
TWO_CLASS = ("auroc", "average_precision", "aupr_trapezoid", "fpr_at_tpr", "threshold_at_tpr", "augrc")


@pytest.fixture
def samples():
    """Bootstrap counts (60, 40), flags, a margin and a score with many ties; the best score is infinite."""
    rng = np.random.default_rng(0)
    margin = rng.integers(12, size=60).astype(float)
    score = np.round(margin + rng.normal(scale=4, size=60))
    score[score == score.max()] = np.inf
    return rng.multinomial(60, np.full(60, 1 / 60), size=40).T.astype(float), margin > 6, margin, score


@pytest.mark.parametrize("name", RANKED + TWO_CLASS)
def test_a_weighted_form_is_the_statistic_of_the_repeated_rows(samples, name):
    weights, positive, margin, score = samples
    target = margin if name in RANKED else positive.astype(float)
    values = getattr(weighted, name)(weights, target, score)
    rows = [np.repeat(np.arange(len(score)), counts.astype(int)) for counts in weights.T]
    np.testing.assert_allclose(values, [getattr(metrics, name)(target[r], score[r]) for r in rows], rtol=1e-12)


def test_weighted_curves_agree_with_scikit_learns_sample_weight(samples):
    weights, positive, _, score = samples
    finite = np.where(np.isinf(score), 1e3, score)  # scikit-learn refuses infinite scores
    auroc, precision, fpr = (
        getattr(weighted, name)(weights, positive, score) for name in ("auroc", "average_precision", "fpr_at_tpr")
    )
    for replicate, counts in enumerate(weights.T):
        options = {"sample_weight": counts}
        expected = sklearn_metrics.roc_auc_score(positive, finite, **options)
        assert auroc[replicate] == pytest.approx(expected, abs=1e-12)
        expected = sklearn_metrics.average_precision_score(positive, finite, **options)
        assert precision[replicate] == pytest.approx(expected, abs=1e-12)
        false, true, _ = sklearn_metrics.roc_curve(positive, finite, drop_intermediate=False, **options)
        assert fpr[replicate] == pytest.approx(false[true >= 0.95].min(), abs=1e-12)


def test_weighted_accuracies_are_those_of_the_repeated_rows(samples):
    weights, positive, margin, _ = samples
    for replicate, counts in enumerate(weights.T.astype(int)):
        share = np.repeat(positive & (margin > 8), counts).mean()
        assert weighted.robust_accuracy(weights, positive, margin, 8)[replicate] == pytest.approx(share, abs=1e-12)
        assert weighted.accuracy(weights, positive)[replicate] == pytest.approx(np.repeat(positive, counts).mean())


def test_the_weighted_spread_is_that_of_the_repeated_rows(samples):
    weights, _, margin, _ = samples
    values = weighted.log_spread(weights, margin + 1)
    rows = [np.repeat(margin + 1, counts.astype(int)) for counts in weights.T]
    np.testing.assert_allclose(values, [np.std(np.log(r)) for r in rows], rtol=1e-12)


@pytest.mark.parametrize("name", RANKED + TWO_CLASS)
def test_a_sample_without_both_classes_or_constant_is_nan_and_spares_the_others(name):
    weights = np.array([[1.0, 4.0, 0.0], [1.0, 0.0, 2.0], [1.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    target = np.array([0.0, 1.0, 1.0, 0.0])
    values = getattr(weighted, name)(weights, target, np.array([0.0, 1.0, 2.0, 3.0]))
    assert list(np.isnan(values)) == [False, True, True]


def test_the_blocks_of_pairs_do_not_change_tau(samples, monkeypatch):
    weights, _, margin, score = samples
    whole = weighted.kendall_tau(weights, margin, score)
    monkeypatch.setattr(weighted, "BLOCK_CELLS", 7 * len(score))  # 60 rows in blocks of 7, the last of 4
    np.testing.assert_array_equal(weighted.kendall_tau(weights, margin, score), whole)
