"""What is left of a promised miss rate when images change: one calibration judged, and calibrations across changes.

Values are brittleness: they rise with it. A brittle image is missed where its value falls short of the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from margincons.errors import DegenerateError, ShapeError, TooFewImagesError
from margincons.statistics.conformal import conformal_rank, conformal_threshold
from margincons.statistics.intervals import Estimate, estimate

WORST, WORST_OTHER = "worst of all", "worst of the others"


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A promised miss rate against the misses of one threshold on new brittle images."""

    threshold: float  # least brittleness that is flagged
    missed: Estimate  # share that falls short, given this threshold; Wilson's interval
    chance_of_more: float  # of as many misses or more, were the images exchangeable: luck of the calibration included
    chance_of_change: float  # of brittleness as differently distributed, were they: exact Kolmogorov-Smirnov


def judge_promise(known: np.ndarray, new: np.ndarray, *, rate: float, level: float = 0.95) -> Promise:
    """Calibrate a threshold on brittle images and judge it on new ones.

    Of m known and m' new exchangeable values without ties, the number of misses is beta-binomial: m' draws at a rate
    that is Beta(k, m + 1 - k), with k the rank of the threshold. Ties only make misses fewer, so both chances err on
    the safe side.

    Args:
        known: Brittleness of the brittle calibration images (m,).
        new: Brittleness of the new brittle images (m',).
        rate: Promised share of misses.
        level: Level of the interval of the share that was missed.

    Raises:
        TooFewImagesError: If m values cannot promise the rate.
        DegenerateError: If there is no new image, or a value is NaN.
        UsageError: If the rate or the level cannot be meant.
    """
    from scipy import stats

    if len(new) == 0:
        raise DegenerateError("A miss rate", "there is no new brittle image")
    if missing := int(np.isnan(new).sum()):
        raise DegenerateError("A miss rate", f"{missing} of {len(new)} new values are NaN")
    threshold = conformal_threshold(known, rate, what="brittle")
    missed = new < threshold
    m, k = len(known), conformal_rank(len(known), rate)
    return Promise(
        threshold=threshold,
        missed=estimate("accuracy", missed, level=level),
        chance_of_more=float(stats.betabinom(len(new), k, m + 1 - k).sf(missed.sum() - 1)),
        chance_of_change=float(stats.ks_2samp(known, new).pvalue),
    )


def rates_across(
    changes: Mapping[str, tuple[np.ndarray, np.ndarray]], *, rate: float, splits: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Miss rates of thresholds calibrated on one change of images and judged on each, over random halves of the images.

    The halves are the same for all changes, so that no image is judged that was calibrated on in another guise. Two
    thresholds more: the one of all changes that flags most, `WORST`, and the one of all *other* changes than the
    judged one, `WORST_OTHER`. The first keeps the promise on each of these changes and on every mixture of them, since
    flagging more misses less; the second meets a change that it was not calibrated on.

    Args:
        changes: By name, which images are brittle and their brittleness, (n,) each, the same images in the same order.
        rate: Promised share of misses.
        splits: Number of random halves.
        seed: Fixes them.

    Returns:
        One row per split and pair: "calibrated on", "judged on", "missed", the share of the judged brittle images that
        fall short, and "flagged", the share of all judged images that do not. Pairs with too few brittle images to
        calibrate, or none to judge, are left out.

    Raises:
        ShapeError: If the changes are not of the same number of images.
        TooFewImagesError: If there is no change, or fewer than two images.
    """
    sizes = {len(column) for pair in changes.values() for column in pair}
    if len(sizes) > 1:
        raise ShapeError("columns of the changes", "one length", sorted(sizes))
    n = sizes.pop() if sizes else 0
    if n < 2:
        raise TooFewImagesError("calibration", n, 2, rate)
    draw, rows = np.random.default_rng(seed), []
    for _ in range(splits):
        rows += _split(changes, draw.permutation(n) < n // 2, rate)
    return pd.DataFrame(rows, columns=["calibrated on", "judged on", "missed", "flagged"])


def _split(changes: Mapping[str, tuple[np.ndarray, np.ndarray]], half: np.ndarray, rate: float) -> list[tuple]:
    """Calibrate on one half of the images in every guise, judge on the other."""
    known = {name: values[half & brittle] for name, (brittle, values) in changes.items()}
    own = {
        name: conformal_threshold(part, rate) if conformal_rank(len(part), rate) else np.nan
        for name, part in known.items()
    }
    rows = []
    for name, (brittle, values) in changes.items():
        others = [threshold for other, threshold in own.items() if other != name] or [np.nan]
        thresholds = own | {WORST: np.min(list(own.values())), WORST_OTHER: np.min(others)}  # NaN if one is
        new = values[~half & brittle]
        rows += [
            (calibrated, name, (new < threshold).mean(), (values[~half] >= threshold).mean())
            for calibrated, threshold in thresholds.items()
            if len(new) and not np.isnan(threshold)
        ]
    return rows
