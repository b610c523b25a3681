"""Robust accuracy of a whole data set, from the margins of a few of its images and the scores of all."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from margincons.consistency import column
from margincons.detection import is_brittle, is_correct
from margincons.errors import UnknownNameError, UsageError
from margincons.scores import robustness_sign
from margincons.statistics.intervals import Estimate, estimate, share_difference
from margincons.statistics.metrics import threshold_at_tpr


def fewest_mistakes(brittle: np.ndarray, score: np.ndarray) -> float:
    """Score at or below which flagging makes the fewest mistakes; the lowest such score of the sample, or -inf.

    -inf flags the images of that score: no threshold lies below them.

    Args:
        brittle: Booleans (n,).
        score: Falls with brittleness, (n,).
    """
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of images that tie, infinite scores included
    none = [] if ranked[0] == -np.inf else [0]
    flagged = np.array([*none, *np.flatnonzero(last) + 1])
    found = np.concatenate([[0], np.cumsum(brittle[order])])[flagged]
    best = flagged[np.argmin((flagged - found) + (brittle.sum() - found))]  # robust ones flagged, brittle ones not
    return -np.inf if best == 0 else float(ranked[best - 1])


def same_share(brittle: np.ndarray, score: np.ndarray) -> float:
    """Score at or below which as many images are flagged as are brittle; arguments as in `fewest_mistakes`."""
    return float(np.sort(score)[brittle.sum() - 1]) if brittle.any() else -np.inf


def find_most(brittle: np.ndarray, score: np.ndarray) -> float:
    """Score at or below which 95% of the brittle images lie; arguments as in `fewest_mistakes`."""
    if brittle.all() or not brittle.any():
        return np.inf if brittle.all() else -np.inf
    return -threshold_at_tpr(brittle, -score)


RULES = {"fewest mistakes": fewest_mistakes, "as many as brittle": same_share, "95% found": find_most}


def thresholded(
    table: pd.DataFrame,
    rows: Sequence[int],
    *,
    epsilon: float,
    rule: str = "fewest mistakes",
    score: str = "logit_margin",
    margin: str = "upper",
) -> float:
    """Estimate as the paper does: choose a threshold on a few images, count all correct ones above it. Biased.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 4; the rules are this package's, the paper's own may differ.

    Args:
        table: A record, one row per image; margins are read on ``rows`` only.
        rows: The few images, places in the table.
        epsilon: Radius on the [0, 1] pixel scale.
        rule: A key of `RULES`.
        score: A column named in `margincons.scores.SCORES`, which fixes its sign.
        margin: The column that holds the input margin, or a bound on it.

    Raises:
        UnknownNameError: If there is no such rule.
        MissingColumnError: If the table lacks a column.
    """
    if rule not in RULES:
        raise UnknownNameError("rule for a threshold", rule, RULES)
    rows, scores = _places(table, rows, least=1), robustness_sign(score) * column(table, score)
    threshold = RULES[rule](is_brittle(table.iloc[rows], epsilon, margin), scores[rows])
    return float((is_correct(table) & (scores > threshold)).mean())


def share_of_few(
    table: pd.DataFrame, rows: Sequence[int], *, epsilon: float, margin: str = "upper", level: float = 0.95
) -> Estimate:
    """Share of robust images among a few: no score, no bias. Arguments and interval as in `prediction_powered`."""
    rows = _places(table, rows, least=1)
    share = estimate("accuracy", _robust(table, rows, epsilon, margin), level=level)
    return _within(table, share, share.value, method="Wilson score, finite population")


def prediction_powered(
    table: pd.DataFrame,
    rows: Sequence[int],
    *,
    epsilon: float,
    score: str = "logit_margin",
    margin: str = "upper",
    level: float = 0.95,
) -> Estimate:
    """Estimate with the bias measured and taken away: prediction-powered inference, its two halves changing places.

    One half of the few images chooses the threshold, hence a prediction for every image; the other half says by how
    much these predictions are wrong on average, and that is added. Images of the first half are known, so they count
    with their truth. Then the halves change places, and the two estimates are averaged. Each is unbiased over random
    draws of ``rows``, whatever the score is worth; a good score makes it precise. On a few images a value may leave
    [0, 1] by a little.

    The interval is for the share over the table's own images: on all of them its width is 0. It is what
    `share_difference` says of truth and prediction on the few, each predicted by the half that it is not in, times
    sqrt(1 - few / all).

    Source: Angelopoulos et al., 2023, "Prediction-powered inference", Science 382; Zrnic and Candes, 2024,
    "Cross-prediction-powered inference", PNAS 121, for halves that change places.

    Args:
        table: A record, one row per image; margins are read on ``rows`` only.
        rows: The few images, places in the table, drawn at random and in random order; 4 or more.
        epsilon: Radius on the [0, 1] pixel scale.
        score: A column named in `margincons.scores.SCORES`, which fixes its sign.
        margin: The column that holds the input margin, or a bound on it.
        level: Share of the intervals that should hold the share over all images.

    Raises:
        UsageError: If there are fewer than 4 rows, one comes twice, or the table has no such row.
        MissingColumnError: If the table lacks a column.
    """
    rows = _places(table, rows, least=4)
    correct, scores = is_correct(table), robustness_sign(score) * column(table, score)
    robust, brittle = _robust(table, rows, epsilon, margin), is_brittle(table.iloc[rows], epsilon, margin)
    halves = np.array_split(np.arange(len(rows)), 2)
    foreseen, totals = np.empty(len(rows), dtype=bool), []
    for choosing, checking in (halves, halves[::-1]):
        above = correct & (scores > fewest_mistakes(brittle[choosing], scores[rows[choosing]]))
        foreseen[checking] = above[rows[checking]]
        others = len(table) - len(choosing)
        predicted = above.sum() - above[rows[choosing]].sum()
        slip = robust[checking].mean() - foreseen[checking].mean()
        totals.append(robust[choosing].sum() + predicted + others * slip)
    value = float(np.mean(totals)) / len(table)
    slips = share_difference(robust, foreseen, level=level)
    return _within(table, slips, value, method=f"prediction-powered, {slips.method}")


def study(
    table: pd.DataFrame,
    *,
    epsilon: float,
    sizes: Sequence[int],
    draws: int = 200,
    seed: int = 0,
    score: str = "logit_margin",
    margin: str = "upper",
) -> pd.DataFrame:
    """Try every estimator on random subsets of a record whose margins are all known.

    Args:
        table: A record, one row per image.
        epsilon: Radius on the [0, 1] pixel scale.
        sizes: Images per subset.
        draws: Subsets per size.
        seed: Seed of the subsets.
        score: A column named in `margincons.scores.SCORES`.
        margin: The column that holds the input margin.

    Returns:
        One row per size and estimator, indexed by both: "truth", "bias" (mean error), "bias_error" (its standard
        error), "rmse" (root of the mean squared error), "coverage" and "width" of the intervals where there are any.
    """
    rng = np.random.default_rng(seed)
    # A narrow table without attributes is quicker to take rows from.
    table = pd.DataFrame({name: column(table, name) for name in ("label", "predicted", score, margin)})
    truth = float(_robust(table, np.arange(len(table)), epsilon, margin).mean())
    options = {"epsilon": epsilon, "margin": margin}
    summaries = {}
    for size in sizes:
        found: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(draws):
            rows = rng.permutation(len(table))[:size]
            for rule in RULES:
                value = thresholded(table, rows, rule=rule, score=score, **options)
                found.setdefault(rule, []).append((value, np.nan, np.nan))
            for name, one in (
                ("share of the few", share_of_few(table, rows, **options)),
                ("prediction-powered", prediction_powered(table, rows, score=score, **options)),
            ):
                found.setdefault(name, []).append((one.value, one.low, one.high))
        for name, values in found.items():
            summaries[size, name] = {"truth": truth, **_summary(np.array(values), truth)}
    return pd.DataFrame.from_dict(summaries, orient="index").rename_axis(["images", "estimator"])


def _summary(found: np.ndarray, truth: float) -> dict[str, float]:
    value, low, high = found.T
    rounding = 1e-12  # on all images the estimate is the truth, up to the order of a sum
    held = np.where(np.isnan(low), np.nan, (low <= truth + rounding) & (truth - rounding <= high))
    return {
        "bias": value.mean() - truth,
        "bias_error": value.std(ddof=1) / math.sqrt(len(value)) if len(value) > 1 else np.nan,
        "rmse": math.sqrt(((value - truth) ** 2).mean()),
        "coverage": held.mean(),
        "width": (high - low).mean(),
    }


def _places(table: pd.DataFrame, rows: Sequence[int], *, least: int) -> np.ndarray:
    rows = np.asarray(rows)
    if len(rows) < least or len(np.unique(rows)) < len(rows):
        raise UsageError(f"Expected {least} or more different rows, got {len(rows)}, {len(np.unique(rows))} different.")
    if rows.min() < 0 or rows.max() >= len(table):  # -1 would be the last row, and come twice unseen
        raise UsageError(f"Expected rows from 0 to {len(table) - 1}, got {rows.min()} to {rows.max()}.")
    return rows


def _robust(table: pd.DataFrame, rows: np.ndarray, epsilon: float, margin: str) -> np.ndarray:
    known = table.iloc[rows]
    return is_correct(known) & ~is_brittle(known, epsilon, margin)


def _within(table: pd.DataFrame, sampled: Estimate, value: float, *, method: str) -> Estimate:
    """Set the reach of an interval, shrunk by how much of the population was seen, around a value."""
    shrink = math.sqrt(1 - sampled.n / len(table))
    low, high = value + shrink * (sampled.low - sampled.value), value + shrink * (sampled.high - sampled.value)
    return Estimate(value=value, low=low, high=high, level=sampled.level, n=sampled.n, method=method)
