"""Figures of training studies: networks by recipe and seed, and networks through time."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from margincons.plots import model_style, short_name


def networks_by_recipe(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """Draw one faint mark per network and one full mark per recipe, at the mean of its seeds.

    Args:
        axes: Where to draw.
        table: From `margincons.studies.training_runs.summary`.
        x: A column of it.
        y: Another.
    """
    for recipe, one in table.groupby("recipe", sort=False):
        style = model_style(recipe) | {"linestyle": ""}
        axes.plot(one[x], one[y], **style, ms=3.5, alpha=0.35, mew=0.8)
        axes.plot(one[x].mean(), one[y].mean(), **style, ms=7, mew=1.5, zorder=3, label=short_name(recipe))


def through_time(axes: Axes, table: pd.DataFrame, columns: Mapping[str, str]) -> None:
    """Draw columns over epochs, one line per seed and a thick one for their mean.

    The epoch axis is logarithmic from 1 on, with the untrained network at its left end.

    Args:
        axes: Where to draw.
        table: Rows of one recipe, from `margincons.studies.training_runs.summary`.
        columns: Label of each line, by the column it shows.
    """
    epochs = np.sort(table["epoch"].unique())
    places = pd.Series(range(len(epochs)), index=epochs)  # checkpoints are a factor apart
    drawn = zip(columns.items(), ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"), "os^Dv", strict=False)
    for (column, label), colour, marker in drawn:
        by_epoch = table.pivot_table(index="epoch", columns="seed", values=column)
        at = places[by_epoch.index]
        axes.plot(at, by_epoch, color=colour, lw=0.6, alpha=0.4)
        axes.plot(at, by_epoch.mean(axis=1), color=colour, marker=marker, ms=4, lw=1.6, label=label)
    axes.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs], fontsize=6.5)
    axes.set(xlabel="epochs", xlim=(-0.3, len(epochs) - 0.7))


def terminal_shade(axes: Axes, table: pd.DataFrame, started: pd.Series) -> None:
    """Shade the epochs from which every seed classifies all training images correctly, on the axes of `through_time`.

    Args:
        axes: Where to draw.
        table: Rows of one recipe.
        started: First epoch of the phase by seed; NaN where it was not reached: then nothing is shaded.
    """
    epochs = np.sort(table["epoch"].unique())
    if started.notna().all():
        first = int(np.searchsorted(epochs, started.max()))
        axes.axvspan(first, len(epochs) - 1, color="#888888", alpha=0.15, lw=0)
