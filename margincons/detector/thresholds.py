"""Calibrated thresholds on a score: what is flagged, what is called brittle, and what is promised about either."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import beta
from torch import Tensor

from margincons.cautions import Caution, FlagsAllWarning, NoRobustImagesWarning
from margincons.detection import is_brittle
from margincons.errors import DegenerateError, ShapeError, UsageError
from margincons.statistics.conformal import conformal_rank, conformal_threshold


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Two thresholds on a score, in its own units, and the promises that they keep; made by `calibrate`.

    Flagged is a score at least as brittle as ``flag``: of images exchangeable with those of the calibration, a brittle
    one goes unflagged with probability at most ``miss_rate``. Called brittle is a flagged score more brittle than
    ``alarm``: a robust image is called so with probability at most ``false_alarm_rate``. Both hold where the two cross.
    """

    sign: int  # +1 for a score that is low on brittle images, -1 for one that is high on them
    epsilon: float  # brittle means an input margin <= epsilon
    miss_rate: float
    false_alarm_rate: float | None  # None: nothing is promised, and all that is flagged is called brittle
    flag: float
    alarm: float | None
    n_brittle: int  # calibration images of either kind
    n_robust: int

    def __str__(self) -> str:
        """Say in one line what is flagged, and what that promises."""
        share = f"{100 * self.miss_rate:.3g}%"
        low, high = (f"{100 * end:.2g}%" for end in self.miss_range)
        text = f"flags scores {self.beyond} {self.flag:.4g}, so that at most {share} of the brittle images pass "
        text += f"on average over calibrations ({low} to {high} in nine of ten)"
        if self.alarm is not None:
            text += f"; calls brittle at most {100 * self.false_alarm_rate:.3g}% of the robust ones"
        return f"{text} (calibrated on {self.n_brittle} brittle and {self.n_robust} robust images)"

    @property
    def beyond(self) -> str:
        """How a flagged score compares with ``flag``: "<=" or ">="."""
        return "<=" if self.sign > 0 else ">="

    @property
    def miss_range(self) -> tuple[float, float]:
        """5% and 95% points of the miss rate of one calibration like this: a beta law, where scores have no ties."""
        k = conformal_rank(self.n_brittle, self.miss_rate)
        low, high = beta(k, self.n_brittle + 1 - k).ppf([0.05, 0.95])
        return float(low), float(high)

    def flagged(self, scores: Tensor) -> Tensor:
        """Which of the scores (n,) are flagged (n,); NaN is, since nothing vouches for it."""
        return ~(scores > self.flag if self.sign > 0 else scores < self.flag)

    def brittle(self, scores: Tensor) -> Tensor:
        """Which of the scores (n,) are called brittle (n,); a flagged one that is not is undecided."""
        flagged = self.flagged(scores)
        if self.alarm is None:
            return flagged
        return flagged & (scores < self.alarm if self.sign > 0 else scores > self.alarm)


def calibrate(
    scores: np.ndarray,
    margins: np.ndarray,
    *,
    sign: int,
    epsilon: float,
    miss_rate: float,
    false_alarm_rate: float | None = None,
) -> Thresholds:
    """Choose thresholds on calibration images, class by class: the brittle ones for one, the robust for the other.

    Args:
        scores: One per image (n,).
        margins: Input margins (n,), infinite where an attack found nothing.
        sign: +1 for a score that is low on brittle images, -1 for one that is high on them.
        epsilon: Brittle means a margin <= epsilon, up to the rounding of fp32 images.
        miss_rate: Promised share of brittle images that go unflagged.
        false_alarm_rate: Promised share of robust images that are called brittle; None promises none.

    Raises:
        ShapeError: If there is not one margin per score.
        UsageError: If a rate is not between 0 and 1, or a margin is negative.
        DegenerateError: If a margin or a score is NaN.
        TooFewImagesError: If there are too few images of a kind for its rate.
    """
    scores, margins = np.asarray(scores), np.asarray(margins)
    if margins.shape != scores.shape:
        raise ShapeError("margins", f"one per calibration image, {scores.shape}", margins.shape)
    if (margins < 0).any():
        raise UsageError(f"Expected margins of 0 or more, got {margins.min():g}; are they logits, or other scores?")
    if missing := int(np.isnan(scores).sum()):
        raise DegenerateError("A threshold", f"{missing} of {len(scores)} calibration scores are NaN")
    brittle = is_brittle(pd.DataFrame({"upper": margins}), epsilon)
    robustness = sign * scores
    alarm = None
    if false_alarm_rate is not None:
        alarm = sign * conformal_threshold(robustness[~brittle], false_alarm_rate, what="robust")
    return Thresholds(
        sign=sign,
        epsilon=float(epsilon),
        miss_rate=float(miss_rate),
        false_alarm_rate=None if false_alarm_rate is None else float(false_alarm_rate),
        flag=-sign * conformal_threshold(-robustness[brittle], miss_rate, what="brittle"),
        alarm=alarm,
        n_brittle=int(brittle.sum()),
        n_robust=int((~brittle).sum()),
    )


def doubts(thresholds: Thresholds, scores: np.ndarray, margins: np.ndarray) -> list[Caution]:
    """Name what thresholds cannot be used for although they keep their promise: to let an image pass.

    Args:
        thresholds: From `calibrate`.
        scores: Those that it was given (n,).
        margins: Those that it was given (n,).
    """
    if not thresholds.n_robust:
        seen = f"All {len(margins)} calibration images have a margin of at most epsilon = {thresholds.epsilon:.4g}"
        return [NoRobustImagesWarning(f"{seen}, the largest of {np.max(margins):.4g}")]
    robust = ~is_brittle(pd.DataFrame({"upper": margins}), thresholds.epsilon)
    if thresholds.flagged(torch.as_tensor(scores)[torch.from_numpy(robust)]).all():
        seen = f"Scores {thresholds.beyond} {thresholds.flag:.4g} are flagged, and with them"
        return [FlagsAllWarning(f"{seen} all {thresholds.n_robust} robust calibration images")]
    return []
