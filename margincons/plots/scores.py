"""Figures of many scores: what each knows beside what each costs."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from margincons.plots import BRITTLE, model_style, short_name
from margincons.studies.score_jobs import CERTIFIED, SCORED
from margincons.studies.score_quality import STATISTICS, spoken

GREY = "#888888"


def passes(costs: pd.DataFrame) -> pd.Series:
    """Cost of each score in passes: forward and backward as counted; of certificates, their time in forward passes."""
    counted = costs["forward"] + costs["backward"]
    return counted.where(~costs.index.isin(CERTIFIED), costs["time"])


def price_list(costs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Medians over networks of `studies.score_runs.costs_of`, from cheap to dear; among equals as in `SCORED`."""
    medians = pd.concat(costs).groupby(level=0).median()
    medians = medians.loc[[name for name in SCORED if name in medians.index]]
    return medians.loc[passes(medians).sort_values(kind="stable").index]


def score_costs(axes: Axes, costs: pd.DataFrame) -> None:
    """Draw what an image costs by score, a line each, the first at the top; certificates, which are timed, hollow."""
    total = passes(costs)
    for place, (name, cost) in enumerate(total.items()):
        timed = name in CERTIFIED
        axes.plot([1, cost], [place, place], color=GREY, lw=1, ls=":" if timed else "-")
        axes.plot(cost, place, "o", ms=5, mec="black", mfc="white" if timed else "black")
    axes.set(xscale="log", xlabel="passes per image")
    axes.set_yticks(range(len(total)), [spoken(name) for name in total.index])
    axes.set_ylim(len(total) - 0.5, -0.5)


def score_values(
    axes: Axes, found: Mapping[str, pd.DataFrame], scores: Sequence[str], *, statistic: str, reference: str
) -> None:
    """Draw a statistic by score, a line each and a mark for each network; the reference's line is shaded.

    Args:
        axes: Where to draw; lines as in `score_costs`.
        found: Under each network a table of `margincons.studies.score_quality.quality`.
        scores: One per line; those that a network lacks have no mark of it.
        statistic: "tau", "AUROC" or ``"FPR@95"``.
        reference: The score that others are compared with.
    """
    shifts = 0.6 * ((np.arange(len(found)) + 0.5) / len(found) - 0.5)
    for shift, (model_id, table) in zip(shifts, found.items(), strict=True):
        style = model_style(model_id)
        del style["linestyle"]
        has = [place for place, score in enumerate(scores) if score in table.index]
        value = [table.loc[scores[place], statistic].value for place in has]
        axes.plot(value, np.array(has) + shift, ls="", ms=4.5, label=short_name(model_id), **style)
    axes.axhspan(scores.index(reference) - 0.5, scores.index(reference) + 0.5, color=GREY, alpha=0.2, lw=0)
    axes.set(xlabel=statistic)


def ladder(found: Mapping[str, pd.DataFrame], costs: pd.DataFrame, *, reference: str = "logit_margin") -> None:
    """Make a figure of costs and of every statistic of `margincons.studies.score_quality.quality`, a line per score.

    Args:
        found: Under each network its table.
        costs: One row per score, from cheap to dear.
        reference: The score that others are compared with.
    """
    figure, axes = plt.subplots(1, 1 + len(STATISTICS), figsize=(10, 6), sharey=True, layout="constrained")
    score_costs(axes[0], costs)
    for place, statistic in zip(axes[1:], STATISTICS, strict=True):
        score_values(place, found, list(costs.index), statistic=statistic, reference=reference)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=len(found))


def unmatched(cost: pd.Series, value: pd.Series) -> list[str]:
    """Scores whose value no cheaper or equally dear one matches, from cheap to dear.

    Args:
        cost: Passes per image, by score.
        value: The statistic, by score; more is better.
    """
    kept: list[str] = []
    for name in sorted(cost.index, key=lambda name: (cost[name], -value[name])):
        if not kept or value[name] > value[kept[-1]]:
            kept.append(name)
    return kept


def frontier(axes: Axes, cost: pd.Series, value: pd.Series, *, learned: Collection[str] = ()) -> list[str]:
    """Draw value over cost by score; those that no cheaper score matches are joined and numbered.

    Args:
        axes: Where to draw.
        cost: Passes per image, by score.
        value: The statistic, by score; more is better.
        learned: Scores that other images were paid for once, which the cost leaves out; marked by a diamond.

    Returns:
        The scores on the line, in the order of their numbers, from 1.
    """
    kept = unmatched(cost, value)
    axes.plot(cost, value, "o", color=GREY, ms=4, ls="")
    axes.plot(cost[kept], value[kept], color=BRITTLE, marker="o", ms=5, lw=1, drawstyle="steps-post")
    if learned:
        also = list(learned)
        axes.plot(cost[also], value[also], "D", ms=9, mfc="none", mec="black", ls="", label="and more, once")
    for number, name in enumerate(kept, 1):
        axes.annotate(f"{number}", (cost[name], value[name]), xytext=(0, 7), textcoords="offset points", ha="center")
    axes.margins(y=0.1)
    axes.set(xscale="log", xlabel="passes per image")
    return kept
