"""Many scores against one reference on the same images, without finding a winner by looking often enough.

Of forty scores as good as the reference, one looks better in its own 95% interval and one worse. Simultaneous intervals
are wide enough to hold all at once: with a chance of 95% no difference is claimed that is not there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from margincons.errors import DegenerateError, MissingColumnError
from margincons.statistics.few_positives import LIMITS, few_positives
from margincons.statistics.intervals import (
    AREAS,
    BATCH_CELLS,
    Estimate,
    bootstrap_weights,
    check_bootstrap,
    estimate,
    look_up,
    paired_difference,
)

ALONE = 0.95  # level of the interval of one score by itself


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One score's statistic, and what it gains over the reference on the same images."""

    value: Estimate  # with the interval that it would have alone
    gain: Estimate  # its value less the reference's; these intervals hold together


def compare_scores(
    statistic: str | Callable[..., float],
    target: np.ndarray,
    scores: Mapping[str, np.ndarray],
    *,
    reference: str,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    **options: float,
) -> dict[str, Compared]:
    """Compare each score with a reference, all on the same bootstrap samples.

    A gain's interval reaches c standard errors to either side. c is the quantile, over samples, of the largest
    deviation of any gain, each in its own standard errors: scores that vary together need a smaller c than Bonferroni
    would take.

    For an FPR at a TPR with few positives, as in `margincons.statistics.intervals.estimate`, resampling does not serve:
    every score gets limits of its own that hold at any size, at a level that by Bonferroni keeps all of them together,
    and a gain's interval sets them against the reference's. That is wide, and even a twin of the reference has a width.

    Areas have the intervals of `margincons.statistics.intervals.paired_difference`, at a level that by Bonferroni keeps
    all of them together.

    Source: Romano and Wolf, 2005, "Exact and approximate stepdown methods for multiple hypothesis testing", JASA 100,
    of whose procedures this is the first step.

    Args:
        statistic: A statistic of `metrics` that takes a target and a score, or its name.
        target: Its first column, (n,): margins, or whether an image is brittle.
        scores: Columns (n,), by name, the reference among them; signs as the statistic wants them.
        reference: Name of the score that the others are compared with.
        replicates: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        level: Chance that all gains lie in their intervals; for m networks that are to hold together, 1 - 0.05 / m.
        options: Options of the statistic: ``tpr``.

    Raises:
        DegenerateError: If the statistic is not defined on these rows, or on no sample of them.
        MissingColumnError: If the reference is not among the scores.
    """
    point, replicate = look_up(statistic)
    check_bootstrap(replicates, level)
    if reference not in scores:
        raise MissingColumnError(reference, scores)
    n = len(target)
    values = {name: point(target, column, **options) for name, column in scores.items()}
    if point.__name__ in LIMITS and few_positives(target, **options):
        return _set_against(LIMITS[point.__name__], values, target, scores, reference=reference, level=level, **options)
    if point in AREAS:
        drawing = {"replicates": replicates, "seed": seed}
        return _areas(point, target, scores, reference=reference, level=level, **drawing)
    drawn = _replicates(replicate, target, scores, replicates=replicates, seed=seed, **options)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    if len(drawn) < 2:
        raise DegenerateError("The comparison", f"hardly one of {replicates} samples of {n} rows has both classes")
    exact = scores.items() if point.__name__ in LIMITS else ()
    alone = {name: estimate(point, target, column, level=ALONE, **options) for name, column in exact}
    names = list(scores)
    own = names.index(reference)
    gains = np.array([values[name] - values[reference] for name in names])
    off = drawn - drawn[:, [own]] - gains
    errors = (drawn - drawn[:, [own]]).std(axis=0)
    reach = errors * _critical(off, errors, level)
    kept = f"{len(drawn)} of {replicates} replicates"
    ends = np.quantile(drawn, [(1 - ALONE) / 2, (1 + ALONE) / 2], axis=0, method="inverted_cdf")
    return {
        name: Compared(
            value=alone.get(name)
            or Estimate(
                value=values[name],
                low=float(ends[0, i]),
                high=float(ends[1, i]),
                level=ALONE,
                n=n,
                method=f"bootstrap, {kept}",
                standard_error=float(drawn[:, i].std()),
            ),
            gain=Estimate(
                value=float(gains[i]),
                low=float(gains[i] - reach[i]),
                high=float(gains[i] + reach[i]),
                method=f"simultaneous over {len(names) - 1} scores, {kept}",
                standard_error=float(errors[i]),
                level=level,
                n=n,
            ),
        )
        for i, name in enumerate(names)
    }


def _set_against(
    limits: Callable[..., tuple[float, float]],
    values: Mapping[str, float],
    target: np.ndarray,
    scores: Mapping[str, np.ndarray],
    *,
    reference: str,
    level: float,
    **options: float,
) -> dict[str, Compared]:
    """Compare by limits that hold for every score at once, without a bootstrap."""
    each = 1 - (1 - level) / len(scores)
    together = {name: limits(target, column, level=each, **options) for name, column in scores.items()}
    least, most = together[reference]
    found = {}
    for name, column in scores.items():
        low, high = limits(target, column, level=ALONE, **options)
        ends = (together[name][0] - most, together[name][1] - least) if name != reference else (0.0, 0.0)
        common = {"n": len(target), "method": f"order statistics of {int(np.sum(target))} positives"}
        common_gain = common | {"method": f"simultaneous over {len(scores) - 1} scores, {common['method']}"}
        found[name] = Compared(
            value=Estimate(value=values[name], low=low, high=high, level=ALONE, **common),
            gain=Estimate(
                value=values[name] - values[reference], low=ends[0], high=ends[1], level=level, **common_gain
            ),
        )
    return found


def _areas(
    point: Callable[..., float],
    target: np.ndarray,
    scores: Mapping[str, np.ndarray],
    *,
    reference: str,
    level: float,
    **drawing: int,
) -> dict[str, Compared]:
    """Compare areas pair by pair, at a level shared by all pairs."""
    found, rivals = {}, max(1, len(scores) - 1)
    for name, column in scores.items():
        gain = paired_difference(point, target, column, scores[reference], level=1 - (1 - level) / rivals, **drawing)
        same = {"low": 0.0, "high": 0.0} if name == reference else {}
        method = f"simultaneous over {len(scores) - 1} scores, {gain.method}"
        gain = replace(gain, level=level, method=method, **same)
        found[name] = Compared(value=estimate(point, target, column, level=ALONE, **drawing), gain=gain)
    return found


def _replicates(
    replicate: Callable, target: np.ndarray, scores: Mapping, *, replicates: int, seed: int, **options: float
) -> np.ndarray:
    """The statistic of each score on each sample, (replicates, scores)."""
    rng, n = np.random.default_rng(seed), len(target)
    target = np.asarray(target, dtype=float)
    batch = max(1, BATCH_CELLS // n)
    parts = []
    for done in range(0, replicates, batch):
        weights = bootstrap_weights(rng, n, min(batch, replicates - done))
        columns = [replicate(weights, target, np.asarray(one, dtype=float), **options) for one in scores.values()]
        parts.append(np.stack(columns, axis=1))
    return np.concatenate(parts)


def _critical(off: np.ndarray, errors: np.ndarray, level: float) -> float:
    """Quantile of the largest deviation (replicates, scores) in standard errors; a gain that never varies has none."""
    varies = errors > 0
    if not varies.any():
        return 0.0
    return float(np.quantile(np.abs(off[:, varies] / errors[varies]).max(axis=1), level, method="inverted_cdf"))
