"""A table of consistency and detection, one row per record: what `margincons report` prints and pages show."""

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
        A table of `margincons.intervals.Estimate`; empty cells where a statistic is not defined, such as an AUROC
        where no image is brittle.
    """
    rows = {name: _row(table, epsilon, score, margin) for name, table in tables.items()}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def _row(table: pd.DataFrame, epsilon: float, score: str, margin: str) -> dict[str, object]:
    row: dict[str, object] = {"images": len(table)}
    try:
        row["tau"] = consistency(table, score=score, margin=margin).tau
    except DegenerateError:
        row["tau"] = None
    try:
        found = detection(table, epsilon=epsilon, score=score, margin=margin)
        row |= {"AUROC": found.auroc, "AUPR": found.aupr, "FPR@95TPR": found.fpr95}
    except DegenerateError:
        row |= dict.fromkeys(("AUROC", "AUPR", "FPR@95TPR"))
    row["brittle"] = brittle_share(table, epsilon=epsilon, margin=margin)
    row["clean accuracy"] = clean_accuracy(table)
    row["robust accuracy"] = robust_accuracy(table, epsilon=epsilon, margin=margin)
    return row
