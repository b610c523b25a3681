"""Associations against scipy, against exact permutation, and where the truth is known."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from margincons.errors import DegenerateError, MissingColumnError
from margincons.statistics.intervals import over_seeds
from margincons.studies.association import association, holm


def networks(recipes=7, seeds=4, *, across=0.0, within=0.0, seed=0):
    """A property x and one y that follows it across recipes, within them, both or neither; and rounded columns."""
    rng = np.random.default_rng(seed)
    base, noise = rng.normal(size=(recipes, 1)), 0.3 * rng.normal(size=(recipes, seeds))
    x = base + noise
    y = across * base + within * noise + rng.normal(size=(recipes, 1)) + 0.3 * rng.normal(size=(recipes, seeds))
    where = itertools.product(range(recipes), range(seeds))
    rows = [{"recipe": f"r{r}", "seed": s, "x": x[r, s], "y": y[r, s]} for r, s in where]
    return pd.DataFrame(rows)


QUICK = {"replicates": 50, "permutations": 99}


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 300), digits=st.integers(0, 8))
def test_values_are_scipys_tau_with_ties_or_without(seed, digits):
    table = networks(seed=seed, across=1).round({"x": digits, "y": digits})
    means = table.groupby("recipe")[["x", "y"]].mean().round(12)
    found = association(table, "x", "y", **QUICK)
    assert found.recipes.value == pytest.approx(stats.kendalltau(means["x"], means["y"]).statistic)
    by_seed = [stats.kendalltau(one["x"], one["y"]).statistic for _, one in table.groupby("seed")]
    assert found.seeds.value == pytest.approx(np.mean(by_seed))
    assert found.seeds.low == pytest.approx(over_seeds(np.array(by_seed)).low)


def test_within_recipes_only_pairs_of_one_recipe_count():
    table = networks(across=5, within=2)
    agree = pairs = 0
    for _, one in table.groupby("recipe"):
        for first, second in itertools.combinations(one.itertuples(), 2):
            agree += np.sign(first.x - second.x) * np.sign(first.y - second.y)
            pairs += 1
    assert association(table, "x", "y", **QUICK).within.value == pytest.approx(agree / pairs)
    moved = table.assign(y=table["y"] + table["recipe"].map({f"r{r}": -9.0 * r for r in range(7)}))
    before, after = (association(one, "x", "y", permutations=999) for one in (table, moved))
    assert after.within.value == pytest.approx(agree / pairs)
    assert after.p_within == before.p_within  # outcomes are dealt to seeds, never to another recipe
    assert (after.within.low, after.within.high) == (before.within.low, before.within.high)


def test_the_chance_over_recipes_is_that_of_all_permutations():
    table = networks(recipes=6, across=1, seed=3)
    means = table.groupby("recipe")[["x", "y"]].mean()
    exact = stats.kendalltau(means["x"], means["y"], method="exact").pvalue
    assert association(table, "x", "y", replicates=10, permutations=20_000).p == pytest.approx(exact, abs=0.02)


def test_a_relation_between_recipes_is_told_from_one_between_seeds():
    between = association(networks(recipes=14, across=8), "x", "y")
    assert between.p < 0.01 < between.recipes.low
    assert between.p_within > 0.01
    inside = association(networks(recipes=14, within=8), "x", "y")
    assert inside.p_within < 0.01 < inside.within.low
    assert inside.p > 0.01


def test_where_there_is_no_relation_small_chances_are_no_more_frequent_than_they_say():
    found = [association(networks(seed=seed), "x", "y", **QUICK) for seed in range(120)]
    for chances in (np.array([one.p for one in found]), np.array([one.p_within for one in found])):
        for level in (0.05, 0.1, 0.3, 0.5):  # rarer for a tau of few values, hardly ever more frequent
            frequent = int((chances <= level).sum())
            assert stats.binomtest(frequent, 120, level, alternative="greater").pvalue > 0.01
            assert level < 0.3 or frequent > 60 * level


def test_the_data_counts_among_its_permutations_so_that_no_chance_is_zero():
    sure = association(networks(recipes=14, across=8, within=8), "x", "y", **QUICK)  # beyond each of 99 permutations
    assert (sure.p, sure.p_within) == (1 / 100, 1 / 100)


def test_a_property_goes_with_itself_and_against_its_negative():
    table = networks()
    itself = association(table.assign(z=table["x"]), "x", "z")
    assert (itself.recipes.value, itself.seeds.value, itself.within.value) == pytest.approx((1, 1, 1))
    assert itself.recipes.low == pytest.approx(1)
    against = association(table.assign(z=-table["x"]), "x", "z")
    assert (against.recipes.value, against.within.value) == pytest.approx((-1, -1))
    assert against.p < 0.01


def test_holms_chances_by_hand_and_never_below_the_plain_ones():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == pytest.approx([1, 1])
    assert holm([0.02]) == pytest.approx([0.02])


@given(chances=st.lists(st.floats(0, 1), min_size=1, max_size=12), level=st.floats(0.001, 0.5))
def test_holm_rejects_what_stepping_down_rejects(chances, level):
    rejected = np.zeros(len(chances), dtype=bool)
    for step, place in enumerate(np.argsort(chances, kind="stable")):
        if chances[place] * (len(chances) - step) > level:
            break
        rejected[place] = True
    assert ((holm(chances) <= level) == rejected).all()


def test_what_has_no_association_is_refused():
    table = networks()
    with pytest.raises(DegenerateError, match="of 2 recipes"):
        association(table[table["recipe"].isin(["r0", "r1"])], "x", "y")
    with pytest.raises(DegenerateError, match="1 lack a value for a seed"):
        association(table.drop(index=3), "x", "y")
    with pytest.raises(DegenerateError, match="it is the same for all recipes"):
        association(table.assign(y=1.0), "x", "y")
    with pytest.raises(MissingColumnError, match="Expected a column 'z'"):
        association(table, "x", "z")
    with pytest.raises(MissingColumnError, match="Expected a column 'group'"):
        association(table, "x", "y", group="group")
