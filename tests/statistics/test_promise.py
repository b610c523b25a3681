"""A promised miss rate judged: against all orders of small samples, SciPy, simulation and the single-change split."""

import itertools

import numpy as np
import pytest
from scipy import stats

from margincons.errors import DegenerateError, ShapeError, TooFewImagesError, UsageError
from margincons.statistics.conformal import conformal_threshold, split_rates
from margincons.statistics.promise import WORST, WORST_OTHER, judge_promise, rates_across


@pytest.mark.parametrize(("m", "new", "rate"), [(4, 3, 0.4), (9, 4, 0.1), (6, 5, 0.3)])
def test_both_chances_are_shares_of_all_orders(m, new, rate):
    places = np.arange(m + new, dtype=float)
    orders = [np.array(chosen) for chosen in itertools.combinations(range(m + new), new)]
    judged = [judge_promise(np.delete(places, chosen), places[chosen], rate=rate) for chosen in orders]
    misses = np.array([round(one.missed.value * new) for one in judged])
    apart = np.array([stats.ks_2samp(np.delete(places, chosen), places[chosen]).statistic for chosen in orders])
    for one, count, distance in zip(judged, misses, apart, strict=True):
        assert one.chance_of_more == pytest.approx((misses >= count).mean(), abs=1e-12)
        assert one.chance_of_change == pytest.approx((apart >= distance - 1e-9).mean(), abs=1e-12)


def test_one_new_image_below_all_nine_known_ones_is_no_proof_of_a_change():
    judged = judge_promise(np.arange(9.0), np.array([-1.0]), rate=0.1)
    assert judged.chance_of_change == pytest.approx(2 / 10)  # as far below, or above, as one of ten can lie


def test_misses_are_those_below_the_threshold_with_wilsons_interval():
    draw = np.random.default_rng(0)
    known, new = draw.random(50), draw.random(80) - 0.2
    missed = new < conformal_threshold(known, 0.1)
    interval = stats.binomtest(int(missed.sum()), 80).proportion_ci(0.99, method="wilson")
    judged = judge_promise(known, new, rate=0.1, level=0.99)
    assert judged.missed.value == missed.mean()
    assert (judged.missed.low, judged.missed.high) == pytest.approx((interval.low, interval.high))


def test_both_chances_are_small_only_as_often_as_they_say_where_nothing_changed_and_find_a_change():
    draw = np.random.default_rng(1)
    same = [judge_promise(draw.random(60), draw.random(70), rate=0.1) for _ in range(1000)]
    for name in ("chance_of_more", "chance_of_change"):
        chances = np.array([getattr(one, name) for one in same])
        for level in (0.05, 0.2):
            assert (chances <= level).mean() <= level + 4 * np.sqrt(level * (1 - level) / 1000)
        assert (chances <= 0.2).mean() > 0.1  # and are no empty promise
    moved = judge_promise(draw.random(60), draw.random(70) - 0.3, rate=0.1)
    assert max(moved.chance_of_more, moved.chance_of_change) < 1e-3
    harmless = judge_promise(draw.random(60), draw.random(70) + 0.3, rate=0.1)  # a change that no promise minds
    assert harmless.chance_of_change < 1e-3
    assert harmless.missed.high < 0.1
    assert harmless.chance_of_more > 0.5


def changed(n=120, seed=2):
    """Three changes of the same images: as they are, all less brittle to the score, and some of it noise."""
    draw = np.random.default_rng(seed)
    values, brittle = draw.random(n), draw.random(n) < 0.5
    return {"clean": (brittle, values), "dim": (brittle, values - 0.3), "noisy": (~brittle, draw.random(n))}


def means(found, column="missed"):
    return found.pivot_table(index="calibrated on", columns="judged on", values=column, sort=False)


def test_a_threshold_on_one_change_is_the_split_of_that_change_alone():
    changes = changed()
    found = rates_across(changes, rate=0.1, splits=40, seed=5).set_index(["calibrated on", "judged on"]).sort_index()
    for known, pair in changes.items():
        for new, other in changes.items():
            one = split_rates(*pair, rate=0.1, shifted=other, splits=40, seed=5)  # the same halves
            assert found.loc[(known, new), "missed"].tolist() == one["rate"].tolist()
            assert found.loc[(known, new), "flagged"].tolist() == one["flagged"].tolist()


def test_the_worst_of_all_keeps_the_promise_on_each_change_and_the_worst_of_one_other_is_that_other():
    found = rates_across(changed(), rate=0.1, splits=200)
    missed, flagged, own = means(found), means(found, "flagged"), ["clean", "dim", "noisy"]
    spread = found[found["calibrated on"] == WORST].groupby("judged on")["missed"].std() / np.sqrt(200)
    assert (missed.loc[WORST] <= 0.1 + 3 * spread).all()
    assert missed.loc["clean", "dim"] > 0.2  # where the threshold of another does not
    assert (missed.loc[WORST] <= missed.loc[own].min()).all()
    assert (flagged.loc[WORST] >= flagged.loc[own].max()).all()
    two = means(rates_across({name: changed()[name] for name in ("clean", "dim")}, rate=0.1, splits=40))
    assert two.loc[WORST_OTHER].tolist() == [two.loc["dim", "clean"], two.loc["clean", "dim"]]
    alone = means(rates_across({"clean": changed()["clean"]}, rate=0.1, splits=3))
    assert list(alone.index) == ["clean", WORST]
    assert alone.loc[WORST, "clean"] == alone.loc["clean", "clean"]


def test_changes_with_too_few_brittle_images_are_left_out():
    changes = changed() | {"robust": (np.zeros(120, dtype=bool), np.arange(120.0))}
    found = rates_across(changes, rate=0.1, splits=4)
    assert "robust" not in set(found["calibrated on"])
    assert "robust" not in set(found["judged on"])
    assert WORST not in set(found["calibrated on"])  # no threshold keeps the promise on the robust ones' change
    assert not found.isna().any(axis=None)


def test_what_cannot_be_judged_is_refused():
    values = np.arange(20.0)
    with pytest.raises(DegenerateError, match="no new brittle image"):
        judge_promise(values, values[:0], rate=0.1)
    with pytest.raises(DegenerateError, match="1 of 2 new values are NaN"):
        judge_promise(values, np.array([1, np.nan]), rate=0.1)
    with pytest.raises(TooFewImagesError):
        judge_promise(values[:8], values, rate=0.1)
    with pytest.raises(ShapeError, match="one length"):
        rates_across({"a": (values > 3, values), "b": (values[1:] > 3, values[1:])}, rate=0.1)
    with pytest.raises(TooFewImagesError):
        rates_across({}, rate=0.1)
    for size in (0, 20, 21):
        with pytest.raises(UsageError, match="calibrate on 1 to 19 of 20 images"):
            split_rates(values > 3, values, rate=0.1, calibrated=size)
