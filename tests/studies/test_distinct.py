"""Truth: records made from one another, by a factor, by noise, and by one changed decision."""

import numpy as np
import pandas as pd
import pytest

import margincons as mc
from margincons.errors import MissingColumnError
from margincons.studies.distinct import distinct, uncounted

RNG = np.random.default_rng(0)
ONE = pd.DataFrame(
    {
        "predicted": RNG.integers(10, size=50),
        "upper": RNG.uniform(0.1, 1, 50),
        "logit_margin": RNG.uniform(1, 9, 50),
    }
)
BOTH = ("upper", "logit_margin")


def test_of_networks_that_are_one_up_to_a_factor_the_first_is_kept():
    scaled = ONE.assign(logit_margin=100 * ONE["logit_margin"], upper=ONE["upper"] * RNG.uniform(0.99, 1.01, 50))
    assert distinct({"a": ONE, "b": scaled, "c": ONE}, columns=BOTH) == ["a"]
    assert distinct({"b": scaled, "a": ONE}, columns=BOTH) == ["b"]


def test_other_logits_make_another_network_only_where_logits_are_compared():
    bent = ONE.assign(logit_margin=ONE["logit_margin"] ** 2)
    assert distinct({"a": ONE, "b": bent}) == ["a"]
    assert distinct({"a": ONE, "b": bent}, columns=BOTH) == ["a", "b"]


@pytest.mark.parametrize("change", ["predicted", "upper"])
def test_one_image_that_differs_makes_another_network(change):
    other = ONE.copy()
    other.loc[7, change] = 11 if change == "predicted" else other.loc[7, "upper"] * 1.2
    assert distinct({"a": ONE, "b": other}) == ["a", "b"]


def test_margins_that_no_attack_bounds_agree_with_each_other_and_with_no_number():
    open_end = ONE.assign(upper=ONE["upper"].mask(ONE.index < 30, np.inf))
    assert distinct({"a": open_end, "b": open_end}) == ["a"]
    assert distinct({"a": open_end, "b": ONE}) == distinct({"a": open_end, "c": open_end, "b": ONE}) == ["a", "b"]


def test_the_sentence_names_those_left_out_alone():
    assert uncounted(["a", "b", "c"], ["b"]).endswith(": `a`, `c`.")
    assert uncounted(["a", "b"], ["a", "b"]) == ""


def test_a_column_that_is_lacking_is_named():
    with pytest.raises(MissingColumnError, match="upper"):
        distinct({"a": ONE, "b": ONE.drop(columns="upper")})


def test_the_bundled_zoo_holds_two_pairs_by_margins_and_one_by_scores():
    names = ["standard", "pgd_at", "fgsm_at", "rescaled", "masked"]
    tables = {name: mc.read_record(f"digits/{name}/Linf/minimum_norm") for name in names}
    assert distinct(tables) == ["standard", "pgd_at", "fgsm_at"]
    assert distinct(tables, columns=BOTH) == ["standard", "pgd_at", "fgsm_at", "rescaled"]
