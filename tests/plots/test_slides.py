import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.text import Text

from margincons.plots.slides import DARK, LIGHT, brighten, contrast, slide


def draw(figure):
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="black", label="black")
    axes.plot([0, 1], [1, 0], color="#E69F00", label="orange")
    axes.scatter([0, 1], [0, 0], c=["#222222", "#E69F00"])
    axes.plot([0.5], [0.5], "ko", gid="fixed")
    axes.legend()


def test_contrast_is_21_between_black_and_white_and_1_between_equals():
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#123456", "#123456") == 1
    assert contrast("white", "#767676") == pytest.approx(4.54, abs=0.01)  # the lightest grey that passes AA for text


def test_a_slide_is_four_files_that_the_page_shows_and_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = slide("page", "one", draw, alt='A "cross" of two lines.').data
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {f"one-{mode}.{kind}" for mode in ("light", "dark") for kind in ("svg", "png")}
    assert set(re.findall(r'(?:href|src)="([^"]*)"', shown)) == files
    assert shown.count('alt="A &quot;cross&quot; of two lines."') == 2
    for mode, paper in (("light", LIGHT), ("dark", DARK)):
        assert ElementTree.parse(tmp_path / f"one-{mode}.svg").getroot().tag.endswith("svg")
        corner = plt.imread(tmp_path / f"one-{mode}.png")[0, 0, :3]
        np.testing.assert_allclose(corner, to_rgb(paper), atol=1 / 255)


def test_drawing_again_gives_the_same_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    versions = []
    for _ in range(2):
        slide("page", "one", draw, alt="Lines.")
        versions.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert versions[0] == versions[1]


def test_on_dark_paper_everything_that_was_dark_becomes_legible_and_the_rest_stays():
    with plt.rc_context({"axes.facecolor": DARK, "figure.facecolor": DARK}):
        figure = plt.figure()
        draw(figure)
        brighten(figure)
    for artist in figure.findobj(lambda one: isinstance(one, Text | Line2D) and one.get_gid() != "fixed"):
        assert contrast(artist.get_color(), DARK) >= 3
    axes = figure.axes[0]
    assert axes.lines[1].get_color() == "#E69F00"
    assert axes.lines[2].get_color() == "k"
    points = axes.collections[0].get_facecolor()
    assert contrast(points[0], DARK) >= 3
    np.testing.assert_allclose(points[1, :3], to_rgb("#E69F00"))
    plt.close(figure)
