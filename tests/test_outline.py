from pathlib import Path

from margincons.book.outline import learning_goals, promise, promises
from margincons.book.pages import book_pages

ROOT = Path(__file__).parents[1]
SOURCE = """# A page & more

**Is it so?** After this page you
can say 1.5 things about `x` and {doc}`theorem`, and see
{term}`tau <Kendall's tau>` too. Run
time: about ten seconds; the rest is on record.

## Exercises

1. Write it.

exercises.check_it(it)
exercises.check_it(it_solution)

2. Why?
"""


def test_a_promise_is_read_over_line_breaks_without_roles_and_past_decimal_points():
    found = promise("one", SOURCE)
    assert found.title == "A page & more"
    assert found.goal == "say 1.5 things about `x` and theorem, and see tau too"
    assert found.run_time == "about ten seconds"
    assert (found.exercises, found.in_code) == (2, 1)


def test_the_list_links_to_pages_escapes_titles_and_leaves_out_who_promises_nothing():
    shown = learning_goals([promise("one", SOURCE), promise("two", "# Nothing\\n\\nBare.\\n")]).data
    assert '<a href="one.html">A page &amp; more</a>' in shown
    assert "<code>x</code>" in shown
    assert "(about ten seconds, 2 exercises, 1 of them checked)" in shown
    assert "two.html" not in shown


def test_every_executed_page_is_read_in_the_order_of_the_book():
    found = promises(ROOT)
    assert [one.name for one in found] == [page.name for page in book_pages(ROOT)]
    assert all(one.exercises >= 3 for one in found if one.name != "teachers")


def test_outside_the_project_there_are_no_pages(tmp_path):
    assert promises(tmp_path) == []
