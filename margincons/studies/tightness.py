"""How tight attacks are: their bounds against the best bound known for each image, or the exact margin."""

import numpy as np
import pandas as pd

from margincons.errors import MissingColumnError

WORSE = 1e-3  # "not worse" and "within 0.1%" allow for this much
_KEYS = ["set", "network", "index"]


def best_known(results: pd.DataFrame, reference: pd.DataFrame | None = None) -> pd.DataFrame:
    """Least bound per image over all attacks, and over an earlier reference, which can only decrease.

    Args:
        results: One row per (set, network, attack, index) with a column "upper".
        reference: An earlier result of this function; one row per (set, network, index) with a column "best".

    Returns:
        Columns "set", "network", "index", "best".
    """
    best = results.groupby(_KEYS, as_index=False)["upper"].min().rename(columns={"upper": "best"})
    if reference is None:
        return best
    return pd.concat([reference[[*_KEYS, "best"]], best]).groupby(_KEYS, as_index=False)["best"].min()


def complete(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of the attacks that ran on every network of a set: a mean over other networks would compare nothing."""
    networks = results.groupby("set")["network"].nunique()
    ran = results.groupby(["set", "attack"])["network"].transform("nunique")
    return results[ran == results["set"].map(networks)].reset_index(drop=True)


def with_exact(best: pd.DataFrame, exact: pd.DataFrame, *, group: str, network: str) -> pd.DataFrame:
    """Put exact margins in the place of the best bounds known, for the images of one network that were solved.

    Args:
        best: From `best_known`.
        exact: A record with columns "index", "incumbent" and "status".
        group: The set.
        network: The network of that set.
    """
    solved = exact[exact["status"] == "optimal"].set_index("index")["incumbent"]
    here = (best["set"] == group) & (best["network"] == network)
    known = best["index"].map(solved).where(here)
    return best.assign(best=known.fillna(best["best"]))


def tightness(results: pd.DataFrame, best: pd.DataFrame, *, rival: str = "FAB, paper's setting") -> pd.DataFrame:
    """Excess of each attack over the best bound known, and what it cost.

    Args:
        results: One row per (set, network, attack, index) with columns "upper", "forward", "backward", "seconds".
        best: From `best_known`, or exact margins in the same form.
        rival: The attack that others are compared with, image by image.

    Returns:
        One row per (set, attack): "images" (a slow attack may have seen fewer), "mean excess" and "max excess"
        (relative, over the images where the attack found something), "within 0.1%", "not worse than FAB", "failed"
        (shares of images), "forward", "backward" (passes per image), "seconds" (per image) and "times faster" than
        the rival. The comparisons with the rival are over the images that both ran on: NaN where there are none.

    Raises:
        MissingColumnError: If a column is missing.
    """
    for column in (*_KEYS, "attack", "upper", "forward", "backward", "seconds"):
        if column not in results:
            raise MissingColumnError(column, results.columns)
    table = results.merge(best, on=_KEYS)
    against = results[results["attack"] == rival][[*_KEYS, "upper", "seconds"]]
    table = table.merge(against, on=_KEYS, suffixes=("", "_rival"), how="left")
    table = table[table["best"] > 0]  # a margin of 0 has no relative excess
    table["excess"] = table["upper"] / table["best"] - 1
    table["worse"] = table["upper"] > (1 + WORSE) * table["upper_rival"]
    return table.groupby(["set", "attack"]).apply(_summary, include_groups=False)


def looser_networks(results: pd.DataFrame, best: pd.DataFrame, *, attack: str, rival: str) -> list[str]:
    """Networks on which an attack's mean excess is above its rival's by more than 0.1%."""
    table = results.merge(best, on=_KEYS)
    table["excess"] = table["upper"] / table["best"].where(table["best"] > 0) - 1
    means = table.groupby(["network", "attack"])["excess"].mean().unstack()
    return sorted(means.index[means[attack] > means[rival] + WORSE])


def _summary(rows: pd.DataFrame) -> pd.Series:
    found, shared = rows[np.isfinite(rows["upper"])], rows[rows["upper_rival"].notna()]
    return pd.Series(
        {
            "images": len(rows),
            "mean excess": found["excess"].mean(),
            "max excess": found["excess"].max(),
            "within 0.1%": (rows["excess"] <= WORSE).mean(),
            "not worse than FAB": 1 - shared["worse"].mean(),
            "failed": 1 - len(found) / len(rows),
            "backward": rows["backward"].mean(),
            "forward": rows["forward"].mean(),
            "seconds": rows["seconds"].mean(),
            "times faster": shared["seconds_rival"].mean() / shared["seconds"].mean(),
        }
    )
