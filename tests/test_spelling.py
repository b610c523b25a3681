"""The book's prose, as a reader sees it, is spelt right and in British English.

Read are paragraphs, headings, captions, tables and the texts that stand in for pictures; not code, what code printed,
formulas, citations, the list of references (titles keep their own spelling) and the signatures of the API page.
"""

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from spellchecker import SpellChecker

WORDS = Path(__file__).with_name("words.txt")  # the field's words, names, and British forms that the dictionary lacks
UNREAD = "pre, code, script, style, .math, .bibtex-citation, .citation, .headerlink"
SIGNATURES = ".sig, .field-list strong, .field-list em"
UNBROKEN = "a, b, em, i, span, strong, small, sub, sup"  # a word goes on across these
IDENTIFIER = re.compile(r"\S*[\d_@/\\]\S*|\S+\.\w\S*|\w+[a-z][A-Z]\w*")
WORD = re.compile(r"[^\W\d_]{2,}(?:['\u2019][^\W\d_]+)?")
AMERICAN = re.compile(
    r"(?!siz|resiz|priz|seiz|horizon|capsiz)\w+(iz(e[sdr]?|ers?|ing|ations?)|yz(e[sdr]?|ing))"
    r"|(behavi|col|fav|flav|harb|hon|hum|lab|neighb|rig|rum|vig)or(s|ed|ing|hood|able|ful|less)?"
    r"|(cent|fib|lit|met)er(s|ed)?|gr[a]y\w*|(def|off)ense\w*|(cance|labe|mode|trave)l(ed|er|ing)|catalog|skeptic\w*"
)


def prose(html):
    """The text of a page that is read as prose, with the texts that stand in for its pictures."""
    article = BeautifulSoup(html, "html.parser").select_one("article")
    for part in article.select(f"{UNREAD}, {SIGNATURES}"):
        part.decompose()
    pictures = [picture["alt"] for picture in article.select("img[alt]")]
    for part in article.select(UNBROKEN):
        part.unwrap()
    article.smooth()
    return IDENTIFIER.sub(" ", "\n".join([article.get_text("\n"), *pictures]))


def words(text):
    """Words in lower case without their genitives; what is all in capitals is an abbreviation, and no word."""
    found = (word.replace("\u2019", "'") for word in WORD.findall(text))
    return {re.sub(r"('s|')$", "", word).lower() for word in found if not word.isupper()}


@pytest.fixture(scope="session")
def dictionary():
    known = SpellChecker()
    known.word_frequency.load_words(listed())
    return known


@pytest.fixture(scope="session")
def spelt(site):
    """The words of each page of the built book, by its file."""
    pages = {path.stem: path for path in sorted((site / "book").rglob("*.html"))}
    return {name: words(prose(path.read_text(encoding="utf-8"))) for name, path in pages.items()}


def listed():
    return WORDS.read_text(encoding="utf-8").split()


def test_every_word_of_the_book_is_known(spelt, dictionary):
    wrong = {name: sorted(dictionary.unknown(found)) for name, found in spelt.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_book_is_written_in_british_english(spelt):
    american = {name: sorted(filter(AMERICAN.fullmatch, found)) for name, found in spelt.items()}
    assert {name: found for name, found in american.items() if found} == {}


def test_the_list_of_words_is_sorted_and_holds_nothing_that_needs_no_listing(spelt):
    ours = listed()
    assert ours == sorted(set(ours))
    assert sorted(SpellChecker().known(ours)) == []
    assert sorted(set(ours) - set().union(*spelt.values())) == []


PAGE = """<article><h1>A seperate heading</h1><p>An <em>adverserial</em> example's <b>neighbor</b>hood is modelled.
<code>definately</code> <span class="math">mesure</span> FPRX x_i 8-bit AttackResult</p><pre>wierd</pre>
<img alt="A pictrue"></article><footer>untill</footer>"""


def test_planted_mistakes_are_found_in_prose_and_alt_texts_and_code_is_left_alone(dictionary):
    found = words(prose(PAGE))
    assert dictionary.unknown(found) == {"seperate", "adverserial", "pictrue"}
    assert list(filter(AMERICAN.fullmatch, found)) == ["neighborhood"]


@pytest.mark.parametrize(
    "pair", ["colour color", "analyse analyze", "grey gray", "defence defense", "modelled modeled"]
)
def test_american_forms_are_told_from_british_ones(pair):
    british, american = pair.split()
    assert AMERICAN.fullmatch(american)
    assert not AMERICAN.fullmatch(british)
    assert not AMERICAN.fullmatch("resize")
