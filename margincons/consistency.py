"""Margin consistency: how well a cheap score orders images as the input margin does."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from margincons.errors import MissingColumnError
from margincons.intervals import Estimate, estimate
from margincons.scores import robustness_sign


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Rank correlation of a score with the input margin over one record."""

    tau: Estimate  # Kendall's tau-b
    rho: Estimate  # Spearman's
    n: int  # images
    unbounded: int  # of which the attack found nothing: tied at the top of the order


def consistency(
    table: pd.DataFrame,
    *,
    score: str = "logit_margin",
    margin: str = "upper",
    replicates: int = 1000,
    seed: int = 0,
) -> Consistency:
    """Correlate a score with the input margin, over images.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 3; the intervals are ours.

    Args:
        table: A record, one row per image.
        score: A column named in `margincons.scores.SCORES`, which fixes its sign.
        margin: The column that holds the input margin, or a bound on it.
        replicates: Bootstrap samples of each interval.
        seed: Seed of the bootstrap.

    Raises:
        MissingColumnError: If the table lacks a column.
        UnknownNameError: If no score has that name.
        DegenerateError: If there are fewer than two images, or score or margin is constant.
    """
    margins = column(table, margin)
    robustness = robustness_sign(score) * column(table, score)
    options = {"replicates": replicates, "seed": seed}
    return Consistency(
        tau=estimate("kendall_tau", margins, robustness, **options),
        rho=estimate("spearman", margins, robustness, **options),
        n=len(table),
        unbounded=int(np.isinf(margins).sum()),
    )


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """Take one column of a record as float64, (n,).

    Raises:
        MissingColumnError: If the table lacks it.
    """
    if name not in table:
        raise MissingColumnError(name, table.columns)
    return table[name].to_numpy(dtype=float)
