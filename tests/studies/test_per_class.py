"""Brittleness by class: each class alone is the whole record of that class, and the global threshold is one for all."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency, fisher_exact

from margincons.consistency import consistency
from margincons.detection import detection
from margincons.errors import MissingColumnError
from margincons.studies.per_class import per_class, same_in_all_classes


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    margins = rng.random(300)
    classes = np.repeat([0, 1, 2], [150, 100, 50])
    return pd.DataFrame({"predicted": classes, "upper": margins, "logit_margin": margins + 0.4 * rng.random(300)})


def test_a_class_has_the_numbers_of_a_record_of_that_class_alone(table):
    found = per_class(table, epsilon=0.3, replicates=50, seed=1)
    assert found["images"].to_dict() == {0: 150, 1: 100, 2: 50}
    for name, images in table.groupby("predicted"):
        alone = detection(images, epsilon=0.3, replicates=50, seed=1)
        row = found.loc[name]
        assert row["tau"] == consistency(images, replicates=50, seed=1).tau
        assert (row["threshold"], row["flagged"]) == (alone.threshold95, alone.fpr95)
        assert row["share brittle"] == alone.brittle


def test_the_global_threshold_finds_over_all_classes_what_it_finds_over_the_record(table):
    found = per_class(table, epsilon=0.3, replicates=20)
    whole = detection(table, epsilon=0.3, replicates=20)
    brittle = table["upper"] <= 0.3
    for name, images, share in (
        ("found at the global", brittle, (table["logit_margin"] <= whole.threshold95.value)[brittle].mean()),
        ("flagged at the global", ~brittle, whole.fpr95.value),
    ):
        sizes = images.groupby(table["predicted"]).sum()
        assert [row.n for row in found[name]] == sizes.tolist()
        assert sum(row.value * row.n for row in found[name]) / sizes.sum() == pytest.approx(share)


def test_one_threshold_serves_classes_on_other_scales_unequally(table):
    stretched = table.assign(logit_margin=table["logit_margin"] * np.where(table["predicted"] == 0, 10, 1))
    found = per_class(stretched, epsilon=0.3, replicates=20)
    own = per_class(table, epsilon=0.3, replicates=20)
    assert found.loc[0, "flagged"] == own.loc[0, "flagged"]  # each class by itself is as it was
    assert found.loc[0, "flagged at the global"].value < 0.1 * found.loc[1, "flagged at the global"].value


def test_what_a_class_lacks_is_none_and_small_classes_are_left_out(table):
    odd = table.assign(upper=np.where(table["predicted"] == 1, 0.9, table["upper"]))  # class 1 has no brittle image
    found = per_class(odd, epsilon=0.3, least=60, replicates=20)
    assert list(found.index) == [0, 1]
    assert found.loc[1, ["tau", "threshold", "flagged", "found at the global"]].isna().all()
    assert found.loc[1, "share brittle"].value == 0
    assert found.loc[1, "flagged at the global"].n == 100
    nothing = per_class(table.assign(upper=0.9), epsilon=0.3, replicates=20)
    assert nothing[["threshold", "found at the global", "flagged at the global"]].isna().all(axis=None)
    assert per_class(table, epsilon=0.3, least=1000, replicates=20).empty


def test_the_permutation_test_agrees_with_fishers_and_with_chi_squared_where_they_hold(table):
    small = pd.DataFrame({"predicted": [0] * 8 + [1] * 8})
    event = np.array([1] * 6 + [0] * 2 + [1] * 2 + [0] * 6, dtype=bool)
    everyone = np.ones(16, dtype=bool)
    exact = fisher_exact([[6, 2], [2, 6]]).pvalue  # classes of one size: both order tables alike
    assert same_in_all_classes(small, event, everyone) == pytest.approx(exact, abs=0.015)
    rng = np.random.default_rng(1)
    event = rng.random(300) < np.where(table["predicted"] == 2, 0.55, 0.4)
    large = chi2_contingency(pd.crosstab(table["predicted"], event), correction=False).pvalue
    assert same_in_all_classes(table, event, np.ones(300, dtype=bool)) == pytest.approx(large, abs=0.02)


def test_only_the_images_among_which_the_share_is_taken_count(table):
    event = (table["predicted"] == 0).to_numpy()  # differs between 0 and the others, not between those two
    among = (table["predicted"] > 0).to_numpy()
    assert same_in_all_classes(table, event, np.ones(300, dtype=bool), permutations=999) == 0.001
    assert np.isnan(same_in_all_classes(table, event, among))
    assert np.isnan(same_in_all_classes(table, event, ~among))


def test_a_margin_that_is_epsilon_up_to_rounding_is_brittle_in_every_column(table):
    spent = table.assign(upper=np.where(table.index % 2, 0.3 + 2e-8, 0.9))  # half are found with all of epsilon
    found = per_class(spent, epsilon=0.3, replicates=20)
    for _, row in found.iterrows():
        assert row["share brittle"].value == 0.5
        assert row["found at the global"].n == row["flagged at the global"].n == row["images"] / 2


def test_a_missing_column_is_named(table):
    with pytest.raises(MissingColumnError, match="Expected a column 'lower'"):
        per_class(table, epsilon=0.3, margin="lower")
