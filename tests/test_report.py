"""The report is the statistics, row by row, and leaves out what is not defined."""

import numpy as np
import pandas as pd
import pytest

from margincons.consistency import consistency
from margincons.detection import clean_accuracy, detection, robust_accuracy
from margincons.errors import MissingColumnError, UnknownNameError
from margincons.records import read_record
from margincons.report import report


def table_of(n=60, seed=0, low=0.0):
    rng = np.random.default_rng(seed)
    margins = low + rng.random(n)
    return pd.DataFrame(
        {
            "label": rng.integers(2, size=n),
            "predicted": rng.integers(2, size=n),
            "upper": margins,
            "logit_margin": margins + rng.random(n),
            "entropy": -margins,
        }
    )


def test_each_row_holds_the_statistics_of_its_record():
    tables = {"first": table_of(), "second": table_of(40, seed=1)}
    rows = report(tables, epsilon=0.3)
    assert list(rows.index) == ["first", "second"]
    for name, table in tables.items():
        found = detection(table, epsilon=0.3)
        assert rows.loc[name].to_dict() == {
            "images": len(table),
            "tau": consistency(table).tau,
            "AUROC": found.auroc,
            "AUPR": found.aupr,
            "FPR@95TPR": found.fpr95,
            "brittle": found.brittle,
            "clean accuracy": clean_accuracy(table),
            "robust accuracy": robust_accuracy(table, epsilon=0.3),
        }
    assert str(consistency(tables["first"]).tau) in rows.to_string()


def test_cells_are_empty_where_no_image_is_brittle_or_all_margins_are_equal():
    rows = report(
        {"robust": table_of(low=0.5), "mixed": table_of(), "constant": table_of().assign(upper=1)}, epsilon=0.3
    )
    assert list(rows.loc["robust", ["AUROC", "AUPR", "FPR@95TPR"]]) == ["", "", ""]
    assert rows.loc["robust", "brittle"].value == 0
    assert rows.loc["constant", "tau"] == ""
    assert rows.loc["mixed", "AUROC"] != ""


def test_another_score_may_be_asked_for_and_a_missing_one_is_an_error():
    table = table_of()
    assert report({"a": table}, epsilon=0.3, score="entropy").loc["a", "AUROC"].value == 1
    with pytest.raises(MissingColumnError, match="'energy'"):
        report({"a": table}, epsilon=0.3, score="energy")
    with pytest.raises(UnknownNameError, match="Unknown score"):
        report({"a": table}, epsilon=0.3, score="nonsense")


def test_distances_within_a_budget_are_given_no_tau_and_no_detection_at_another_epsilon():
    table = read_record("digits/mlp/Linf/autoattack")
    at_budget, elsewhere = (report({"r": table}, epsilon=epsilon).loc["r"] for epsilon in (0.1, 0.05))
    assert at_budget["tau"] == ""
    assert at_budget["AUROC"].value > 0.5
    assert (elsewhere["tau"], elsewhere["AUROC"]) == ("", "")


def test_an_unfinished_record_says_how_far_it_got():
    table = read_record("digits/mlp/Linf/fab_paper").head(60)
    table.attrs["settings"] = table.attrs["settings"] | {"images": 800}
    assert report({"r": table}, epsilon=0.1).loc["r", "images"] == "60 of 800"
