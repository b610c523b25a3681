"""A table of consistency and detection, one row per record: what `margincons report` prints and pages show."""

import contextlib
from collections.abc import Mapping

import pandas as pd

from margincons.consistency import consistency
from margincons.detection import brittle_share, clean_accuracy, detection, robust_accuracy, tells_brittle
from margincons.errors import DegenerateError, UnknownNameError
from margincons.statistics.intervals import Estimate

FORMS = ("text", "csv", "markdown", "latex")


def report(
    tables: Mapping[str, pd.DataFrame], *, epsilon: float, score: str = "logit_margin", margin: str = "upper"
) -> pd.DataFrame:
    """Estimates with intervals, one row per record.

    Args:
        tables: Records by name.
        epsilon: Brittle means margin <= epsilon, on the [0, 1] pixel scale.
        score: A column named in `margincons.scores.SCORES`.
        margin: The column that holds the margin.

    Returns:
        A table of `margincons.statistics.intervals.Estimate`; empty cells where a statistic is not defined: an AUROC
        where no image is brittle, a tau where an attack had a budget, whatever asks who is brittle where that budget
        is not epsilon. "60 of 800" images: the record is not finished.
    """
    rows = {name: _row(table, epsilon, score, margin) for name, table in tables.items()}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def unanswered(tables: Mapping[str, pd.DataFrame], *, epsilon: float) -> list[str]:
    """Why cells of a `report` are empty: one line for each record of a budget that is not epsilon."""
    return [
        f"{name}: {settings.get('attack')} had a budget of {settings['epsilon']!r}, which says nothing of epsilon "
        f"{epsilon!r}: who is brittle is left empty; ask for the budget itself, or measure without one"
        for name, table in tables.items()
        if not tells_brittle(table, epsilon) and (settings := table.attrs["settings"])
    ]


def unfound(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Which records count images as robust for want of a witness: one line for each of an attack without a budget."""
    missed = {
        name: int((~table["success"].astype(bool)).sum())
        for name, table in tables.items()
        if "success" in table and table.attrs.get("settings", {}).get("epsilon") is None
    }
    return [
        f"{name}: no witness was found for {count} of {len(tables[name])} images, which count as robust at every "
        "epsilon; is the network random, or are its gradients masked? Compare with another attack or effort"
        for name, count in missed.items()
        if count
    ]


def as_text(rows: pd.DataFrame, form: str = "text") -> str:
    """Write a report for people ("text", "markdown", "latex") or for programs ("csv").

    In CSV each estimate becomes three columns of full precision: AUROC, "AUROC low" and "AUROC high"; the records'
    names are the column "record". Markdown and LaTeX hold the text's two digits.

    Raises:
        UnknownNameError: If there is no such form.
    """
    if form not in FORMS:
        raise UnknownNameError("form of a report", form, FORMS)
    if form == "text":
        return rows.to_string()
    if form == "csv":
        return pd.DataFrame([_numbers(row) for _, row in rows.iterrows()], index=rows.index).to_csv(
            index_label="record"
        )
    cells = [[str(name), *map(str, row)] for name, row in zip(rows.index, rows.to_numpy(), strict=True)]
    lines = [["record", *rows.columns], *cells]
    if form == "markdown":
        lines.insert(1, ["---"] * len(lines[0]))
        return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    head, *body = [" & ".join(map(_tex, line)) + r" \\" for line in lines]
    columns = "l" + "r" * len(rows.columns)
    table = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}"]
    return "\n".join(table) + "\n"


def _numbers(row: pd.Series) -> dict[str, object]:
    """Numbers of one row, an estimate's in three columns."""
    found: dict[str, object] = {}
    for name, cell in row.items():
        if isinstance(cell, Estimate):
            found |= {name: cell.value, f"{name} low": cell.low, f"{name} high": cell.high}
        else:
            found[name] = cell
    return found


def _tex(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "&%$#_{}" else letter for letter in text)


def _row(table: pd.DataFrame, epsilon: float, score: str, margin: str) -> dict[str, object]:
    settings = table.attrs.get("settings", {})
    planned, budget = settings.get("images", len(table)), settings.get("epsilon")
    row: dict[str, object] = {"images": len(table) if len(table) >= planned else f"{len(table)} of {planned}"}
    row |= dict.fromkeys(("tau", "AUROC", "AUPR", "FPR@95TPR", "brittle", "clean accuracy", "robust accuracy"))
    with contextlib.suppress(DegenerateError):
        if budget is None:  # distances found within a budget are not margins
            row["tau"] = consistency(table, score=score, margin=margin).tau
    if tells_brittle(table, epsilon):
        with contextlib.suppress(DegenerateError):
            found = detection(table, epsilon=epsilon, score=score, margin=margin)
            row |= {"AUROC": found.auroc, "AUPR": found.aupr, "FPR@95TPR": found.fpr95}
        row["brittle"] = brittle_share(table, epsilon=epsilon, margin=margin)
        row["robust accuracy"] = robust_accuracy(table, epsilon=epsilon, margin=margin)
    row["clean accuracy"] = clean_accuracy(table)
    return row
