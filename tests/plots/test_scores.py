"""Figures of scores: marks where the numbers are, the frontier as its definition says."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from margincons.plots.scores import frontier, ladder, passes, price_list, score_values, unmatched
from margincons.studies.score_quality import quality, spoken
from margincons.zoo import list_models


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def costs(**rows):
    return pd.DataFrame.from_dict(rows, orient="index", columns=["forward", "backward", "time", "once"])


COSTS = costs(
    clever=(5.0, 40.0, 90.0, 0),
    crown_radius=(1.0, 0.0, 60.0, 0),
    logit_margin=(1.0, 0.0, 1.1, 0),
    energy=(1, 0, 0.9, 0),
)


def test_passes_are_counted_but_for_certificates_which_are_timed():
    assert passes(COSTS).to_dict() == {"clever": 45, "crown_radius": 60, "logit_margin": 1, "energy": 1}


def test_a_price_list_takes_medians_and_goes_from_cheap_to_dear():
    dearer = COSTS.assign(forward=COSTS["forward"] + 2).drop("energy")
    listed = price_list([COSTS, dearer, dearer])
    assert list(listed.index) == ["energy", "logit_margin", "clever", "crown_radius"]
    assert listed.loc["clever", "forward"] == 7
    assert list(price_list([COSTS]).index) == ["logit_margin", "energy", "clever", "crown_radius"]  # ties as registered


@pytest.mark.parametrize("seed", range(5))
def test_the_frontier_holds_what_no_cheaper_or_equally_dear_score_matches(axes, seed):
    draw = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(12)]
    cost = pd.Series(draw.integers(1, 6, 12).astype(float), index=names)
    value = pd.Series(draw.permutation(12) / 12, index=names)
    kept = frontier(axes, cost, value)
    expected = {a for a in names if not any(cost[b] <= cost[a] and value[b] > value[a] for b in names)}
    assert set(kept) == expected
    assert kept == unmatched(cost, value)
    assert [text.get_text() for text in axes.texts] == [str(i) for i in range(1, len(kept) + 1)]


def test_scores_that_were_learned_first_have_a_mark_of_their_own_and_move_no_line(axes):
    cost, value = pd.Series({"a": 1.0, "b": 1.0, "c": 5.0}), pd.Series({"a": 0.2, "b": 0.7, "c": 0.8})
    kept = frontier(axes, cost, value, learned=["b"])
    assert kept == ["b", "c"]
    (marked,) = (line for line in axes.lines if line.get_marker() == "D")
    assert marked.get_xydata().tolist() == [[1.0, 0.7]]
    assert unmatched(cost.drop("b"), value.drop("b")) == ["a", "c"]
    assert unmatched(cost, value * 0 + 0.7) == ["a"]  # a score of the same value is matched by the first


def results():
    draw = np.random.default_rng(0)
    margin = draw.uniform(0.01, 0.3, 60)
    columns = {name: margin + 0.1 * draw.normal(size=60) for name in ("logit_margin", "clever")}
    table = pd.DataFrame({"upper": margin} | columns)
    whole = quality(table, ["clever"], epsilon=0.1, replicates=50)
    return {"digits/mlp": whole, "digits/ibp": whole.drop("clever")}


def test_a_network_has_a_mark_at_the_value_of_each_score_that_it_has(axes):
    found = results()
    score_values(axes, found, ["logit_margin", "clever"], statistic="AUROC", reference="logit_margin")
    first, second = (line.get_xdata() for line in axes.lines)
    assert list(first) == [one.value for one in found["digits/mlp"]["AUROC"]]
    assert list(second) == [found["digits/ibp"].loc["logit_margin", "AUROC"].value]


def test_no_two_bundled_networks_have_the_same_mark(axes):
    table = results()["digits/mlp"]
    known = list_models("digits/")
    score_values(axes, dict.fromkeys(known, table), ["logit_margin"], statistic="tau", reference="logit_margin")
    looks = {(line.get_color(), line.get_marker(), line.get_fillstyle()) for line in axes.lines}
    assert len(looks) == len(known)


def test_a_ladder_has_a_line_per_score_and_a_panel_per_statistic():
    found = results()
    ladder(found, COSTS.loc[["logit_margin", "clever"]])
    figure = plt.gcf()
    assert [axes.get_xlabel() for axes in figure.axes] == ["passes per image", "tau", "AUROC", "FPR@95"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["logit margin", "CLEVER"]
    assert spoken("first_order_margin") == "first-order margin"
    plt.close(figure)
