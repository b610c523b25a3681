"""Split conformal thresholds: a rate that is promised on new images, from finitely many calibration images.

Let b_1 .. b_m be the brittleness of the brittle calibration images, b_0 that of a new brittle image, all exchangeable.
With k = floor(rate (m + 1)) and t the k-th smallest of b_1 .. b_m, the chance of b_0 < t is at most k / (m + 1). For
b_0 < t leaves at most k - 1 of the others at or below b_0, so b_0 is among the k smallest of m + 1, ties counted
against it, and each of the m + 1 is equally likely to be the new one.
"""

from fractions import Fraction

import numpy as np
import pandas as pd

from margincons.errors import DegenerateError, TooFewImagesError, UsageError


def conformal_threshold(values: np.ndarray, rate: float, *, what: str = "") -> float:
    """The value that a new, exchangeable one falls short of with probability at most ``rate``.

    Source: Vovk, Gammerman and Shafer, 2005, Algorithmic Learning in a Random World; split form, per class.

    Args:
        values: Calibration values (m,); infinite ones are values like any other.
        rate: Promised probability of falling short, 0 < rate < 1.
        what: Which of the calibration images they are, for messages: "brittle".

    Returns:
        The k-th smallest value, k = floor(rate (m + 1)).

    Raises:
        UsageError: If the rate is not between 0 and 1.
        DegenerateError: If a value is NaN.
        TooFewImagesError: If m < 1 / rate - 1: then only a threshold that flags every image could promise it.
    """
    values, kind = np.asarray(values), f"{what} calibration".lstrip()
    if missing := int(np.isnan(values).sum()):
        raise DegenerateError("A threshold", f"{missing} of {len(values)} {kind} scores are NaN")
    rank = conformal_rank(len(values), rate)
    if rank == 0:
        raise TooFewImagesError(kind, len(values), images_needed(rate), rate)
    return float(np.partition(values, rank - 1)[rank - 1])


def conformal_rank(m: int, rate: float) -> int:
    """Rank k = floor(rate (m + 1)) of the threshold among m values; 0 where m values cannot promise that rate.

    The rate is read as it was meant, which binary fractions miss: 0.29 of 100 is 29, and 1/3 of 3 is 1.

    Raises:
        UsageError: If the rate is not between 0 and 1.
    """
    return int(_exact(rate) * (m + 1))


def images_needed(rate: float) -> int:
    """Least number of calibration images of a class that can promise a rate: 1 / rate - 1, rounded up."""
    return -int(-1 / _exact(rate) // 1) - 1


def split_rates(
    positive: np.ndarray,
    values: np.ndarray,
    *,
    rate: float,
    shifted: tuple[np.ndarray, np.ndarray] | None = None,
    calibrated: int | None = None,
    splits: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """What a threshold keeps of its promise: calibrate on a random half of the images, count on the other, many times.

    The splits are drawn independently of each other, so the standard error of their mean is their standard deviation
    over the root of their number, as an estimate of the mean over all splits of these images. Every split is
    exchangeable, so that mean is at most ``rate`` whatever the images are. About other images it says no more than
    that they are exchangeable with these: the splits share one sample.

    Args:
        positive: Whether an image belongs to the class that the threshold is for (n,).
        values: One value per image (n,); a positive one that falls short is an error.
        rate: Promised rate of errors.
        shifted: ``positive`` and ``values`` of the same images after a change, to judge on in place of the images as
            they were calibrated on; then nothing is promised.
        calibrated: Number of images to calibrate on, in place of half of them; the others are judged.
        splits: Number of random halves.
        seed: Fixes them.

    Returns:
        One row per split: "calibration" and "judged", the positives in either half, "rate", the share of the judged
        ones that fall short, and "flagged", the share of all images of the judged half, positive or not, that do not.
        Splits with too few positives to calibrate, or none to judge, are left out.

    Raises:
        UsageError: If a rate is not between 0 and 1, or no image is left on either side.
    """
    size = len(values) // 2 if calibrated is None else calibrated
    if not 0 < size < len(values):
        raise UsageError(f"Expected to calibrate on 1 to {len(values) - 1} of {len(values)} images, got {size}.")
    new_positive, new_values = (positive, values) if shifted is None else shifted
    draw, rows = np.random.default_rng(seed), []
    for _ in range(splits):
        half = draw.permutation(len(values)) < size
        known, new = values[half & positive], new_values[~half & new_positive]
        if conformal_rank(len(known), rate) and len(new):
            threshold = conformal_threshold(known, rate)
            counts = {"calibration": len(known), "judged": len(new)}
            shares = {"rate": (new < threshold).mean(), "flagged": (new_values[~half] >= threshold).mean()}
            rows.append(counts | shares)
    return pd.DataFrame(rows, columns=["calibration", "judged", "rate", "flagged"])


def _exact(rate: float) -> Fraction:
    if not 0 < rate < 1:
        raise UsageError(f"Expected a rate between 0 and 1, such as 0.1, got {rate:g}.")
    written = Fraction(str(rate))
    simple = written.limit_denominator(1_000_000)  # 1/3, of which sixteen decimals fall short
    return simple if float(simple) == float(written) else written
