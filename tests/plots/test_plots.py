"""What colours say can be read by colour-blind readers and off a grey print."""

import ast
import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from margincons import plots
from margincons.plots import margins as margin_plots
from margincons.statistics.intervals import Estimate
from margincons.zoo.bundled import bundled_index

# Dichromats' view of linear RGB. Source: Machado, Oliveira and Fernandes, 2009, IEEE TVCG 15(6), severity 1.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # of linear sRGB
WHITE = XYZ.sum(axis=1)
NETWORKS = sorted(bundled_index())
PAGES = Path(__file__).parents[2] / "notebooks"


def lab(colour, vision="normal"):
    """CIELAB coordinates of a colour as somebody sees it: lightness from 0 to 100, then two of hue."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    share = XYZ @ np.clip(VISION[vision] @ linear, 0, 1) / WHITE
    x, y, z = np.where(share > (6 / 29) ** 3, np.cbrt(share), share * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_black_and_white_are_a_hundred_apart_and_red_turns_olive_without_the_red_cones():
    assert np.linalg.norm(lab("white") - lab("black")) == pytest.approx(100, abs=0.1)
    assert np.linalg.norm(lab("#ff0000") - lab("#00ff00")) > 4 * np.linalg.norm(
        lab("#ff0000", "deuteranopia") - lab("#a39000", "deuteranopia")
    )


@pytest.mark.parametrize("vision", VISION)
def test_colours_of_networks_are_told_apart(vision):
    colours = {plots.model_style(network)["color"] for network in NETWORKS}
    apart = {
        pair: np.linalg.norm(lab(pair[0], vision) - lab(pair[1], vision)) for pair in itertools.combinations(colours, 2)
    }
    assert len(colours) == 7
    assert min(apart.values()) > 10, min(apart, key=apart.get)


@pytest.mark.parametrize("vision", VISION)
def test_brittle_and_robust_and_the_regions_of_the_plane_are_told_apart(vision):
    for colours in ([plots.BRITTLE, plots.ROBUST], margin_plots.REGIONS.colors):
        for first, second in itertools.combinations(colours, 2):
            assert np.linalg.norm(lab(first, vision) - lab(second, vision)) > 6
    lightness = sorted(lab(colour)[0] for colour in margin_plots.REGIONS.colors)
    assert np.diff(lightness).min() > 6  # and on a grey print, where a region has no mark


def test_lines_of_networks_differ_in_dashes_or_in_grey_and_marks_in_shape_or_in_grey():
    for pair in itertools.combinations(NETWORKS, 2):
        first, second = map(plots.model_style, pair)
        lightness = abs(lab(first["color"])[0] - lab(second["color"])[0])
        assert first["linestyle"] != second["linestyle"] or lightness > 6, pair
        assert first["marker"] != second["marker"] or first["linestyle"] != second["linestyle"], pair


def test_no_two_networks_share_colour_and_marker_nor_do_few_that_a_page_compares_share_a_colour():
    looks = {network: plots.model_style(network) for network in NETWORKS}
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == len(NETWORKS)
    few = [["digits/standard", "digits/masked", "digits/pgd_at", "digits/rescaled"]]  # two twins
    for page in PAGES.glob("*.md"):
        lists = re.findall(r": list\[str\] = (\[[^]]*\])", page.read_text())
        few += [chosen for chosen in map(ast.literal_eval, lists) if set(chosen) <= set(NETWORKS) and len(chosen) <= 5]
    assert len(few) > 20
    for chosen in few:
        assert len({looks[network]["color"] for network in chosen}) == len(set(chosen)), chosen


def test_a_margin_of_epsilon_and_an_ulp_is_drawn_as_brittle():
    axes = Figure().add_subplot()
    spent = np.float32(0.1).item()  # above the 0.1 of double precision
    table = pd.DataFrame({"logit_margin": [1.0, 2.0], "upper": [spent, 0.2]})
    assert spent > 0.1
    plots.margin_scatter(axes, table, epsilon=0.1)
    brittle = axes.collections[1]
    assert brittle.get_label() == "brittle"
    assert len(brittle.get_offsets()) == 1


def test_brittle_images_have_another_mark_than_robust_ones():
    axes = Figure().add_subplot()
    table = pd.DataFrame({"logit_margin": [1.0, 2.0, 3.0], "upper": [0.05, 0.15, 0.2]})
    plots.margin_scatter(axes, table, epsilon=0.1)
    robust, brittle = (marks.get_paths()[0] for marks in axes.collections)
    assert len(robust.vertices) != len(brittle.vertices)


def test_an_interval_without_an_end_runs_out_of_the_panel_and_moves_no_edge():
    def bars(*ends):
        axes = Figure().subplots()
        drawn = [Estimate(value=2.0, low=low, high=high, n=9, method="") for low, high in ends]
        plots.intervals(axes, drawn, range(len(drawn)), color="black")
        last = axes.collections[-1].get_segments()
        return axes.get_xlim(), [tuple(segment[:, 0]) for segment in last]

    edges, closed = bars((1, 3), (1.5, 2.5))
    assert closed == [(1, 3), (1.5, 2.5)]
    beside, opened = bars((1, 3), (1.5, np.inf), (-np.inf, np.inf))
    assert beside == edges
    assert opened == [(1, 3), (1.5, edges[1]), edges]
