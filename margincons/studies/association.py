"""Do two properties of networks go together? Ranks over recipes, over seeds, and over the seeds of one recipe.

Networks of one recipe are alike, so they are no independent sample of networks: a recipe counts once, and what its
seeds say is asked apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from margincons.consistency import column
from margincons.errors import DegenerateError, MissingColumnError
from margincons.statistics.intervals import Estimate, over_seeds


@dataclass(frozen=True, kw_only=True)
class Association:
    """Kendall's tau of two properties, four ways of asking what it would be another time."""

    recipes: Estimate  # of the means over seeds; interval by resampling recipes: what other recipes would change
    p: float  # chance of so large a tau, of either sign, if outcomes fell on recipes at random
    seeds: Estimate  # mean over seeds of the tau over recipes; Student's interval: what other seeds would change
    within: Estimate  # over pairs of networks of one recipe; interval by resampling recipes
    p_within: float  # chance of so large a tau, of either sign, if outcomes fell on the seeds of a recipe at random


def association(
    table: pd.DataFrame,
    x: str,
    y: str,
    *,
    group: str = "recipe",
    replicates: int = 2000,
    permutations: int = 4999,
    seed: int = 0,
    level: float = 0.95,
) -> Association:
    """Correlate two columns of a table of networks.

    Over recipes, a relation is one between ways of training; within recipes, one between networks that differ by
    chance alone. The first can be there without the second, where both properties follow from the recipe.

    Args:
        table: One row per network, with columns "seed" and ``group``; every recipe under the same seeds.
        x: Column of the first property.
        y: Column of the second.
        group: Column that names the recipe.
        replicates: Bootstrap samples of the intervals over recipes.
        permutations: Random permutations behind the chances.
        seed: Seed of both.
        level: Share of the intervals that should hold the truth.

    Raises:
        MissingColumnError: If a column is missing.
        DegenerateError: If there are fewer than three recipes, a recipe lacks a seed, or a property is constant.
    """
    xs, ys = (_grid(table, name, group) for name in (x, y))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(xs), size=(replicates, len(xs)))
    mean_x, mean_y = (grid.mean(axis=1).round(12) for grid in (xs, ys))  # equal means that were summed in another order
    shuffled = rng.permuted(np.tile(mean_y, (permutations, 1)), axis=1)
    recipes, by_chance = (float(_tau(mean_x, mean_y)), _tau(mean_x, shuffled))
    shuffled = rng.permuted(np.tile(ys, (permutations, 1, 1)), axis=2)
    within, within_by_chance = float(_tau_within(xs, ys)), _tau_within(xs, shuffled)
    options = {"n": len(xs), "level": level}
    return Association(
        recipes=_percentile(recipes, _tau(mean_x[drawn], mean_y[drawn]), **options),
        p=_chance(recipes, by_chance),
        seeds=over_seeds(_tau(xs.T, ys.T), level=level),
        within=_percentile(within, _tau_within(xs[drawn], ys[drawn]), **options),
        p_within=_chance(within, within_by_chance),
    )


def holm(chances: Sequence[float]) -> np.ndarray:
    """Chances made larger for how many were computed: below a level, one of them is wrong with that chance at most.

    Source: Holm, 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6.

    Args:
        chances: p values of the whole family of tests, (m,).
    """
    chances = np.asarray(chances, dtype=float)
    order = np.argsort(chances)
    raised = np.maximum.accumulate(chances[order] * np.arange(len(chances), 0, -1)).clip(max=1)
    adjusted = np.empty_like(chances)
    adjusted[order] = raised
    return adjusted


def _grid(table: pd.DataFrame, name: str, group: str) -> np.ndarray:
    """One property as (recipes, seeds)."""
    for needed in ("seed", name):
        column(table, needed)
    if group not in table:
        raise MissingColumnError(group, table.columns)
    grid = table.pivot_table(index=group, columns="seed", values=name, sort=False, dropna=False).to_numpy(dtype=float)
    if len(grid) < 3 or np.isnan(grid).any():
        raise DegenerateError(
            f"An association with {name}",
            f"of {len(grid)} recipes (3 are needed) {np.isnan(grid).any(axis=1).sum()} lack a value for a seed",
        )
    if np.ptp(grid.mean(axis=1)) == 0 or (np.ptp(grid, axis=0) == 0).any():
        raise DegenerateError(f"An association with {name}", "it is the same for all recipes")
    return grid


def _tau(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b over the last axis: the cosine between the signs of all differences; NaN for a constant."""
    return _cosine(_signs(x), _signs(y))


def _tau_within(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same over the last two axes, (recipes, seeds), from the differences between seeds of one recipe only."""
    x, y = np.broadcast_arrays(_signs(x), _signs(y))
    return _cosine(x.reshape(*x.shape[:-2], -1), y.reshape(*y.shape[:-2], -1))


def _signs(values: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(values.shape[-1], 1)
    return np.sign(values[..., first] - values[..., second])


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.divide((x * y).sum(axis=-1), scale, out=np.full_like(scale, np.nan), where=scale > 0)


def _percentile(value: float, replicates: np.ndarray, *, n: int, level: float) -> Estimate:
    kept = replicates[~np.isnan(replicates)]  # a sample of one recipe over and over has no order
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    method = f"bootstrap over {n} recipes, {len(kept)} replicates"
    return Estimate(value=value, low=float(low), high=float(high), level=level, n=n, method=method)


def _chance(value: float, by_chance: np.ndarray) -> float:
    """Share of permutations that are as far from 0, the data itself counted among them."""
    reached = np.abs(by_chance) >= abs(value) - 1e-12
    return float((1 + reached.sum()) / (1 + len(by_chance)))
