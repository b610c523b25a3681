"""Figures: tables in, marks on the Axes that are given; nothing is returned.

Colours are Okabe and Ito's, told apart by colour-blind readers; markers and line styles repeat what colours say.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from torch import Tensor

from margincons.consistency import column
from margincons.detection import Curves, is_brittle
from margincons.statistics.intervals import Estimate
from margincons.zoo.bundled import bundled_index

BRITTLE, ROBUST = "#D55E00", "#0072B2"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))  # colours that are alike in grey get different ones


def use_style() -> None:
    """Apply the book's style sheet to every figure made from here on."""
    plt.style.use(Path(__file__).with_name("margincons.mplstyle"))


def model_style(model_id: str) -> dict[str, str | tuple]:
    """Colour, marker and line style of a network: the same on every page, and no two bundled networks alike."""
    known = list(bundled_index())
    place = known.index(model_id) if model_id in known else zlib.crc32(model_id.encode())
    again = place // len(COLOURS) % 2  # a colour comes again with another marker, and not among a page's few networks
    return {
        "color": COLOURS[(place + again * (place + 5)) % len(COLOURS)],
        "marker": MARKERS[(place + again * 4) % len(MARKERS)],
        "linestyle": _DASHES[(place + again) % len(_DASHES)],
    }


def short_name(model_id: str) -> str:
    """Last part of an id, for legends and axes."""
    return model_id.rsplit("/", 1)[-1].rsplit(":", 1)[-1]


def margin_scatter(
    axes: Axes,
    table: pd.DataFrame,
    *,
    epsilon: float,
    threshold: float | None = None,
    score: str = "logit_margin",
    margin: str = "upper",
) -> None:
    """Draw input margin over score, one mark per image: brittle ones as crosses, robust ones as dots.

    Images without a finite margin are left out here; count them beside the figure.
    """
    scores, margins, brittle = column(table, score), column(table, margin), is_brittle(table, epsilon, margin)
    axes.scatter(scores[~brittle], margins[~brittle], s=9, c=ROBUST, alpha=0.5, linewidths=0, label="robust")
    axes.scatter(scores[brittle], margins[brittle], s=13, c=BRITTLE, alpha=0.8, marker="x", lw=0.9, label="brittle")
    axes.axhline(epsilon, color="#444444", lw=1, ls="--")
    paper = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 1}
    axes.annotate(
        f"$\\epsilon$ = {epsilon:.3g}",
        (1, epsilon),
        xytext=(0, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        bbox=paper,
    )
    if threshold is not None:
        axes.axvline(threshold, color="#444444", lw=1, ls=":")
        axes.annotate(
            f" $\\lambda$ = {threshold:.3g}",
            (threshold, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            bbox=paper,
        )
    axes.set(xlabel=score.replace("_", " "), ylabel="input margin", xlim=(0, None), ylim=(0, None))


def binned_medians(axes: Axes, bins: pd.DataFrame, *, model_id: str, score: str = "logit_margin") -> None:
    """Draw `margincons.consistency.binned_medians` on the axes of `margin_scatter`: median scores with intervals.

    A band holds the middle half of the scores of each bin.
    """
    style = model_style(model_id)
    axes.fill_betweenx(
        bins["margin"], bins["lower quartile"], bins["upper quartile"], color=style["color"], alpha=0.2, lw=0
    )
    off = (bins["median"] - bins["low"], bins["high"] - bins["median"])
    axes.errorbar(bins["median"], bins["margin"], xerr=off, **style, ms=3.5, lw=1.2, elinewidth=1, capsize=2)
    axes.set(xlabel=score.replace("_", " "), ylabel="input margin", xlim=(0, None), ylim=(0, None))


def roc(axes: Axes, curves: Curves, *, model_id: str) -> None:
    """Draw one ROC curve."""
    style = model_style(model_id) | {"markevery": 0.15, "ms": 4, "label": short_name(model_id)}
    axes.plot(curves.false_positive_rate, curves.true_positive_rate, **style)
    axes.set(xlabel="robust images flagged (FPR)", ylabel="brittle images found (TPR)", xlim=(0, 1), ylim=(0, 1.01))


def precision_recall(axes: Axes, curves: Curves, *, model_id: str) -> None:
    """Draw one precision-recall curve."""
    style = model_style(model_id) | {"markevery": 0.15, "ms": 4, "label": short_name(model_id)}
    axes.step(curves.recall, curves.precision, where="post", **style)
    axes.set(xlabel="brittle images found (recall)", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))


def margin_boxes(axes: Axes, tables: dict[str, pd.DataFrame], *, epsilon: float, margin: str = "upper") -> None:
    """Draw the spread of input margins of several networks, one box each, infinite ones left out."""
    boxes(axes, {model_id: column(table, margin) for model_id, table in tables.items()})
    axes.axvline(epsilon, color="#444444", lw=1, ls="--")
    axes.annotate(f"$\\epsilon$ = {epsilon:.3g}", (epsilon, 1), xycoords=("data", "axes fraction"), va="bottom")
    axes.set(xlabel="input margin", xlim=(0, None))


def boxes(axes: Axes, values: dict[str, np.ndarray]) -> None:
    """Draw one horizontal box per network, the first at the top; values that are not finite are left out."""
    drawn = axes.boxplot(
        [column[np.isfinite(column)] for column in values.values()],
        orientation="horizontal",
        patch_artist=True,
        widths=0.6,
    )
    for box, median, model_id in zip(drawn["boxes"], drawn["medians"], values, strict=True):
        box.set(facecolor=model_style(model_id)["color"], alpha=0.45)
        median.set(color="black")
    for flier in drawn["fliers"]:
        flier.set(ms=2, alpha=0.4)
    axes.set_yticks(range(1, len(values) + 1), [short_name(model_id) for model_id in values])
    if not axes.yaxis_inverted():  # axes that are shared are turned once
        axes.invert_yaxis()


def relative_boxes(axes: Axes, values: dict[str, np.ndarray]) -> None:
    """Draw the spread of several networks' values around 1, a horizontal box each."""
    boxes(axes, values)
    axes.axvline(1, color="#444444", lw=1, ls="--")


def estimates(axes: Axes, columns: dict[str, Sequence[Estimate]], names: Sequence[str], *, bars: str) -> None:
    """Draw named columns of estimates side by side, one line per name, the first at the top.

    Args:
        axes: Where to draw.
        columns: Under each legend entry one estimate per name.
        names: One per line.
        bars: "standard error" for one of them either way, "interval" for the whole interval.
    """
    for place, (label, drawn) in enumerate(columns.items()):
        height = np.arange(len(names)) + 0.22 * (place - (len(columns) - 1) / 2)
        value = np.array([estimate.value for estimate in drawn])
        errors = [estimate.standard_error for estimate in drawn]
        off = errors if bars == "standard error" else _bars(drawn)
        style = {"color": COLOURS[place], "marker": MARKERS[place]}
        axes.errorbar(value, height, xerr=off, ls="", ms=5, capsize=2, label=label, **style)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def intervals(axes: Axes, drawn: Sequence[Estimate], heights: Sequence[float], *, color: str) -> None:
    """Draw estimates at heights, (n,) each, with their intervals; one without an end runs out of the Axes there."""
    value, low, high = (np.array([getattr(one, end) for one in drawn]) for end in ("value", "low", "high"))
    axes.plot(value, heights, "o", ms=4, color=color)
    finite = [np.where(np.isfinite(end), end, value) for end in (low, high)]
    axes.hlines(heights, *finite, color=color, lw=1)
    edges = axes.get_xlim()
    axes.hlines(heights, low.clip(*edges), high.clip(*edges), color=color, lw=1)
    axes.set_xlim(edges)


def learning_curve(axes: Axes, sizes: Sequence[int], means: Sequence[Estimate], *, place: int, label: str) -> None:
    """Draw estimates over numbers of images, (m,) each; ``place`` 0, 1, .. keeps several curves apart."""
    style = {"color": (ROBUST, BRITTLE, *COLOURS[2:])[place], "marker": MARKERS[place]}
    moved = np.array(sizes) * (1 + 0.06 * place)
    axes.errorbar(moved, [mean.value for mean in means], yerr=_bars(means), ms=4, capsize=2, label=label, **style)
    axes.set(xscale="log", xlabel="labelled margins")
    ends = axes.get_xlim()
    ticks = [tick for tick in (12, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400) if ends[0] <= tick <= ends[1]]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _bars(estimates: Sequence[Estimate]) -> np.ndarray:
    """How far intervals reach down and up, (2, n); nothing where they have no end."""
    off = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
    return np.where(np.isfinite(off), off, np.nan)


def pictures(axes: Sequence[Axes], images: Tensor, titles: Sequence[str]) -> None:
    """Show images (n, c, h, w) in [0, 1], one per Axes, with a title each."""
    for place, image, title in zip(axes, images, titles, strict=True):
        pixels = image.permute(1, 2, 0).squeeze(-1).cpu().numpy()
        place.imshow(pixels, vmin=0, vmax=1)
        place.set_title(title, fontsize=8)
        place.set(xticks=[], yticks=[])
        place.grid(visible=False)
        place.spines[:].set_visible(True)


def against_diagonal(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Draw one mark per image, and the diagonal on which both values are the same; infinite values are left out."""
    finite = np.isfinite(x) & np.isfinite(y)
    axes.scatter(x[finite], y[finite], s=9, c=ROBUST, alpha=0.5, linewidths=0)
    end = 1.05 * max(x[finite].max(initial=0), y[finite].max(initial=0)) or 1.0
    axes.plot([0, end], [0, end], color="#444444", lw=1, ls="--")
    axes.set(xlim=(0, end), ylim=(0, end))


def robust_accuracies(axes: Axes, table: pd.DataFrame) -> None:
    """Draw robust accuracies, a row per network: AutoAttack's, the margins', and a bar where bounds enclose the truth.

    Args:
        axes: Where to draw.
        table: Indexed by network: `Estimate` columns "AutoAttack" and "margins"; "certified" (an estimate or None),
            where the bar begins, and "same images" (a number or None), where it ends.
    """
    for row, entry in enumerate(table.itertuples(index=False)):
        ensemble, margins, certified, reach = entry
        if isinstance(certified, Estimate):
            axes.barh(row, reach - certified.value, left=certified.value, height=0.5, color="#888888", alpha=0.35, lw=0)
        labels = ("AutoAttack", "margin > epsilon") if row == 0 else (None, None)
        axes.hlines(row + 0.12, ensemble.low, ensemble.high, color=ROBUST, lw=1.2)
        axes.plot(ensemble.value, row + 0.12, "o", mfc="white", mec=ROBUST, ms=6, label=labels[0])
        axes.plot(margins.value, row - 0.12, "D", color=BRITTLE, ms=4.5, label=labels[1])
    axes.set_yticks(range(len(table)), [short_name(model_id) for model_id in table.index])
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    axes.set(xlabel="robust accuracy", xlim=(0, 1))


def estimates_by_size(axes: Axes, estimates: pd.DataFrame) -> None:
    """Draw estimates of one quantity over the number of images they rest on, each estimator a line with its intervals.

    Args:
        axes: Where to draw.
        estimates: A column "estimate" of `Estimate` or plain numbers, indexed by "images" and "estimator".
    """
    names = list(dict.fromkeys(estimates.index.get_level_values("estimator")))
    for place, name in enumerate(names):
        line = estimates["estimate"].xs(name, level="estimator")
        value, low, high = ([float(getattr(cell, end, cell)) for cell in line] for end in ("value", "low", "high"))
        shift = 1.06 ** (place - (len(names) - 1) / 2)  # beside each other on the logarithmic axis
        images = np.array(line.index, dtype=float) * shift
        axes.vlines(images, low, high, color=COLOURS[place], lw=1.4)
        axes.plot(images, value, color=COLOURS[place], marker=MARKERS[place], ls=_DASHES[place], ms=4, lw=1, label=name)
    ticks = sorted(set(estimates.index.get_level_values("images")))
    axes.set(xscale="log", xlabel="images attacked")
    axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=60)
    axes.minorticks_off()


def matrix(axes: Axes, values: pd.DataFrame, *, unit: str = "") -> None:
    """Shade a table of numbers from 0 to 100, print all but NaN, and frame cells whose row and column share a name."""
    axes.imshow(values, cmap="Blues", vmin=0, vmax=130)  # up to a blue on which dark and white print can be read
    for row, row_name in enumerate(values.index):
        for place, column_name in enumerate(values.columns):
            cell = values.iloc[row, place]
            text = "" if np.isnan(cell) else f"{cell:.0f}"
            axes.text(place, row, text, ha="center", va="center", fontsize=8, color="w" if cell > 75 else "k")
            if row_name == column_name:
                axes.add_patch(plt.Rectangle((place - 0.47, row - 0.47), 0.94, 0.94, fill=False, ec="black", lw=1.2))
    axes.set_xticks(range(values.shape[1]), values.columns, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(values.shape[0]), values.index)
    axes.grid(visible=False)
    axes.set_title(f"in {unit}" if unit else "")


def accuracy_curve(axes: Axes, curve: pd.DataFrame, *, model_id: str) -> None:
    """Draw robust accuracy over epsilon, from `margincons.studies.accuracy_curve`, with its intervals."""
    style = model_style(model_id) | {"markevery": 0.15, "ms": 4, "label": short_name(model_id)}
    value, low, high = ([getattr(e, end) for e in curve["accuracy"]] for end in ("value", "low", "high"))
    axes.fill_between(curve["epsilon"], low, high, color=style["color"], alpha=0.12, lw=0)
    axes.plot(curve["epsilon"], value, **style)
    axes.set(xlabel="epsilon", ylabel="robust accuracy", xlim=(0, None), ylim=(0, 1.01))
