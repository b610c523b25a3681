"""Quality against the functions that judge one score at a time; verdicts against hand-made intervals."""

import numpy as np
import pandas as pd
import pytest

from margincons.consistency import consistency
from margincons.detection import detection
from margincons.errors import DegenerateError, UnknownNameError
from margincons.statistics.intervals import Estimate
from margincons.studies.score_quality import gains, quality, values, verdict, verdicts


@pytest.fixture(scope="module")
def table():
    draw = np.random.default_rng(0)
    margin = draw.uniform(0.01, 0.3, size=400)
    return pd.DataFrame(
        {
            "upper": margin,
            "logit_margin": margin + 0.1 * draw.normal(size=400),
            "gradient_norm": -margin + 0.02 * draw.normal(size=400),  # high where brittle, and better
            "energy": draw.normal(size=400),  # noise
        }
    )


def test_each_row_is_what_consistency_and_detection_say_of_that_score(table):
    found = quality(table, ["gradient_norm", "energy"], epsilon=0.1, replicates=200)
    assert list(found.index) == ["logit_margin", "gradient_norm", "energy"]
    for score, row in found.iterrows():
        one = detection(table, epsilon=0.1, score=score, replicates=200)
        assert row["AUROC"].value == pytest.approx(one.auroc.value)
        assert row["FPR@95"].value == pytest.approx(one.fpr95.value)
        assert row["tau"].value == pytest.approx(consistency(table, score=score, replicates=50).tau.value)
        for label in ("tau", "AUROC", "FPR@95"):
            gain = row[label].value - found.loc["logit_margin", label].value
            assert row[f"{label} gain"].value == pytest.approx(gain)


def test_signs_are_the_declared_ones_so_that_the_better_score_is_better_and_noise_is_worse(table):
    found = quality(table, ["gradient_norm", "energy"], epsilon=0.1, replicates=300)
    assert found["tau"]["gradient_norm"].value > 0.7
    for label in ("tau", "AUROC", "FPR@95"):
        gains = found[f"{label} gain"]
        assert verdict(gains["gradient_norm"], statistic=label) == "better"
        assert label == "FPR@95" or verdict(gains["energy"], statistic=label) == "worse"


def test_more_networks_ask_for_wider_intervals(table):
    one, ten = (quality(table, ["energy"], epsilon=0.1, networks=m)["tau gain"]["energy"] for m in (1, 10))
    assert one.value == ten.value
    assert ten.low < one.low < one.high < ten.high
    assert (one.level, ten.level) == (0.95, 0.995)


def test_a_verdict_needs_an_interval_without_zero_and_knows_that_a_lower_fpr_is_better():
    def gain(low, high):
        return Estimate(value=(low + high) / 2, low=low, high=high, n=9, method="")

    assert verdict(gain(0.1, 0.2), statistic="tau") == "better"
    assert verdict(gain(-0.2, -0.1), statistic="tau") == "worse"
    assert verdict(gain(-0.2, -0.1), statistic="FPR@95") == "better"
    for statistic in ("tau", "AUROC", "FPR@95"):
        assert verdict(gain(-0.1, 0.1), statistic=statistic) == "not told apart"
        assert verdict(gain(0.0, 0.1), statistic=statistic) == "not told apart"


def test_tables_by_network_mark_what_is_told_apart_and_leave_gaps_blank(table):
    found = quality(table, ["gradient_norm", "energy"], epsilon=0.1, replicates=300)
    networks = {"one": found, "two": found.drop("energy")}
    told = gains(networks, statistic="AUROC")
    assert told.loc["gradient_norm", "one"].endswith(" ▲")
    assert told.loc["energy", "one"].endswith(" ▼")
    assert told.loc["energy", "two"] == ""
    assert told.loc["logit_margin", "one"] == "+.000 [+.000, +.000]"
    assert values(networks, statistic="tau").loc["gradient_norm", "two"] == str(found.loc["gradient_norm", "tau"])
    counts = verdicts(networks)
    assert counts["networks"].to_dict() == {"logit_margin": 2, "gradient_norm": 2, "energy": 1}
    assert counts.loc["gradient_norm", ["tau better", "tau worse"]].tolist() == [2, 0]
    assert counts.loc["energy", ["AUROC better", "AUROC worse"]].tolist() == [0, 1]


def test_what_has_no_answer_is_refused(table):
    with pytest.raises(UnknownNameError, match="Unknown score 'upper'"):
        quality(table, ["upper"], epsilon=0.1)
    with pytest.raises(DegenerateError, match="none of 400 rows are positive"):
        quality(table, ["energy"], epsilon=0.001)
