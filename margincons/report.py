"""A table of consistency and detection, one row per record: what `margincons report` prints and pages show."""

import contextlib
from collections.abc import Mapping

import pandas as pd

from margincons.consistency import consistency
from margincons.detection import brittle_share, clean_accuracy, detection, robust_accuracy
from margincons.errors import DegenerateError


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
        A table of `margincons.intervals.Estimate`; empty cells where a statistic is not defined: an AUROC where no
        image is brittle, a tau where an attack had a budget. "60 of 800" images: the record is not finished.
    """
    rows = {name: _row(table, epsilon, score, margin) for name, table in tables.items()}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def _row(table: pd.DataFrame, epsilon: float, score: str, margin: str) -> dict[str, object]:
    settings = table.attrs.get("settings", {})
    planned, budget = settings.get("images", len(table)), settings.get("epsilon")
    row: dict[str, object] = {"images": len(table) if len(table) >= planned else f"{len(table)} of {planned}"}
    row |= dict.fromkeys(("tau", "AUROC", "AUPR", "FPR@95TPR"))
    with contextlib.suppress(DegenerateError):
        if budget is None:  # distances found within a budget are not margins
            row["tau"] = consistency(table, score=score, margin=margin).tau
    with contextlib.suppress(DegenerateError):
        if budget in (None, epsilon):  # nor do they say who is brittle at another epsilon
            found = detection(table, epsilon=epsilon, score=score, margin=margin)
            row |= {"AUROC": found.auroc, "AUPR": found.aupr, "FPR@95TPR": found.fpr95}
    row["brittle"] = brittle_share(table, epsilon=epsilon, margin=margin)
    row["clean accuracy"] = clean_accuracy(table)
    row["robust accuracy"] = robust_accuracy(table, epsilon=epsilon, margin=margin)
    return row
