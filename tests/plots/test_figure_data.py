"""The data behind figures: what is written is what was drawn, and every figure of the paper's part offers it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import pandas as pd
import pytest
import yaml

from margincons.errors import MissingFileError
from margincons.plots.figure_data import figure_data, stacked, with_ends
from margincons.statistics.intervals import estimate
from margincons.zoo.plane import plane_points

ROOT = Path(__file__).parents[2]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAPER = next(part["chapters"] for part in TOC["parts"] if part["caption"] == "The paper")


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "one.md").write_text("# One\n")
    (tmp_path / "_toc.yml").write_text("root: book/executed/one\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Targets(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name == "href"]


def test_the_links_lead_from_an_executed_page_to_the_data_and_the_source(project):
    links = figure_data("one", points=pd.DataFrame({"x": [0.1, 2]}), lines=pd.DataFrame({"y": [3]}))
    served = Targets(links.data).found
    # The site holds book/_static as _static, and pages in book/executed.
    points, lines, source = (project / "book" / link.removeprefix("../../") for link in served)
    assert all(link.startswith("../../_static/") for link in served)
    assert pd.read_csv(points)["x"].tolist() == [0.1, 2]
    assert pd.read_csv(lines)["y"].tolist() == [3]
    assert source.read_text() == "# One\n"


def test_numbers_of_single_precision_survive_the_csv(project):
    pixels = plane_points(50)[0].flatten().numpy()
    figure_data("one", pixels=pd.DataFrame({"pixel": pixels}))
    (path,) = project.glob("book/_static/data/one/*.csv")
    assert (pd.read_csv(path)["pixel"].to_numpy().astype("float32") == pixels).all()


def test_an_index_with_a_name_and_both_ends_of_an_interval_become_columns():
    share = estimate("accuracy", [1, 1, 0, 1])
    table = with_ends(pd.DataFrame({"share": [share, ""], "n": [4, 0]}, index=pd.Index(["a", "b"], name="network")))
    assert list(table) == ["network", "share", "share low", "share high", "n"]
    assert table.iloc[0].tolist() == ["a", 0.75, share.low, share.high, 4]
    assert table["share low"].isna().tolist() == [False, True]


def test_tables_by_network_are_written_one_below_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    figure_data("one", images={"a": pd.DataFrame({"x": [1, 2]}), "b": pd.DataFrame({"x": [3]})}, nothing={})
    assert (tmp_path / "one-images.csv").read_text() == "network,x\na,1\na,2\nb,3\n"
    assert (tmp_path / "one-nothing.csv").read_text() == "network\n"


def test_outside_the_project_the_data_lie_beside_the_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    links = figure_data("one", points=pd.DataFrame({"x": [1]}))
    (target,) = Targets(links.data).found
    assert (tmp_path / target).read_text() == "x\n1\n"
    assert [path.name for path in tmp_path.iterdir()] == [target]


def test_a_stacked_table_has_each_interval_below_its_value_and_loses_no_text():
    one = estimate("accuracy", [1, 1, 0])
    page = stacked(pd.DataFrame({"a": [one, "+.1 [-.2, +.3] ▲"], "b c": ["plain", 7]})).data
    cells = re.findall(r"<td>(.*?)</td>", page)
    value, interval = str(one).split(" ", 1)
    assert cells == [f"{value}<br>{interval}", "plain", "+.1 ▲<br>[-.2, +.3]", "7"]
    assert "<th>b<br>c</th>" in page
    assert 'class="dataframe"' in page


def test_a_page_that_the_project_lacks_is_refused(project):
    with pytest.raises(MissingFileError, match=r"Expected a page at notebooks/tow\.md"):
        figure_data("tow", points=pd.DataFrame({"x": [1]}))


@pytest.mark.parametrize("page", [Path(chapter["file"]).name for chapter in PAPER])
def test_every_figure_of_the_papers_part_has_caption_alt_text_data_and_source(page):
    cells = jupytext.read(ROOT / "notebooks" / f"{page}.md", fmt="md:myst").cells
    names = []
    for number, cell in enumerate(cells):
        if "plt.show()" in cell.source:
            about = cell.metadata["mystnb"]
            assert about["figure"]["caption"].strip(), cell.source
            assert about["image"]["alt"].strip(), cell.source
            links = cells[number + 1]
            call = re.search(rf'^figure_data\(\s*"{page}",\s(.*)\)\Z', links.source.strip(), re.DOTALL | re.MULTILINE)
            assert call, f"no figure_data(...) follows the figure {about['figure']['name']} of {page}"
            assert links.metadata["tags"] == ["remove-input"]
            names += re.findall(r"(?:^|, |\n\s+)([a-z0-9_]+)=", call[1])
    assert len(names) == len(set(names)), "one name for each figure's data"
