"""How well each of many scores knows the input margin: correlation, detection, and what it gains over a reference."""

from collections.abc import Sequence

import pandas as pd

from margincons.consistency import column
from margincons.detection import is_brittle
from margincons.intervals import Estimate
from margincons.scores import robustness_sign
from margincons.simultaneous import compare_scores

STATISTICS = {"tau": "kendall_tau", "AUROC": "auroc", "FPR@95": "fpr_at_tpr"}
LESS_IS_BETTER = ("FPR@95",)


def quality(
    table: pd.DataFrame,
    scores: Sequence[str],
    *,
    epsilon: float,
    reference: str = "logit_margin",
    margin: str = "upper",
    networks: int = 1,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Judge scores of one network's images by their margins, and compare each with a reference on the same images.

    Signs are those that `margincons.scores` declares. Intervals of gains are simultaneous over the scores; with
    ``networks`` above 1, over those of so many networks, by Bonferroni. Each statistic is a family of its own.

    Args:
        table: One row per image, with a margin and the scores.
        scores: Columns with a declared sign; the reference is added where it is not among them.
        epsilon: Brittle means a margin of at most epsilon, on the [0, 1] pixel scale.
        reference: The score that the others are compared with.
        margin: The column that holds the input margin, or a bound on it.
        networks: How many networks the intervals of gains should hold together for.
        replicates: Bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        One row per score, columns of `Estimate`: "tau", "AUROC", "FPR@95", and for each its "gain".

    Raises:
        DegenerateError: If all images are brittle at epsilon, or none, or a score is constant.
        MissingColumnError: If the table lacks a column.
        UnknownNameError: If no score has that name.
    """
    names = list(dict.fromkeys([reference, *scores]))
    robust = {name: robustness_sign(name) * column(table, name) for name in names}
    brittle = is_brittle(table, epsilon, margin).astype(float)
    options = {"reference": reference, "replicates": replicates, "seed": seed, "level": 1 - 0.05 / networks}
    columns = {}
    for label, statistic in STATISTICS.items():
        target = column(table, margin) if label == "tau" else brittle
        sign = 1 if label == "tau" else -1  # detection wants scores that rise with brittleness
        found = compare_scores(statistic, target, {name: sign * one for name, one in robust.items()}, **options)
        columns[label] = {name: one.value for name, one in found.items()}
        columns[f"{label} gain"] = {name: one.gain for name, one in found.items()}
    return pd.DataFrame(columns).loc[names]


def verdict(gain: Estimate, *, statistic: str) -> str:
    """Say "better", "worse" or "not told apart": the first two only where the interval of the gain excludes zero."""
    low, high = (-gain.high, -gain.low) if statistic in LESS_IS_BETTER else (gain.low, gain.high)
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not told apart"
