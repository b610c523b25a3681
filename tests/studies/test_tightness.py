import numpy as np
import pandas as pd
import pytest
import torch

from margincons.data import load_images
from margincons.errors import MissingColumnError
from margincons.margins import input_margins
from margincons.records import read_record
from margincons.studies.tightness import best_known, complete, looser_networks, mean_excesses, tightness, with_exact
from margincons.zoo import load_model

RIVAL = "FAB, paper's setting"


def results():
    """Two attacks on two images: ours finds 1.0 and misses one image, the rival finds 1.1 and 2.0."""
    common = {"set": "s", "network": "n", "forward": 1.0}
    ours = {"attack": "ours", "backward": 10.0, "seconds": 0.5}
    rival = {"attack": RIVAL, "backward": 1000.0, "seconds": 20.0}
    return pd.DataFrame(
        [
            {**common, **ours, "index": 0, "upper": 1.0},
            {**common, **ours, "index": 1, "upper": float("inf")},
            {**common, **rival, "index": 0, "upper": 1.1},
            {**common, **rival, "index": 1, "upper": 2.0},
        ]
    )


def test_the_best_bound_is_the_least_over_attacks():
    assert best_known(results()).set_index("index")["best"].to_dict() == {0: 1.0, 1: 2.0}


def test_a_reference_can_only_decrease():
    earlier = pd.DataFrame([{"set": "s", "network": "n", "index": i, "best": b} for i, b in ((0, 0.9), (1, 3.0))])
    assert best_known(results(), earlier).set_index("index")["best"].to_dict() == {0: 0.9, 1: 2.0}


def test_an_attack_that_missed_a_network_of_its_set_is_left_out():
    second = results().assign(network="m")
    both = pd.concat([results(), second[second["attack"] == RIVAL]], ignore_index=True)
    kept = complete(both)
    assert set(kept["attack"]) == {RIVAL} and len(kept) == 4
    assert len(complete(results())) == 4


def test_exact_margins_replace_the_best_bounds_where_they_were_solved():
    exact = pd.DataFrame({"index": [0, 1], "incumbent": [0.8, 1.9], "status": ["optimal", "time_limit"]})
    best = with_exact(best_known(results()), exact, group="s", network="n")
    assert best.set_index("index")["best"].to_dict() == {0: 0.8, 1: 2.0}
    elsewhere = with_exact(best_known(results()), exact, group="s", network="other")
    assert elsewhere.set_index("index")["best"].to_dict() == {0: 1.0, 1: 2.0}


def test_excess_counts_what_was_found_and_failures_stand_apart():
    table = tightness(results(), best_known(results())).loc["s"]
    assert table.loc["ours", "images"] == 2
    assert table.loc["ours", "mean excess"] == 0
    assert table.loc["ours", "failed"] == 0.5
    assert table.loc["ours", "within 0.1%"] == 0.5
    assert table.loc["ours", "not worse than FAB"] == 0.5
    assert table.loc["ours", "times faster"] == 40
    assert table.loc[RIVAL, "mean excess"] == pytest.approx(0.05)
    assert table.loc[RIVAL, "max excess"] == pytest.approx(0.1)


def test_only_images_that_the_rival_ran_on_are_compared_with_it():
    table = results().assign(upper=[1.2, 1.0, 1.1, 2.0], seconds=[0.5, 9.5, 20.0, 30.0])
    half = table[(table["attack"] == "ours") | (table["index"] == 0)]  # ours is worse on the one image that both saw
    compared = tightness(half, best_known(half)).loc[("s", "ours")]
    assert (compared["not worse than FAB"], compared["times faster"], compared["images"]) == (0, 40, 2)
    alone = table[table["attack"] == "ours"]
    assert tightness(alone, best_known(alone)).loc["s", ["not worse than FAB", "times faster"]].isna().all(axis=None)


@pytest.mark.parametrize(("factor", "share"), [(1.0005, 1.0), (1.002, 0.5)])
def test_not_worse_lets_a_thousandth_pass(factor, share):
    table = results().assign(upper=[1.1 * factor, 2.0, 1.1, 2.0])
    assert tightness(table, best_known(table)).loc[("s", "ours"), "not worse than FAB"] == share


def test_a_failure_makes_an_attack_looser_on_its_network():
    best = best_known(results())
    assert looser_networks(results(), best, attack="ours", rival=RIVAL) == ["n"]
    assert looser_networks(results(), best, attack=RIVAL, rival="ours") == []


def test_an_image_with_a_margin_of_zero_has_no_relative_excess():
    table = results().assign(upper=lambda t: t["upper"].where(t["index"] == 0, 0.0))
    assert tightness(table, best_known(table)).loc[("s", RIVAL), "mean excess"] == pytest.approx(0.1)


def test_a_missing_column_is_named():
    with pytest.raises(MissingColumnError, match="'backward'"):
        tightness(results().drop(columns="backward"), best_known(results()))


def spread_out(network="n"):
    """Our excess over the rival is 0, 0.1, ... 0.9 on ten images."""
    common = {"set": "s", "network": network, "forward": 1.0, "backward": 1.0, "seconds": 1.0, "index": range(10)}
    ours = pd.DataFrame({**common, "attack": "ours", "upper": 1 + np.arange(10) / 10})
    return pd.concat([ours, pd.DataFrame({**common, "attack": RIVAL, "upper": 1.0})], ignore_index=True)


def test_an_image_is_resampled_with_all_of_its_networks():
    both = pd.concat([spread_out("n"), spread_out("m")], ignore_index=True)  # one network twice is no more evidence
    one, two = (mean_excesses(table, best_known(table))["s", "ours"] for table in (spread_out(), both))
    assert (two.value, two.low, two.high) == pytest.approx((one.value, one.low, one.high))
    half = 1.96 * np.std(np.arange(10) / 10) / np.sqrt(10)
    assert (one.value, one.low, one.high) == pytest.approx((0.45, 0.45 - half, 0.45 + half), abs=0.03)


def test_a_rivals_excess_is_taken_off_image_by_image_where_both_found_a_bound():
    table = spread_out()
    table.loc[table["attack"] == RIVAL, "upper"] = table.loc[table["attack"] == "ours", "upper"].to_numpy() - 0.1
    table.loc[9, "upper"] = np.inf
    best = best_known(table).assign(best=1.0)
    gap = mean_excesses(table, best, rival=RIVAL)["s", "ours"]
    assert (gap.value, gap.low, gap.high, gap.n) == pytest.approx((0.1, 0.1, 0.1, 9))  # unpaired it would be wide
    assert mean_excesses(table, best)["s", "ours"].value == pytest.approx(np.arange(9).mean() / 10)
    assert mean_excesses(table, best)["s", "ours"].value == tightness(table, best).loc[("s", "ours"), "mean excess"]


def test_an_attack_that_found_nothing_has_no_mean_excess():
    table = spread_out()
    table.loc[table["attack"] == "ours", "upper"] = np.inf
    assert list(mean_excesses(table, best_known(table)).index) == [("s", RIVAL)]


@pytest.mark.parametrize("network", ["standard", "clp", "mlp"])
def test_the_benchmarks_bounds_of_ours_are_found_again(network):
    table = read_record("benchmark/Linf")
    rows = table[(table["network"] == network) & (table["attack"] == "ours standard")].sort_values("index").head(20)
    again = input_margins(load_model(f"digits/{network}"), load_images("digits", n=20).inputs, effort="standard").upper
    ratio = again / torch.tensor(rows["upper"].to_numpy())
    assert ((ratio - 1).abs() < 1e-3).float().mean() >= 0.75
    assert ((ratio > 0.95) & (ratio < 1.05)).all()


def test_no_witness_of_the_benchmark_is_wrong_alone_and_none_beats_the_reference():
    table, reference = read_record("benchmark/Linf"), read_record("benchmark/Linf-reference")
    assert not table["wrong_alone"].any()
    assert tightness(table, reference)["mean excess"].min() >= 0
