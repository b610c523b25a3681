"""Every link, anchor, picture, download and reference of the built book leads to what it promises."""

import csv
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
# Nothing is fetched: links that leave the site are held to their form. What leads elsewhere is named here.
OUTSIDE = re.compile(
    r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.\d{4,9}/\S+|docs\.rapids\.ai/\S*|jobqueue\.dask\.org)"
)
ENTRY = re.compile(r"@\w+\{(?P<key>[^,]+),\n(?P<fields>(?:  \w+ = \{.*\},\n)+)\}")
FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)
VENUES = {
    "inproceedings": "booktitle",
    "article": "journal",
    "techreport": "institution",
    "misc": "eprint",
    "book": "publisher",
}


class Links(HTMLParser):
    """What a page names (its links, its parts, its downloads) and what can be linked to in it."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.parts, self.anchors, self.entries = [], [], Counter(), []
        self.downloads, self._label = {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        about = dict(attrs)
        self.anchors.update({about[name] for name in ("id", "name") if about.get(name)})
        if tag == "a" and about.get("href"):
            self.targets.append(about["href"])
            self._label = about["href"] if "download" in about else None
        if tag in ("script", "img", "iframe", "source") and about.get("src"):
            self.parts.append(about["src"])
        if tag == "link" and "stylesheet" in about.get("rel", ""):
            self.parts.append(about["href"])
        if about.get("role") == "doc-biblioentry":
            self.entries.append(about["id"])

    def handle_data(self, data):
        if self._label:
            self.downloads[self._label], self._label = data, None


def faults(pages, top):
    """Links and parts of parsed pages, by path below the folder ``top``, that lead nowhere, into nothing, or twice."""
    for path, page in pages.items():
        for target in page.targets + page.parts:
            url = urlsplit(target)
            found = (path.parent / unquote(url.path)).resolve() if url.path else path
            anchor = unquote(url.fragment)
            if url.scheme or url.netloc:
                fault = "" if OUTSIDE.fullmatch(target) else "is of no known form"
            elif not found.is_file() or not found.is_relative_to(top):
                fault = "leads nowhere"
            elif found.stat().st_size == 0:
                fault = "is empty"
            else:
                here = pages[found].anchors[anchor] if anchor and found in pages else 1
                fault = {0: "has no such anchor", 1: ""}.get(here, "has that anchor more than once")
            if fault:
                yield f"{path.relative_to(top)}: {target} {fault}"


@pytest.fixture(scope="session")
def links(site):
    files = [path for path in sorted(site.rglob("*.html")) if not path.is_relative_to(site / "_static")]
    return {path: Links(path.read_text(encoding="utf-8")) for path in files}


def test_every_link_picture_and_anchor_leads_somewhere(links, site):
    assert sorted(set(faults(links, site))) == []


def test_no_page_is_made_of_parts_from_elsewhere(links):
    outside = {part for page in links.values() for part in page.parts if urlsplit(part).scheme or part.startswith("//")}
    assert outside == set()


def test_a_download_holds_as_many_rows_as_its_link_says(links):
    tables = 0
    for path, page in links.items():
        for target, label in page.downloads.items():
            if not target.endswith(".csv"):
                continue
            with (path.parent / target).open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            assert f"CSV, {len(rows)} rows)" in label, target
            assert rows, target
            assert {len(row) for row in rows} == {len(header)}, target
            tables += 1
    assert tables > 40


def test_no_table_of_a_page_is_cut_short(links):
    short = [
        str(path) for path in links if re.search(r"<p>\d+ rows . \d+ columns</p>", path.read_text(encoding="utf-8"))
    ]
    assert not short, f"pandas left out rows on {', '.join(short)}: set its display.max_rows"


def test_every_reference_is_cited_on_a_page(links):
    cited = {
        urlsplit(target).fragment for page in links.values() for target in page.targets if "references.html#" in target
    }
    (entries,) = [page.entries for path, page in links.items() if path.stem == "references"]
    assert set(entries) - cited == set()
    assert len(entries) == len(bibliography())


def bibliography():
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    return {entry["key"]: dict(FIELD.findall(entry["fields"])) for entry in ENTRY.finditer(text)}


def test_references_are_complete_and_none_is_listed_twice():
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    kinds = re.findall(r"^@(\w+)\{", text, re.MULTILINE)
    entries = bibliography()
    assert len(entries) == len(kinds)
    for kind, (key, fields) in zip(kinds, entries.items(), strict=True):
        assert {"title", "author", "year", VENUES[kind]} <= fields.keys(), key
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "0000.0000")), key
        surname = re.sub(r"[^a-z]", "", fields["author"].split(",")[0].lower())
        assert key.startswith(surname[:4]), key
        assert fields["year"] in key, key
    for name in ("title", "eprint"):
        assert max(Counter(fields[name].lower() for fields in entries.values() if name in fields).values()) == 1, name


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("other.html", "leads nowhere"),
        ("../outside.html", "leads nowhere"),
        ("empty.csv", "is empty"),
        ("#nothing", "has no such anchor"),
        ("#twice", "more than once"),
        ("http://arxiv.org/abs/1706.06083", "of no known form"),
        ("https://arxiv.org/pdf/1706.06083", "of no known form"),
        ("https://doi.org/42", "of no known form"),
        ("#once", None),
        ("page.html#once", None),
        ("https://arxiv.org/abs/1706.06083", None),
    ],
)
def test_planted_faults_are_found(link, fault, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.html").write_text("<p>outside</p>")
    (site / "empty.csv").touch()
    text = f'<p id="once"><a href="{link}">a</a><b id="twice"></b><i id="twice"></i></p>'
    (site / "page.html").write_text(text)
    found = list(faults({site / "page.html": Links(text)}, site))
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]
