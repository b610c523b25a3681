"""How well each of many scores knows the input margin: correlation, detection, and what it gains over a reference."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from margincons.consistency import column
from margincons.detection import is_brittle
from margincons.scores import robustness_sign
from margincons.statistics.intervals import Estimate
from margincons.statistics.simultaneous import compare_scores

STATISTICS = {"tau": "kendall_tau", "AUROC": "auroc", "FPR@95": "fpr_at_tpr"}
LESS_IS_BETTER = ("FPR@95",)
SPOKEN = {
    "clever": "CLEVER",
    "doctor": "DOCTOR",
    "crown_radius": "CROWN radius",
    "pseudo_margin": "pseudo-margin",
    "first_order_margin": "first-order margin",
    "first_order_runner_up": "first-order, one rival",
    "fast_attack": "short attack",
}
MARKS = {"better": " ▲", "worse": " ▼", "not told apart": ""}


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
        One row per score, columns of `Estimate`: "tau", "AUROC", ``"FPR@95"``, and for each its "gain".

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


def gains(results: Mapping[str, pd.DataFrame], *, statistic: str) -> pd.DataFrame:
    """Gains over the reference as text, a row per score and a column per network, with a mark where one is told apart.

    Args:
        results: Under each network a table of `quality`.
        statistic: "tau", "AUROC" or ``"FPR@95"``.
    """
    return _by_network(
        results, f"{statistic} gain", lambda gain: f"{gain:+.3f}{MARKS[verdict(gain, statistic=statistic)]}"
    )


def values(results: Mapping[str, pd.DataFrame], *, statistic: str) -> pd.DataFrame:
    """Values with the intervals that they have alone, as text, a row per score and a column per network."""
    return _by_network(results, statistic, str)


def verdicts(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Count by score on how many "networks" it was compared, and on how many it was better or worse, by statistic."""
    rows = {}
    for score in _scores(results):
        own = [table.loc[score] for table in results.values() if score in table.index]
        rows[score] = {"networks": len(own)}
        for label in STATISTICS:
            said = [verdict(row[f"{label} gain"], statistic=label) for row in own]
            rows[score] |= {f"{label} {word}": said.count(word) for word in ("better", "worse")}
    return pd.DataFrame.from_dict(rows, orient="index")


def spoken(score: str) -> str:
    """Name of a score as a sentence would have it."""
    return SPOKEN.get(score, score.replace("_", " "))


def _by_network(results: Mapping[str, pd.DataFrame], column: str, write: Callable[[Estimate], str]) -> pd.DataFrame:
    order = _scores(results)
    written = {name: table[column].map(write).reindex(order) for name, table in results.items()}
    return pd.DataFrame(written).fillna("")


def _scores(results: Mapping[str, pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(score for table in results.values() for score in table.index))
