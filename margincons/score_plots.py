"""Figures of many scores: what each knows beside what each costs."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from margincons.plots import BRITTLE, model_style, short_name
from margincons.score_jobs import CERTIFIED

GREY = "#888888"


def passes(costs: pd.DataFrame) -> pd.Series:
    """Cost of each score in passes: forward and backward as counted; of certificates, their time in forward passes."""
    counted = costs["forward"] + costs["backward"]
    return counted.where(~costs.index.isin(CERTIFIED), costs["time"])


def score_costs(axes: Axes, costs: pd.DataFrame) -> None:
    """Draw what an image costs by score, a line each, the first at the top; certificates, which are timed, hollow."""
    total = passes(costs)
    for place, (name, cost) in enumerate(total.items()):
        timed = name in CERTIFIED
        axes.plot([1, cost], [place, place], color=GREY, lw=1, ls=":" if timed else "-")
        axes.plot(cost, place, "o", ms=5, mec="black", mfc="white" if timed else "black")
    axes.set(xscale="log", xlabel="passes per image")
    axes.set_yticks(range(len(total)), [name.replace("_", " ") for name in total.index])
    axes.set_ylim(len(total) - 0.5, -0.5)


def score_values(
    axes: Axes, found: Mapping[str, pd.DataFrame], scores: Sequence[str], *, statistic: str, reference: str
) -> None:
    """Draw a statistic by score, a line each and a mark for each network; the reference's line is shaded.

    Args:
        axes: Where to draw; lines as in `score_costs`.
        found: Under each network a table of `margincons.score_quality.quality`.
        scores: One per line; those that a network lacks have no mark of it.
        statistic: "tau", "AUROC" or "FPR@95".
        reference: The score that others are compared with.
    """
    for shift, (model_id, table) in zip(np.linspace(-0.25, 0.25, len(found)), found.items(), strict=True):
        style = {key: value for key, value in model_style(model_id).items() if key != "linestyle"}
        has = [place for place, score in enumerate(scores) if score in table.index]
        value = [table.loc[scores[place], statistic].value for place in has]
        axes.plot(value, np.array(has) + shift, ls="", ms=4.5, label=short_name(model_id), **style)
    axes.axhspan(scores.index(reference) - 0.5, scores.index(reference) + 0.5, color=GREY, alpha=0.2, lw=0)
    axes.set(xlabel=statistic)


def frontier(axes: Axes, cost: pd.Series, value: pd.Series, *, best: str = "high") -> None:
    """Draw value over cost by score; those that no cheaper score matches are joined and named.

    Args:
        axes: Where to draw.
        cost: Passes per image, by score.
        value: The statistic, by score.
        best: "high" or "low": which value is better.
    """
    order = sorted(cost.index, key=lambda name: (cost[name], -value[name] if best == "high" else value[name]))
    kept = []
    for name in order:
        if not kept or (value[name] > value[kept[-1]] if best == "high" else value[name] < value[kept[-1]]):
            kept.append(name)
    axes.plot(cost, value, "o", color=GREY, ms=4, ls="")
    axes.plot(cost[kept], value[kept], "o-", color=BRITTLE, ms=5, lw=1, drawstyle="steps-post")
    axes.set(xscale="log", xlabel="passes per image")
