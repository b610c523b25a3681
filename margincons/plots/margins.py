"""Figures of how margins are found and bounded: regions and paths in a plane, tightness against cost, brackets."""

from collections.abc import Sequence
from string import ascii_uppercase

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from margincons.plots import BRITTLE, COLOURS, MARKERS, ROBUST

REGIONS = ListedColormap(["#A9CCE3", "#FBE6D3", "#86BFA3"])  # three steps of grey as well


def plane_regions(
    axes: Axes, regions: Tensor, *, extent: tuple[float, float, float, float] = (0, 1, 0, 1), unit: str = "pixel"
) -> None:
    """Colour a rectangle of the plane, (left, right, bottom, top), by decision (h, w); row 0 is at the bottom."""
    look = {"cmap": REGIONS, "vmin": 0, "vmax": 2, "interpolation": "nearest"}
    axes.imshow(regions.numpy(), origin="lower", extent=extent, **look)
    axes.set(xlabel=f"first {unit}", ylabel=f"second {unit}", xlim=extent[:2], ylim=extent[2:], aspect="equal")
    axes.grid(visible=False)


def plane_circles(axes: Axes, points: Tensor, radii: Tensor) -> None:
    """Draw points (n, 2), each with its letter, a circle of its radius (n,) and its place in the order of radii."""
    places = radii.argsort().argsort() + 1
    beside = {"xytext": (6, 3), "textcoords": "offset points", "fontsize": 8, "zorder": 4}
    for i, (point, radius, place) in enumerate(zip(points.tolist(), radii.tolist(), places.tolist(), strict=True)):
        axes.add_patch(plt.Circle(point, radius, fill=False, ec="black", lw=0.8))
        axes.annotate(ascii_uppercase[i % 26], point, ha="center", va="center", fontsize=7, zorder=3)
        axes.annotate(f"{place}", point, **beside)
    axes.plot(*points.T.numpy(), "o", color="white", mec="black", mew=0.6, ms=10, zorder=2)


def plane_path(axes: Axes, image: Tensor, path: Tensor, *, radius: float, norm: str, witness: Tensor) -> None:
    """Draw an image (2,), the points that an attack visited (steps, 2), the ball it returns and its witness (2,)."""
    x, y = image.tolist()
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    ball = circle / np.linalg.norm(circle, ord={"Linf": np.inf, "L2": 2, "L1": 1}[norm], axis=0)
    axes.plot(x + radius * ball[0], y + radius * ball[1], color="black", lw=1, ls="--")
    axes.plot(*path.T.numpy(), color="black", lw=0.6, alpha=0.5)
    axes.scatter(
        *path.T.numpy(), c=np.arange(len(path)), cmap="Greys", s=16, edgecolors="black", linewidths=0.4, zorder=3
    )
    axes.plot(x, y, "o", color="black", ms=6, zorder=4)
    axes.plot(*witness.tolist(), "*", color=BRITTLE, ms=11, mec="black", mew=0.6, zorder=5)
    reach = 1.15 * max(radius, float((path - image).abs().max()))
    axes.set(xlim=(x - reach, x + reach), ylim=(y - reach, y + reach))


def tightness_marks(axes: Axes, summary: pd.DataFrame, *, peers: Sequence[str]) -> None:
    """Draw mean excess over backward passes for the attacks of one set, rows of `studies.tightness.tightness`.

    Args:
        axes: Where to draw.
        summary: One row per attack.
        peers: Names of all attacks that are not ours, over all panels of a figure: a name's mark is the same in each.
    """
    efforts = [f"ours {effort}" for effort in ("fast", "standard", "fine", "exhaustive")]
    ours = summary.loc[[name for name in efforts if name in summary.index]]
    axes.plot(ours["backward"], ours["mean excess"], "o-", color=BRITTLE, ms=6, zorder=4, label="ours, four efforts")
    for place, name in enumerate(peers):
        style = {"mec": COLOURS[1:][place % 6], "marker": MARKERS[1:][(place + place // 6) % 6]}
        row = summary.loc[name] if name in summary.index else {"backward": np.nan, "mean excess": np.nan}
        axes.plot(row["backward"], row["mean excess"], mfc="none", ms=6, ls="", label=name, **style)
    axes.set(xscale="log", yscale="log", xlabel="backward passes per image")


def bracket_bars(axes: Axes, lower: Tensor, upper: Tensor, weaker: Tensor, *, epsilon: float) -> None:
    """Draw one bar per image from its lower to its upper bound, (n,) each, and a second, weaker lower bound."""
    order = upper.argsort()
    place = np.arange(len(order))
    axes.vlines(
        place, lower[order].numpy(), upper[order].numpy(), color=ROBUST, lw=1.6, alpha=0.7, label="CROWN to attack"
    )
    axes.plot(place, weaker[order].numpy(), ".", color="black", ms=2.5, label="interval")
    axes.axhline(epsilon, color="#444444", lw=1, ls="--")
    axes.set(xlabel="image, sorted")
