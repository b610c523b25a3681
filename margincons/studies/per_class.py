"""Brittleness by predicted class, and what one threshold for all classes costs each of them."""

import numpy as np
import pandas as pd

from margincons.consistency import column, consistency
from margincons.detection import brittle_share, detection, is_brittle
from margincons.errors import DegenerateError
from margincons.statistics.intervals import Estimate, estimate


def per_class(
    table: pd.DataFrame, *, epsilon: float, margin: str = "upper", least: int = 1, replicates: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Detect brittle images by the logit margin in each predicted class, by its own threshold and by one for all.

    Classes are those predicted, since nothing else is known of a new image, and the margin is of that class.

    Args:
        table: A record, one row per image.
        epsilon: Brittle means margin <= epsilon, up to the rounding of fp32 images, on the [0, 1] pixel scale.
        margin: The column that holds the input margin, or a bound on it.
        least: Images that a class needs to be listed.
        replicates: Bootstrap samples of each interval.
        seed: Seed of the bootstrap.

    Returns:
        One row per class, indexed "predicted": "images", and estimates "share brittle", "tau", "threshold" (that finds
        95% of the class's brittle images, in logits), "flagged" (the share of its robust images below that threshold),
        then "found at the global" and "flagged at the global" threshold, the one that finds 95% over all classes. None
        where a class lacks what the estimate is of.

    Raises:
        MissingColumnError: If the table lacks a column.
        DegenerateError: If a margin is NaN.
    """
    options = {"margin": margin, "replicates": replicates, "seed": seed}
    try:
        one_for_all = detection(table, epsilon=epsilon, **options).threshold95.value
    except DegenerateError:
        one_for_all = np.nan
    rows = {}
    for name, images in table.groupby("predicted"):
        if len(images) < least:
            continue
        row = {"images": len(images), "share brittle": brittle_share(images, epsilon=epsilon, margin=margin)}
        row |= dict.fromkeys(("tau", "threshold", "flagged"))
        try:
            row["tau"] = consistency(images, **options).tau
            own = detection(images, epsilon=epsilon, **options)
            row |= {"threshold": own.threshold95, "flagged": own.fpr95}
        except DegenerateError:  # too few images, or no brittle one, or no robust one
            pass
        brittle = is_brittle(images, epsilon, margin)
        below = column(images, "logit_margin") <= one_for_all
        row["found at the global"] = _share(below[brittle], one_for_all)
        row["flagged at the global"] = _share(below[~brittle], one_for_all)
        rows[name] = row
    names = ["images", "share brittle", "tau", "threshold", "flagged", "found at the global", "flagged at the global"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis("predicted")


def same_in_all_classes(
    table: pd.DataFrame, event: np.ndarray, among: np.ndarray, *, permutations: int = 9999, seed: int = 0
) -> float:
    """Chance that shares differ between predicted classes as much as these, if they are the same in truth.

    Pearson's chi-squared statistic of classes against the event, its null distribution by permuting the event: exact
    in small classes, where the chi-squared distribution is not.

    Args:
        table: A record, one row per image.
        event: What has a share in each class, booleans (n,).
        among: The images that are counted, booleans (n,).
        permutations: How many; the least p-value is 1 / (permutations + 1).
        seed: Seed of the permutations.

    Returns:
        A p-value; NaN where there are fewer than two classes, or the event is always or never.
    """
    from scipy.stats import permutation_test

    classes = column(table, "predicted")[among]
    happened = np.asarray(event, dtype=float)[among]
    names, place = np.unique(classes, return_inverse=True)
    if len(names) < 2 or happened.min() == happened.max():
        return float("nan")
    sizes = np.bincount(place)

    def spread(flags: np.ndarray) -> float:
        return float((np.bincount(place, weights=flags) ** 2 / sizes).sum())  # chi-squared, up to constants

    options = {"permutation_type": "pairings", "alternative": "greater", "n_resamples": permutations, "rng": seed}
    return float(permutation_test((happened,), spread, **options).pvalue)


def _share(flags: np.ndarray, threshold: float) -> Estimate | None:
    return estimate("accuracy", flags) if len(flags) and np.isfinite(threshold) else None
