"""The report is the statistics, row by row, and leaves out what is not defined."""

import io

import numpy as np
import pandas as pd
import pytest

from margincons.consistency import consistency
from margincons.detection import clean_accuracy, detection, is_brittle, robust_accuracy
from margincons.errors import MissingColumnError, UnknownNameError
from margincons.measure import measure
from margincons.records import read_record
from margincons.report import as_text, report, unanswered, unfound
from margincons.statistics.intervals import Estimate


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


def test_a_record_of_another_budget_is_told_why_its_cells_are_empty():
    budget = table_of()
    budget.attrs["settings"] = {"attack": "pgd", "epsilon": 8 / 255}
    tables = {"margins": table_of(), "budget": budget}
    assert unanswered(tables, epsilon=8 / 255) == []
    (line,) = unanswered(tables, epsilon=0.0313725)
    assert line.startswith(f"budget: pgd had a budget of {8 / 255!r}, which says nothing of epsilon 0.0313725: ")
    assert report(tables, epsilon=0.0313725).loc["budget", ["AUROC", "brittle", "robust accuracy"]].eq("").all()


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


def test_a_budget_attack_at_another_epsilon_is_asked_for_clean_accuracy_only(tmp_path):
    measured = {"out": tmp_path, "attack": "pgd", "effort": "fast", "epsilon": 0.05, "limit": 60, "device": "cpu"}
    table = measure("digits/trades", "digits", **measured, progress=False)
    rows = {epsilon: report({"r": table}, epsilon=epsilon).loc["r"] for epsilon in (0.02, 0.05, 0.2)}
    for epsilon in (0.02, 0.2):
        assert (rows[epsilon]["brittle"], rows[epsilon]["robust accuracy"]) == ("", "")
        assert rows[epsilon]["clean accuracy"] == clean_accuracy(table)
    found = is_brittle(table, 0.05)
    assert rows[0.05]["brittle"].value == found.mean() > 0
    assert rows[0.05]["robust accuracy"].value == ((table["label"] == table["predicted"]) & ~found).mean()
    exact = read_record("digits/trades/Linf/minimum_norm").head(60)  # the blank cells would have been wrong
    assert is_brittle(exact, 0.2).mean() > found.mean() == np.isfinite(table["upper"]).mean()


def test_images_without_a_witness_are_told_of_since_they_count_as_robust():
    found = read_record("digits/trades/Linf/minimum_norm").head(40)
    kept = found["index"] >= 3
    missed = found.assign(success=found["success"] & kept, upper=found["upper"].where(kept, np.inf))
    missed.attrs["settings"] = found.attrs["settings"]
    (line,) = unfound({"r": found, "s": missed})
    assert line.startswith("s: no witness was found for 3 of 40 images, which count as robust at every epsilon")
    assert report({"s": missed}, epsilon=1.0).loc["s", "robust accuracy"].value == pytest.approx(3 / 40)
    assert unfound({"r": read_record("digits/trades/Linf/autoattack")}) == []  # within a budget that is what it asks


def test_an_unfinished_record_says_how_far_it_got():
    table = read_record("digits/mlp/Linf/fab_paper").head(60)
    table.attrs["settings"] = table.attrs["settings"] | {"images": 800}
    assert report({"r": table}, epsilon=0.1).loc["r", "images"] == "60 of 800"


NAMES = ["digits/mlp/Linf/fab_paper", "digits/trades/Linf/autoattack"]


@pytest.fixture(scope="module")
def rows():
    return report({name: read_record(name) for name in NAMES}, epsilon=0.05)


def test_csv_holds_every_number_in_full_and_reads_back(rows):
    back = pd.read_csv(io.StringIO(as_text(rows, "csv")), index_col="record")
    assert list(back.index) == NAMES
    for name, row in rows.iterrows():
        for column, cell in row.items():
            if isinstance(cell, Estimate):
                assert back.loc[name, [column, f"{column} low", f"{column} high"]].tolist() == [
                    cell.value,
                    cell.low,
                    cell.high,
                ]
            elif cell == "":
                assert np.isnan(back.loc[name, column])
            else:
                assert back.loc[name, column] == cell


def test_markdown_and_latex_hold_the_cells_of_the_text(rows):
    markdown = [line.strip("| \n").split(" | ") for line in as_text(rows, "markdown").splitlines()]
    latex = as_text(rows, "latex").splitlines()
    assert markdown[0] == ["record", *rows.columns]
    assert set(markdown[1]) == {"---"}
    assert latex[0] == r"\begin{tabular}{l" + "r" * len(rows.columns) + "}"
    body = [line.removesuffix(r" \\").split(" & ") for line in latex if line.endswith(r" \\")]
    for line, name in zip(markdown[2:], NAMES, strict=True):
        assert line[0] == name
        assert [cell for cell in line[1:] if cell] == [str(cell) for cell in rows.loc[name] if str(cell)]
    assert body[0] == ["record", *(column.replace("%", r"\%") for column in rows.columns)]
    assert [line[0] for line in body[1:]] == [name.replace("_", r"\_") for name in NAMES]
    assert [line[1:] for line in body[1:]] == [[str(cell) for cell in rows.loc[name]] for name in NAMES]
    assert as_text(rows) == rows.to_string()
    with pytest.raises(UnknownNameError, match="Unknown form of a report 'tex'"):
        as_text(rows, "tex")


def test_a_name_with_a_bar_stays_in_its_markdown_cell(rows):
    line = as_text(rows.rename(index={NAMES[0]: "a|b"}), "markdown").splitlines()[2]
    assert line.startswith(r"| a\|b | 800 |")
