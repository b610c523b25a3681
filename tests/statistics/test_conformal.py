"""Split conformal thresholds against every ordering of small samples, the Beta law, and shipped records."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from margincons.detection import is_brittle
from margincons.errors import DegenerateError, TooFewImagesError, UsageError
from margincons.records import read_record, shipped_records
from margincons.statistics.conformal import conformal_rank, conformal_threshold, images_needed, split_rates

RATES = st.integers(1, 99).map(lambda percent: Fraction(percent, 100))


def misses_of_all_orders(values, rate):
    """Share of the m + 1 choices of the new value in which it falls short of the others' threshold: exact."""
    short = [
        values[new] < conformal_threshold(np.delete(values, new), rate)
        for new in range(len(values))  # the order of the others changes nothing
    ]
    return Fraction(sum(short), len(values))


@given(st.lists(st.integers(0, 9) | st.just(np.inf) | st.just(-np.inf), min_size=3, max_size=30), RATES)
def test_whichever_value_is_the_new_one_it_falls_short_at_most_as_often_as_promised(values, rate):
    values = np.array(values, dtype=float)  # ties and infinities among them
    rate = float(rate)
    if conformal_rank(len(values) - 1, rate):
        assert misses_of_all_orders(values, rate) <= Fraction(str(rate))


@given(st.integers(2, 60), RATES)
def test_without_ties_it_falls_short_in_exactly_k_of_m_plus_1_choices(m, rate):
    rank = conformal_rank(m, float(rate))
    if rank:
        assert misses_of_all_orders(np.arange(m + 1.0), float(rate)) == Fraction(rank, m + 1)
        assert rate - Fraction(1, m + 1) < Fraction(rank, m + 1) <= rate


def test_a_larger_threshold_would_break_the_promise():
    values = np.arange(20.0)
    assert misses_of_all_orders(values, 0.1) == Fraction(2, 20)  # the next one: 3 / 20 > 0.1


def test_the_miss_rate_of_one_calibration_follows_the_beta_law():
    m, rate, draw = 49, 0.1, np.random.default_rng(0)
    thresholds = [conformal_threshold(draw.random(m), rate) for _ in range(4000)]  # uniform: threshold = miss rate
    k = conformal_rank(m, rate)
    assert stats.kstest(thresholds, stats.beta(k, m + 1 - k).cdf).pvalue > 0.01
    assert stats.kstest(thresholds, stats.beta(k + 1, m - k).cdf).pvalue < 1e-6  # a rank more is told apart


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.1, 9), (0.05, 19), (0.3, 3), (0.29, 3), (0.01, 99), (0.5, 1), (2 / 3, 1)]
)
def test_as_many_images_are_needed_as_the_error_says_and_no_fewer(rate, needed):
    assert images_needed(rate) == needed
    assert conformal_rank(needed, rate) == 1
    assert conformal_rank(needed - 1, rate) == 0
    with pytest.raises(TooFewImagesError, match=f"at least {needed} brittle calibration images") as caught:
        conformal_threshold(np.zeros(needed - 1), rate, what="brittle")
    assert f"got {needed - 1};" in str(caught.value)


@given(st.integers(1, 98))
def test_the_rate_that_the_error_offers_is_enough(got):
    with pytest.raises(TooFewImagesError, match=r"^Expected at least 99 calibration images .*or a rate of") as caught:
        conformal_threshold(np.zeros(got), 0.01)
    offered = float(str(caught.value).split("a rate of ")[2].split()[0])
    assert conformal_threshold(np.zeros(got), offered) == 0
    assert offered - 1 / (got + 1) < 0.001


def test_a_rate_is_the_decimal_that_was_written():
    assert conformal_rank(99, 0.29) == 29  # 0.29 * 100 is 28.999999999999996
    assert conformal_rank(99, np.float64(0.29)) == 29


@given(st.integers(1, 999_999))
def test_m_images_can_promise_one_in_m_plus_1_and_no_less(m):
    rate = 1 / (m + 1)
    assert (conformal_rank(m, rate), conformal_rank(m - 1, rate), images_needed(rate)) == (1, 0, m)
    assert conformal_rank(m, np.nextafter(rate, 0)) == 0


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, np.nan])
def test_a_rate_that_promises_nothing_or_everything_is_refused(rate):
    with pytest.raises(UsageError, match="Expected a rate between 0 and 1"):
        conformal_threshold(np.zeros(100), rate)


def test_a_score_that_is_nan_calibrates_nothing():
    with pytest.raises(DegenerateError, match="1 of 10 calibration scores are NaN"):
        conformal_threshold(np.array([np.nan, *range(9)]), 0.2)


def test_the_mean_over_all_splits_of_four_images_is_what_the_proof_says():
    values, rate = np.array([3.0, 1.0, 4.0, 2.0]), 0.4
    rates = [
        np.mean([values[i] < conformal_threshold(values[list(known)], rate) for i in set(range(4)) - set(known)])
        for known in itertools.combinations(range(4), 2)
    ]
    assert np.mean(rates) == pytest.approx(conformal_rank(2, rate) / 3)
    found = split_rates(np.ones(4, bool), values, rate=rate, splits=2000)["rate"]
    assert abs(found.mean() - np.mean(rates)) < 4 * found.std() / np.sqrt(2000)


RECORDS = {  # epsilon as the pages take it
    name: 0.1 if name.startswith("digits/") else 8 / 255 if "/Linf/" in name else 0.5
    for name in shipped_records()
    if name.startswith(("digits/", "cifar10/")) and name.endswith("/minimum_norm")
}


def test_every_network_is_judged_in_every_norm_that_it_was_measured_in():
    assert len(RECORDS) == 13 + 10


@pytest.mark.parametrize("name", RECORDS)
def test_over_200_random_splits_of_a_record_the_mean_miss_rate_is_as_promised(name):
    table = read_record(name)
    brittle = is_brittle(table, RECORDS[name])
    found = split_rates(brittle, -table["logit_margin"].to_numpy(), rate=0.1)
    error = found["rate"].std() / np.sqrt(200)  # splits are independent given the record, so this is honest
    assert len(found) == 200
    assert found["rate"].mean() <= 0.1 + 2 * error
    exact = np.mean([conformal_rank(m, 0.1) / (m + 1) for m in found["calibration"]])
    assert abs(found["rate"].mean() - exact) < 4 * error  # and no lower than the proof says


def test_ties_make_a_threshold_flag_more_never_less():
    table = read_record("digits/masked/Linf/minimum_norm")  # its entropies saturate: nearly all are equal
    brittle = is_brittle(table, 0.1)
    assert table["entropy"][brittle].nunique() < 20
    assert split_rates(brittle, table["entropy"].to_numpy(), rate=0.1)["rate"].mean() <= 0.1


def test_flagged_and_missed_are_counted_on_the_judged_images_alone():
    values = np.random.default_rng(3).random(40)
    found = split_rates(np.ones(40, bool), values, rate=0.3, calibrated=39)  # one image is judged: flagged or missed
    assert set(found["flagged"]) == {0.0, 1.0}
    assert (found["flagged"] == 1 - found["rate"]).all()


def test_a_shift_is_judged_on_the_same_halves_and_keeps_no_promise():
    values, brittle = np.random.default_rng(0).random(400), np.arange(400) % 2 == 0
    options = {"rate": 0.1, "splits": 20}
    calm = split_rates(brittle, values, **options)
    assert calm.equals(split_rates(brittle, values, shifted=(brittle, values), **options))
    lowered = split_rates(brittle, values, shifted=(brittle, values - 1), **options)
    assert (lowered["rate"] == 1).all()  # every brittle image falls short of thresholds from before the shift
    assert (split_rates(brittle, values, shifted=(~brittle, values + 1), **options)["rate"] == 0).all()
    assert lowered["calibration"].equals(calm["calibration"])
