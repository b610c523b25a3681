"""Intervals: any statistic of `metrics`, or a paired difference of two scores, with what sampling leaves open.

The rows, that is the images, are resampled; the network, the attack and its bounds stay as they are.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from margincons.errors import DegenerateError, ShapeError, UnknownNameError, UsageError
from margincons.statistics import metrics, weighted
from margincons.statistics.estimates import Estimate
from margincons.statistics.few_positives import LIMITS, few_positives
from margincons.statistics.limits import auroc_influence, auroc_limits, cosine, square_and_add, wilson

MOST_ROWS = 20_000  # above this many rows, intervals come from a random subsample of this size
BATCH_CELLS = 8_000_000  # rows x replicates held at once: 64 MB an array
PRECISIONS = (metrics.average_precision, metrics.aupr_trapezoid)  # both called AUPR
AREAS = (metrics.auroc, *PRECISIONS)
BY_FORMULA = "Newcombe's method 5, or DeLong's on the logit scale"


def estimate(
    statistic: str | Callable[..., float],
    *columns: np.ndarray,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    **options: float,
) -> Estimate:
    """A statistic with its interval, made by one rule for each kind of statistic, whatever the number of rows.

    - The two accuracies: Wilson's limits.
    - AUROC: closed forms that hold near 1 and with few rows of a class (`margincons.statistics.limits.auroc_limits`).
    - AUPR (`average_precision`, `aupr_trapezoid`): a percentile bootstrap, but no narrower than Wilson's limits of a
      share among the positives. Boyd, Eng and Page, 2013, "Area under the precision-recall curve", ECML PKDD, have
      the binomial interval; that both are needed with few positives is ours.
    - A threshold at a TPR and its FPR: order statistics and exact binomial limits
      (`margincons.statistics.few_positives`), infinite, or 0 or 1, where few positives leave the end open.
    - Everything else: a percentile bootstrap over rows.

    Replicates on which the statistic is not defined (one class, a constant) are left out, and ``method`` says how
    many were kept. Above `MOST_ROWS` rows the bootstrap runs on one random subsample without replacement; its
    deviations, shrunk by sqrt(`MOST_ROWS` / n), are set around the value on all rows.

    Args:
        statistic: A statistic of `metrics`, or its name.
        columns: The columns that it takes, each (n,).
        replicates: Number of bootstrap samples.
        seed: Seed of the bootstrap and of the subsample.
        level: Share of the intervals that should hold the truth.
        options: Options of the statistic: ``tpr``, ``epsilon``.

    Raises:
        DegenerateError: If the statistic is not defined on these rows, or on the subsample.
        UnknownNameError: If there is no such statistic.
        UsageError: If ``level`` or ``replicates`` cannot be meant.
    """
    point, replicate = look_up(statistic)
    check_bootstrap(replicates, level)
    value = point(*columns, **options)
    if point in {metrics.accuracy, metrics.robust_accuracy}:
        low, high = wilson(value, len(columns[0]), level)
        return Estimate(value=value, low=low, high=high, level=level, n=len(columns[0]), method="Wilson score")
    if point is metrics.auroc:
        low, high = auroc_limits(*columns, level=level)
        error, common = np.linalg.norm(auroc_influence(*columns)), {"method": BY_FORMULA, "n": len(columns[0])}
        return Estimate(value=value, low=low, high=high, level=level, standard_error=float(error), **common)
    if point.__name__ in LIMITS:
        low, high = LIMITS[point.__name__](*columns, level=level, **options)
        method = f"order statistics of {int(np.sum(columns[0]))} positives"
        return Estimate(value=value, low=low, high=high, level=level, n=len(columns[0]), method=method)
    found = _bootstrap(
        value,
        lambda weights, *sample: replicate(weights, *sample, **options),
        columns,
        replicates=replicates,
        seed=seed,
        level=level,
    )
    if point in PRECISIONS:
        low, high = wilson(value, int(np.sum(columns[0])), level)
        wider = {"low": min(low, found.low), "high": max(high, found.high)}
        return replace(found, **wider, method=f"{found.method}, or Wilson score of the positives")
    return found


def paired_difference(
    statistic: str | Callable[..., float],
    target: np.ndarray,
    score_a: np.ndarray,
    score_b: np.ndarray,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    **options: float,
) -> Estimate:
    """statistic(target, score_a) - statistic(target, score_b), both on the same bootstrap samples.

    Arguments and errors are those of `estimate`; ``target`` is the first column of the statistic. It is a bootstrap,
    but of an FPR with few positives the two scores' own limits, each at half the error, are set against each other.
    Areas have their own limits put together by `margincons.statistics.limits.square_and_add`: AUROCs with DeLong's
    correlation and no narrower than his interval of the difference, AUPRs as if unrelated, which is wide. So even a
    twin has a width.
    """
    point, replicate = look_up(statistic)
    check_bootstrap(replicates, level)
    if point in {metrics.accuracy, metrics.threshold_at_tpr, metrics.log_spread}:
        raise UsageError(f"Expected a statistic that compares two scores, got {point.__name__}.")
    if point in AREAS:
        pair = ((target, score_a), (target, score_b))
        return _between_areas(point, *pair, replicates=replicates, seed=seed, level=level)
    value = point(target, score_a, **options) - point(target, score_b, **options)
    if point.__name__ in LIMITS and few_positives(target, **options):
        (a_low, a_high), (b_low, b_high) = (
            LIMITS[point.__name__](target, score, level=(1 + level) / 2, **options) for score in (score_a, score_b)
        )
        ends = {"low": a_low - b_high, "high": a_high - b_low}
        method = f"order statistics of {int(np.sum(target))} positives"
        return Estimate(value=value, **ends, level=level, n=len(target), method=method)
    return _bootstrap(
        value,
        lambda weights, t, a, b: replicate(weights, t, a, **options) - replicate(weights, t, b, **options),
        (target, score_a, score_b),
        replicates=replicates,
        seed=seed,
        level=level,
    )


def difference(
    statistic: str | Callable[..., float],
    first: tuple[np.ndarray, ...],
    second: tuple[np.ndarray, ...],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """A statistic of one network less that of another, on the same rows and the same bootstrap samples.

    Unlike in `paired_difference` every column may differ, as margins do between two networks. Areas are treated as
    there. All else is a bootstrap, which a threshold at a TPR, or its FPR, with few positives breaks: compare the two
    intervals of `estimate` instead.

    Args:
        statistic: A statistic of `metrics` without options, or its name.
        first: Its columns for one network, each (n,).
        second: Its columns for the other, row by row of the same images.
        replicates: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        level: Share of the intervals that should hold the truth.

    Raises:
        DegenerateError: If the statistic is not defined on these rows.
        ShapeError: If a column has another length.
    """
    point, replicate = look_up(statistic)
    check_bootstrap(replicates, level)
    value, cut = point(*first) - point(*second), len(first)
    if len(first[0]) != len(second[0]):
        raise ShapeError("the second network's columns", f"of {len(first[0])} rows", f"{len(second[0])}")
    if point in AREAS:
        return _between_areas(point, first, second, replicates=replicates, seed=seed, level=level)
    return _bootstrap(
        value,
        lambda weights, *columns: replicate(weights, *columns[:cut]) - replicate(weights, *columns[cut:]),
        (*first, *second),
        replicates=replicates,
        seed=seed,
        level=level,
    )


def share_difference(first: np.ndarray, second: np.ndarray, *, level: float = 0.95) -> Estimate:
    """Share of rows set in ``first`` less the share set in ``second``, both flags of the same rows, (n,).

    Rows that are set in one only decide. Their two shares have Wilson's limits, which are put together by the distance
    from share to limit, with the correlation of two shares of one sample; so no disagreement at all still leaves
    an interval of positive width.

    Source: Newcombe, 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17; Zou and Donner, 2008, Statistics in Medicine 27, for the general rule.

    Raises:
        DegenerateError: If there is no row.
        ShapeError: If the columns do not match, or hold more than 0 and 1.
        UsageError: If ``level`` cannot be meant.
    """
    check_bootstrap(1, level)
    first, second = metrics.flags(first=first, second=second)
    n, more, fewer = len(first), (first > second).mean(), (second > first).mean()
    parts = ((share, *wilson(share, n, level)) for share in (more, fewer))
    spread = math.sqrt(more * (1 - more) * fewer * (1 - fewer))
    value, (low, high) = more - fewer, square_and_add(*parts, -more * fewer / spread if spread else 0.0)
    ends = {"low": float(max(-1.0, low)), "high": float(min(1.0, high))}
    return Estimate(value=float(value), **ends, level=level, n=n, method="paired Wilson scores")


def over_seeds(values: np.ndarray, *, level: float = 0.95) -> Estimate:
    """Mean over seeds with Student's interval: what another seed would change, not what other images would.

    With one seed the interval is without end.
    """
    from scipy import stats

    values = np.asarray(values, dtype=float)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    half = float(stats.t.ppf((1 + level) / 2, max(1, len(values) - 1)) * error)
    return Estimate(
        value=float(values.mean()),
        low=float(values.mean()) - half,
        high=float(values.mean()) + half,
        level=level,
        n=len(values),
        method=f"Student's t over {len(values)} seeds",
    )


def _between_areas(
    point: Callable, first: tuple, second: tuple, *, replicates: int, seed: int, level: float
) -> Estimate:
    """The difference of two areas on the same rows."""
    one, other = (
        estimate(point, *columns, replicates=replicates, seed=seed, level=level) for columns in (first, second)
    )
    value, error, correlation = one.value - other.value, None, 0.0
    if point is metrics.auroc:
        influence = [auroc_influence(*columns) for columns in (first, second)]
        correlation, error = cosine(*influence), float(np.linalg.norm(influence[0] - influence[1]))
    low, high = square_and_add((one.value, one.low, one.high), (other.value, other.low, other.high), correlation)
    half = NormalDist().inv_cdf((1 + level) / 2) * (error or 0.0)
    ends = {"low": min(low, value - half), "high": max(high, value + half)}
    method = f"square and add: {one.method}"
    return Estimate(value=value, **ends, level=level, n=len(first[0]), method=method, standard_error=error)


def _bootstrap(
    value: float, replicate: Callable, columns: tuple, *, replicates: int, seed: int, level: float
) -> Estimate:
    columns = [np.asarray(column, dtype=float) for column in columns]
    rng = np.random.default_rng(seed)
    n = len(columns[0])
    rows = min(n, MOST_ROWS)
    if rows < n:
        chosen = np.sort(rng.choice(n, rows, replace=False))
        columns = [column[chosen] for column in columns]
    batch = max(1, BATCH_CELLS // rows)
    sizes = [min(batch, replicates - done) for done in range(0, replicates, batch)]
    values = np.concatenate([replicate(bootstrap_weights(rng, rows, size), *columns) for size in sizes])
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise DegenerateError(
            "The interval", f"none of {replicates} samples of {rows} rows has both classes or two values"
        )
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    shrink = math.sqrt(rows / n)  # 1 but on a subsample
    kept = f"{replicates}" if len(values) == replicates else f"{len(values)} of {replicates}"
    method = f"bootstrap, {kept} replicates"
    if rows < n:
        centre = weighted.once(replicate, *columns)
        if not math.isfinite(centre):
            raise DegenerateError("The interval", f"in a random subsample of {rows} rows the statistic is {centre:g}")
        low, high = (value + shrink * (bound - centre) for bound in (low, high))
        method = f"bootstrap on a subsample of {rows}, rescaled to {n} rows, {kept} replicates"
    spread = shrink * float(np.std(values)) if np.isfinite(values).all() else None
    return Estimate(
        value=value, low=float(low), high=float(high), level=level, n=n, method=method, standard_error=spread
    )


def bootstrap_weights(rng: np.random.Generator, rows: int, replicates: int) -> np.ndarray:
    """Draw multinomial counts (rows, replicates): how often each row fell into each sample of as many rows."""
    drawn = rng.integers(rows, size=(replicates, rows))
    cells = (drawn * replicates + np.arange(replicates)[:, None]).ravel()
    return np.bincount(cells, minlength=rows * replicates).reshape(rows, replicates).astype(float)


def check_bootstrap(replicates: int, level: float) -> None:
    """Raise `UsageError` unless there is a replicate or more and the level lies between 0 and 1."""
    if replicates < 1 or not 0 < level < 1:
        raise UsageError(f"Expected replicates >= 1 and a level in (0, 1), got {replicates} and {level:g}.")


def look_up(statistic: str | Callable[..., float]) -> tuple[Callable, Callable]:
    """Find a statistic of `metrics`, by itself or by name: on rows as they are, and on weighted ones.

    Raises:
        UnknownNameError: If there is no such statistic.
    """
    name = getattr(statistic, "__name__", str(statistic))
    if name not in metrics.STATISTICS:
        raise UnknownNameError("statistic", name, metrics.STATISTICS)
    return getattr(metrics, name), getattr(weighted, name)
