import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from margincons.detector.thresholds import calibrate
from margincons.errors import DegenerateError, ShapeError, TooFewImagesError, UsageError
from margincons.statistics.conformal import conformal_rank

RATES = st.sampled_from([0.05, 0.1, 0.25, 0.5])


def sample(n=400, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    margins = rng.random(n)
    return margins + noise * rng.standard_normal(n), margins


@pytest.mark.parametrize("sign", [1, -1])
def test_both_directions_of_a_score_decide_alike(sign):
    scores, margins = sample()
    options = {"epsilon": 0.4, "miss_rate": 0.1, "false_alarm_rate": 0.2}
    one = calibrate(scores, margins, sign=1, **options)
    other = calibrate(sign * scores, margins, sign=sign, **options)
    given = torch.from_numpy(scores)
    assert (other.flag, other.alarm) == (sign * one.flag, sign * one.alarm)
    assert torch.equal(one.flagged(given), other.flagged(sign * given))
    assert torch.equal(one.brittle(given), other.brittle(sign * given))


@settings(deadline=None)
@given(st.integers(0, 10**6), RATES, RATES, st.booleans(), st.floats(0, 1))
def test_on_its_own_images_it_errs_on_one_rank_less_of_either_kind_at_most(seed, miss, alarm, ties, noise):
    scores, margins = sample(seed=seed, noise=noise)
    scores = scores.round(1) if ties else scores
    found = calibrate(scores, margins, sign=1, epsilon=0.4, miss_rate=miss, false_alarm_rate=alarm)
    given, brittle = torch.from_numpy(scores), margins <= 0.4 + 1e-6
    missed = (~found.flagged(given)).numpy()[brittle].sum()
    false = found.brittle(given).numpy()[~brittle].sum()
    assert missed <= conformal_rank(brittle.sum(), miss) - 1
    assert false <= conformal_rank((~brittle).sum(), alarm) - 1
    if not ties:
        assert missed == conformal_rank(brittle.sum(), miss) - 1  # and no more is flagged than must be


def test_a_score_that_separates_better_than_asked_leaves_nothing_undecided():
    scores, margins = sample(noise=0)
    found = calibrate(scores, margins, sign=1, epsilon=0.4, miss_rate=0.1, false_alarm_rate=0.1)
    assert found.flag < found.alarm  # crossed: between them both calls would be allowed
    given = torch.linspace(0, 1, 101)
    assert torch.equal(found.flagged(given), found.brittle(given))


def test_a_poor_score_leaves_most_undecided():
    scores, margins = sample(noise=10)
    found = calibrate(scores, margins, sign=1, epsilon=0.4, miss_rate=0.1, false_alarm_rate=0.1)
    given = torch.from_numpy(scores)
    undecided = found.flagged(given) & ~found.brittle(given)
    assert 0.7 < undecided.float().mean() < 0.9


def test_both_promises_hold_on_average_over_fresh_samples():
    missed, false = [], []
    for seed in range(300):
        scores, margins = sample(n=220, seed=seed)
        found = calibrate(scores[:120], margins[:120], sign=1, epsilon=0.4, miss_rate=0.1, false_alarm_rate=0.2)
        new, brittle = torch.from_numpy(scores[120:]), margins[120:] <= 0.4
        missed.append((~found.flagged(new)).numpy()[brittle].mean())
        false.append(found.brittle(new).numpy()[~brittle].mean())
    for rates, promised in ((missed, 0.1), (false, 0.2)):
        assert np.mean(rates) <= promised + 2 * np.std(rates) / np.sqrt(300)
        assert np.mean(rates) > 0.6 * promised


def test_nan_is_flagged_and_undecided_and_infinities_fall_where_they_belong():
    scores, margins = sample()
    found = calibrate(scores, margins, sign=1, epsilon=0.4, miss_rate=0.1, false_alarm_rate=0.1)
    given = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert found.flagged(given).tolist() == [True, False, True]
    assert found.brittle(given).tolist() == [False, False, True]


def test_an_infinite_margin_is_robust_and_a_margin_of_just_epsilon_is_brittle():
    margins = np.array([np.float32(0.1)] * 9 + [np.inf] * 4)  # float32(0.1) exceeds 0.1
    found = calibrate(np.arange(13.0), margins, sign=1, epsilon=0.1, miss_rate=0.1)
    assert (found.n_brittle, found.n_robust, found.flag) == (9, 4, 8)


def test_infinite_scores_calibrate():
    scores = np.array([*range(8), np.inf, np.inf, 0, 0], dtype=float)
    found = calibrate(scores, np.array([0.0] * 10 + [1.0] * 2), sign=1, epsilon=0.5, miss_rate=0.1)
    assert found.flag == np.inf
    assert found.flagged(torch.tensor([torch.inf, 1e30])).all()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"margins": np.ones(3)}, ShapeError, r"margins to be one per calibration image, (400,), got (3,)."),
        ({"margins": -np.ones(400)}, UsageError, "Expected margins of 0 or more, got -1;"),
        ({"margins": np.full(400, np.nan)}, DegenerateError, "400 of 400 rows of upper are NaN"),
        ({"scores": np.full(400, np.nan)}, DegenerateError, "400 of 400 calibration scores are NaN"),
        (
            {"margins": np.ones(400)},
            TooFewImagesError,
            "at least 9 brittle calibration images to promise",
        ),
        (
            {"margins": np.zeros(400)},
            TooFewImagesError,
            "at least 9 robust calibration images to promise",
        ),
        ({"miss_rate": 0}, UsageError, "Expected a rate between 0 and 1, such as 0.1, got 0."),
        ({"false_alarm_rate": 10}, UsageError, "Expected a rate between 0 and 1, such as 0.1, got 10."),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused(change, error, text):
    scores, margins = sample()
    options = {"scores": scores, "margins": margins, "sign": 1, "epsilon": 0.4, "miss_rate": 0.1}
    with pytest.raises(error) as caught:
        calibrate(**options | {"false_alarm_rate": 0.1} | change)
    assert text in str(caught.value)


def test_nine_of_ten_calibrations_miss_as_many_as_the_range_says():
    rng, m = np.random.default_rng(0), 60
    found = [
        calibrate(rng.uniform(size=m), np.zeros(m), sign=1, epsilon=0.1, miss_rate=0.1) for _ in range(600)
    ]  # brittle scores are uniform: the chance to pass above the flag is one less the flag
    low, high = found[0].miss_range
    inside = np.mean([low <= 1 - one.flag <= high for one in found])
    assert abs(inside - 0.9) < 4 * np.sqrt(0.09 / 600)
    assert low < 0.1 < high


@pytest.mark.parametrize("m", [19, 60])
def test_the_range_ends_where_so_many_uniform_draws_fall_below_once_and_nineteen_times_in_twenty(m):
    found = calibrate(np.linspace(0, 1, m), np.zeros(m), sign=1, epsilon=0.1, miss_rate=0.1)
    rank = m - found.flag * (m - 1)  # of the flag, from the top
    assert rank == pytest.approx(conformal_rank(m, 0.1))
    assert stats.binom.sf(round(rank) - 1, m, found.miss_range) == pytest.approx([0.05, 0.95])
