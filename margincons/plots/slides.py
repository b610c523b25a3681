"""Figures for slides: drawn once on light paper and once on dark, each as SVG and PNG, for the site to offer."""

from collections.abc import Callable
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from margincons.plots.figure_data import SITE_DATA

LIGHT, DARK = "#ffffff", "#121212"
INK = "#e8e8e8"  # what is black on light paper, on dark paper
_DARK_STYLE = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), DARK),
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "grid.color": "#3a3a3a",
}


def slide(
    page: str, name: str, draw: Callable[[Figure], None], *, alt: str, size: tuple[float, float] = (6.4, 3.6)
) -> HTML:
    """Draw a figure for both kinds of slides, show the one that fits the reader's mode, and link to all four files.

    In the project's folder the files become part of the site; anywhere else they lie beside the notebook.

    Args:
        page: The page's name.
        name: The figure's name, part of its files' names.
        draw: Draws on an empty figure; called twice, so it must not use up anything. Artists with the gid "fixed" keep
            their colour on dark paper.
        alt: What the figure shows, for readers who do not see it.
        size: Width and height in inches; 16 to 9 unless given.
    """
    inside = Path("_toc.yml").is_file()
    folder = SITE_DATA / page if inside else Path()
    served = f"../../_static/data/{page}/" if inside else ""
    folder.mkdir(parents=True, exist_ok=True)
    shown, links = [], []
    for mode, style in (("light", {}), ("dark", _DARK_STYLE)):
        with plt.rc_context({**style, "svg.hashsalt": name}):  # the same ids whenever it is drawn
            figure = plt.figure(figsize=size)
            draw(figure)
            if mode == "dark":
                brighten(figure)
            for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 200})):
                file = f"{name}-{mode}.{kind}"
                figure.savefig(folder / file, **options)
                links.append(f'<a href="{served}{file}" download>{mode} {kind.upper()}</a>')
            plt.close(figure)
        source = f"{served}{name}-{mode}.svg"
        shown.append(f'<img class="only-{mode}" src="{source}" alt="{escape(alt, quote=True)}" width="640">')
    return HTML("".join(shown) + f'<p class="figure-links">{" · ".join(links)}</p>')


def brighten(figure: Figure) -> None:
    """Recolour in place what was drawn in black or dark grey, whatever drew it, for dark paper."""
    for artist in figure.findobj():
        for get, put in [] if _stays(artist) else _colours(artist):
            values = get()
            if isinstance(values, np.ndarray):  # of a collection, one colour or many
                put([_on_dark(one) for one in values] or "none")
            else:
                put(_on_dark(values))


def contrast(first: object, second: object) -> float:
    """Contrast of two colours, 1 to 21, as the Web Content Accessibility Guidelines 2.1 define it."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _on_dark(colour: object) -> object:
    invisible = isinstance(colour, str) and colour.lower() == "none"
    return colour if invisible or not to_rgba(colour)[3] or contrast(colour, DARK) >= 3 else INK


def _luminance(colour: object) -> float:
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _colours(artist: Artist) -> list[tuple[Callable, Callable]]:
    if isinstance(artist, Line2D):
        edge = (artist.get_markeredgecolor, artist.set_markeredgecolor)
        return [(artist.get_color, artist.set_color), edge]
    if isinstance(artist, Text):
        return [(artist.get_color, artist.set_color)]
    if isinstance(artist, Patch):
        return [(artist.get_edgecolor, artist.set_edgecolor)]
    if isinstance(artist, Collection) and artist.get_array() is None:
        edge = (artist.get_edgecolor, artist.set_edgecolor)
        return [(artist.get_facecolor, artist.set_facecolor), edge]
    return []


def _stays(artist: Artist) -> bool:
    """Whether a colour is meant: the grid is faint on purpose, and what is "fixed" lies on a surface of its own."""
    grid = isinstance(artist, Line2D) and to_rgb(artist.get_color()) == to_rgb(_DARK_STYLE["grid.color"])
    return grid or artist.get_gid() == "fixed"
