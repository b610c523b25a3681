"""Robustness over every epsilon: accuracy curves, success rates, and the radius at which a wanted accuracy ends."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import quantile_test

from margincons.consistency import column
from margincons.detection import is_brittle, is_correct, robust_accuracy
from margincons.errors import DegenerateError, UsageError
from margincons.statistics.intervals import Estimate, estimate


def accuracy_curve(table: pd.DataFrame, epsilons: Sequence[float], *, margin: str = "upper") -> pd.DataFrame:
    """Robust accuracy at each radius, from margins that were measured once.

    Args:
        table: A record of a minimum-norm attack, one row per image.
        epsilons: Radii on the [0, 1] pixel scale, (m,).
        margin: The column that holds the input margin, or a bound on it.

    Returns:
        Columns "epsilon" and "accuracy" (an `Estimate`), one row per radius.
    """
    accuracies = [robust_accuracy(table, epsilon=epsilon, margin=margin) for epsilon in epsilons]
    return pd.DataFrame({"epsilon": list(epsilons), "accuracy": accuracies})


def success_rate(table: pd.DataFrame, *, epsilon: float, margin: str = "upper") -> Estimate:
    """Share of the correctly classified images that an attacker with budget epsilon can turn.

    Raises:
        DegenerateError: If no image is classified correctly.
    """
    correct = is_correct(table)
    if not correct.any():
        raise DegenerateError("A success rate", "no image is classified correctly")
    return estimate("accuracy", is_brittle(table, epsilon, margin)[correct])


def robustness_margin(table: pd.DataFrame, *, accuracy: float, margin: str = "upper", level: float = 0.95) -> Estimate:
    """Radius below which the wanted accuracy holds, and from which on it does not; 0 where it does not hold clean.

    The accuracy curve falls at the margins of the correctly classified images, so this is one of them: the one that
    ``accuracy`` of all images reach. At that radius itself its image is lost, so it is a supremum that is not attained.
    Its interval is that of an order statistic, whatever the distribution.

    Args:
        table: A record of a minimum-norm attack, one row per image.
        accuracy: The wanted share of images that are right and stay right, in (0, 1).
        margin: The column that holds the input margin, or a bound on it.
        level: Share of such intervals that should hold the radius of the population.

    Raises:
        UsageError: If the accuracy is not in (0, 1).
        DegenerateError: If there is no image.
    """
    if not 0 < accuracy < 1:
        raise UsageError(f"Expected an accuracy in (0, 1), got {accuracy:g}.")
    if not len(table):
        raise DegenerateError("A robustness margin", "there is no image")
    held = np.sort(np.where(is_correct(table), column(table, margin), 0.0))  # a wrong image holds at no radius
    needed = int(np.ceil(accuracy * len(held) - 1e-9))  # images that must hold
    interval = quantile_test(held, p=1 - accuracy).confidence_interval(level)
    low, high = (limit if np.isnan(end) else end for end, limit in zip(interval, (0.0, np.inf), strict=True))
    found = float(held[len(held) - needed])
    return Estimate(value=found, low=float(low), high=float(high), level=level, n=len(held), method="order statistics")
