"""How tight attacks are: their bounds against the best bound known for each image, or the exact margin."""

import numpy as np
import pandas as pd

from margincons.errors import MissingColumnError
from margincons.statistics.intervals import Estimate, bootstrap_weights

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
    against = results[results["attack"] == rival][[*_KEYS, "upper", "seconds"]]
    table = _relative(results, best).merge(against, on=_KEYS, suffixes=("", "_rival"), how="left")
    table["worse"] = table["upper"] > (1 + WORSE) * table["upper_rival"]
    return table.groupby(["set", "attack"]).apply(_summary, include_groups=False)


def mean_excesses(
    results: pd.DataFrame, best: pd.DataFrame, *, rival: str | None = None, replicates: int = 1000, seed: int = 0
) -> pd.Series:
    """Mean excess of each attack with a bootstrap interval over images, or less that of a rival on the same images.

    An image is resampled together with the bounds that it has on all networks of its set, which are alike; networks
    stay as they are. Only bounds that were found are averaged, of a difference those that both attacks found.

    Args:
        results: As `tightness` takes them.
        best: From `best_known`, or exact margins in the same form.
        rival: The attack whose excess is taken off.
        replicates: Bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        An `Estimate` per (set, attack), at 95%; none where an attack found nothing.
    """
    excess = _relative(results, best).set_index([*_KEYS, "attack"])["excess"].unstack()
    if rival is not None:
        excess = excess.sub(excess[rival], axis=0).drop(columns=rival)
    found = excess.stack().loc[np.isfinite].rename("excess").reset_index()
    return found.groupby(["set", "attack"]).apply(
        _mean_over_images, replicates=replicates, seed=seed, include_groups=False
    )


def looser_networks(results: pd.DataFrame, best: pd.DataFrame, *, attack: str, rival: str) -> list[str]:
    """Networks on which an attack's mean excess is above its rival's by more than 0.1%."""
    means = _relative(results, best).groupby(["network", "attack"])["excess"].mean().unstack()
    return sorted(means.index[means[attack] > means[rival] + WORSE])


def _relative(results: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    table = results.merge(best, on=_KEYS)
    table = table[table["best"] > 0]  # a margin of 0 has no relative excess
    return table.assign(excess=table["upper"] / table["best"] - 1)


def _mean_over_images(rows: pd.DataFrame, replicates: int, seed: int) -> Estimate:
    images = rows.groupby("index")["excess"].agg(["sum", "size"]).to_numpy()
    drawn = bootstrap_weights(np.random.default_rng(seed), len(images), replicates)
    sums, sizes = images.T @ drawn
    low, high = np.quantile(sums / sizes, [0.025, 0.975], method="inverted_cdf")
    ends = {"low": float(low), "high": float(high), "method": f"bootstrap over {len(images)} images"}
    return Estimate(value=float(rows["excess"].mean()), n=len(rows), **ends)


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
