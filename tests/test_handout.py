import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from margincons.book.handout import handout
from margincons.book.pages import book_pages
from margincons.errors import UnknownNameError

ROOT = Path(__file__).parents[1]
SOURCES = {page.name: page.source for page in book_pages(ROOT)}


@pytest.mark.parametrize("name", SOURCES)
def test_a_handout_is_the_page_without_its_answers(name, tmp_path):
    given = nbformat.read(handout(name, root=ROOT, folder=tmp_path), as_version=4)
    page = jupytext.read(SOURCES[name], fmt="md:myst")
    whole, left = ("\n".join(cell.source for cell in notebook.cells) for notebook in (page, given))
    body, _, exercises = whole.partition("## Exercises")
    kept, _, tasks = left.partition("## Exercises")
    assert kept == body
    assert re.findall(r"^\d+\. .*", tasks, re.MULTILINE) == re.findall(r"^\d+\. .*", exercises, re.MULTILINE)
    assert "{dropdown}" not in tasks
    assert "_solution" not in tasks
    assert set(re.findall(r"exercises\.check_\w+", tasks)) == set(re.findall(r"exercises\.check_\w+", exercises))


def test_the_handout_of_a_page_that_does_not_exist_is_refused_by_name(tmp_path):
    with pytest.raises(UnknownNameError, match="Unknown page 'mistake'; the nearest are: mistakes"):
        handout("mistake", root=ROOT, folder=tmp_path)
