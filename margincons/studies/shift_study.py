"""What a change of images does to one network's record: accuracy, order, detection, and the promise made before it."""

from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from margincons.detection import is_brittle
from margincons.statistics.intervals import Estimate, difference, estimate
from margincons.statistics.promise import judge_promise
from margincons.studies.association import holm

BROKEN, KEPT, OPEN = "broken", "kept", "open"


def under_shift(
    table: pd.DataFrame,
    calm: pd.DataFrame,
    *,
    epsilon: float,
    miss_rate: float,
    looks: int = 1,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge a detector that was calibrated on one table of margins on another, whose images have changed.

    Args:
        table: Margins of changed images, one row each, with columns "label", "predicted", "logit_margin" and "upper".
        calm: Margins of the calibration images, measured in the same way.
        epsilon: Brittle means a margin <= epsilon, on the [0, 1] pixel scale.
        miss_rate: What was promised.
        looks: How many such tables are judged in all: the interval "widened" is at 1 - 0.05 / looks.
        replicates: Bootstrap samples of each interval.
        seed: Seed of the bootstrap.

    Returns:
        Estimates "accuracy", "brittle" (share), "tau", "AUROC", ``"FPR@95"``, "missed" and "widened" (the same share
        in a wider interval), and numbers "chance of more" and "chance of change" of
        `margincons.statistics.promise.judge_promise`, "flagged" (share) and "brittle among unflagged". NaN for what all
        images brittle, or none, leave undefined.

    Raises:
        TooFewImagesError: If the calibration images hold too few brittle ones for the rate.
    """
    brittle, score = is_brittle(table, epsilon), -table["logit_margin"].to_numpy()
    before = -calm["logit_margin"].to_numpy()[is_brittle(calm, epsilon)]
    boot = {"replicates": replicates, "seed": seed}
    row = {
        "accuracy": estimate("accuracy", table["label"] == table["predicted"]),
        "brittle": estimate("accuracy", brittle),
        "tau": estimate("kendall_tau", table["upper"], -score, **boot),
    }
    undefined = ["AUROC", "FPR@95", "missed", "widened", "chance of more", "chance of change"]
    row |= dict.fromkeys([*undefined, "flagged", "brittle among unflagged"], np.nan)
    if 0 < brittle.sum() < len(brittle):
        row["AUROC"], row["FPR@95"] = (estimate(name, brittle, score, **boot) for name in ("auroc", "fpr_at_tpr"))
    if brittle.any():
        promise, wider = (
            judge_promise(before, score[brittle], rate=miss_rate, level=level) for level in (0.95, 1 - 0.05 / looks)
        )
        row |= {"missed": promise.missed, "widened": wider.missed}
        row |= {"chance of more": promise.chance_of_more, "chance of change": promise.chance_of_change}
        unflagged = score < promise.threshold
        row["flagged"] = 1 - unflagged.mean()
        row["brittle among unflagged"] = brittle[unflagged].mean() if unflagged.any() else np.nan
    return row


def tau_change(
    table: pd.DataFrame, untouched: pd.DataFrame, *, looks: int = 1, replicates: int = 1000, seed: int = 0
) -> Estimate:
    """Kendall's tau of changed images less that of the same images before, on the same bootstrap samples.

    So many looks ask for an end far out, which few samples do not reach: the interval is the normal one, from the
    bootstrap's standard error.

    Args:
        table: Margins of changed images, one row each, with columns "logit_margin" and "upper".
        untouched: Margins of the same images before, row by row.
        looks: How many such intervals should hold together, by Bonferroni.
        replicates: Bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ShapeError: If the tables differ in length.
    """
    pair = [(one["upper"].to_numpy(), one["logit_margin"].to_numpy()) for one in (table, untouched)]
    gap, level = difference("kendall_tau", *pair, replicates=replicates, seed=seed), 1 - 0.05 / looks
    half = NormalDist().inv_cdf((1 + level) / 2) * gap.standard_error
    method = f"normal, {gap.method}"
    return replace(gap, low=gap.value - half, high=gap.value + half, level=level, method=method)


def verdicts(cells: pd.DataFrame, *, miss_rate: float) -> pd.DataFrame:
    """Say of each row of `under_shift` whether the promise is broken, kept or neither, with all rows as one family.

    Broken: so many misses would be luck with a chance of 5% at most, by Holm over all rows. Kept: the widened interval
    ends at or below the promise. Changed: the brittle images' scores are distributed otherwise, by Holm at 5%.

    Args:
        cells: Columns "chance of more", "chance of change" and "widened".
        miss_rate: What was promised.

    Returns:
        The table with columns more: "p", "changed" and "verdict".
    """
    judged = cells["chance of more"].notna()
    cells = cells.assign(p=np.nan, changed=False)
    cells.loc[judged, "p"] = holm(cells.loc[judged, "chance of more"])
    cells.loc[judged, "changed"] = holm(cells.loc[judged, "chance of change"]) <= 0.05
    kept = np.array([getattr(e, "high", np.nan) <= miss_rate for e in cells["widened"]], dtype=bool)
    return cells.assign(verdict=np.select([cells["p"] <= 0.05, kept], [BROKEN, KEPT], OPEN))
