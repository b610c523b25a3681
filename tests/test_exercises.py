"""Every solution of the book passes its check, and the usual wrong answers, made from the solution, do not."""

import ast
import re
import runpy
from dataclasses import dataclass
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch
import yaml
from torch.testing import assert_close

from margincons import exercises
from margincons.errors import WrongAnswerError
from margincons.exercises.checking import check

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CALL = re.compile(r"exercises\.(check_\w+)\((\w+)\)")

WRONG = runpy.run_path(str(Path(__file__).with_name("wrong_answers.py")))["WRONG"]

WRONG["check_radius_of_votes"] = [
    ("stats.beta.ppf(alpha, votes, samples - votes + 1)", "votes / samples", "not a lower bound"),
    ("ppf(alpha, votes", "ppf(alpha / 2, votes", "two-sided"),
    ("alpha, votes, samples - votes + 1", "1 - alpha, votes + 1, samples - votes", "upper bound"),
    ("sigma * stats.norm", "stats.norm", "sigma is missing"),
    ("sigma * stats.norm.ppf(share)", "share", "bound on the share"),
    (
        "share = stats.beta.ppf(alpha, votes, samples - votes + 1)",
        "p = votes / samples; share = p - stats.norm.ppf(1 - alpha) * (p * (1 - p) / samples) ** 0.5",
        "near 1",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Task:
    """An exercise as a page states it."""

    page: str
    imports: str
    blank: str  # the student's cell
    solution: str  # the folded cell


def tasks():
    """Exercises of all pages, by the name of their check: first the blank, then the solution."""
    found = {}
    for source in sorted(NOTEBOOKS.glob("*.md")):
        cells = [cell for cell in jupytext.read(source, fmt="md:myst").cells if cell.cell_type == "code"]
        lines = ast.parse("\n".join(cell.source for cell in cells)).body
        imports = "\n".join(ast.unparse(line) for line in lines if isinstance(line, ast.Import | ast.ImportFrom))
        for cell in cells:
            if called := CALL.search(cell.source):
                found.setdefault(called[1], []).append((source.stem, imports, cell))
    return {
        name: Task(page=first[0], imports=first[1], blank=first[2].source, solution=second[2].source)
        for name, (first, second) in found.items()
        if "hide-cell" in second[2].metadata.get("tags", [])
    }


TASKS = tasks()


def run(task, cell):
    names = {}
    exec(compile(task.imports, task.page, "exec"), names)
    exec(compile(cell, task.page, "exec"), names)


def test_every_check_has_a_page_with_a_blank_and_a_folded_solution_and_wrong_answers():
    assert set(TASKS) == set(exercises.__all__) == set(WRONG)
    assert min(map(len, WRONG.values())) >= 3


@pytest.mark.parametrize("name", TASKS)
def test_a_check_takes_the_solution_and_waits_for_the_blank(name, capsys):
    run(TASKS[name], TASKS[name].solution)
    assert capsys.readouterr().out == "Right.\n"
    run(TASKS[name], TASKS[name].blank)
    assert capsys.readouterr().out == "not written yet\n"


@pytest.mark.parametrize(
    ("name", "right", "wrong", "told"), [(n, *edit) for n, edits in WRONG.items() for edit in edits]
)
def test_a_check_rejects_a_usual_mistake_and_says_what_it_is(name, right, wrong, told):
    task = TASKS[name]
    assert right in task.solution
    with pytest.raises(WrongAnswerError, match=told):
        run(task, task.solution.replace(right, wrong))


@pytest.mark.parametrize(
    ("name", "right", "same"),
    [
        ("check_is_adversarial", "epsilon + 1e-6", "epsilon"),
        ("check_reordering", "logits / (1 + length) ** 2", "(logits / (1 + length) ** 2).numpy()"),
    ],
)
def test_a_check_takes_other_right_answers(name, right, same, capsys):
    task = TASKS[name]
    assert right in task.solution
    run(task, task.solution.replace(right, same))
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda logits: 3.0, r"expected logits of the shape \(100, 10\), got \(\)"),
        (lambda logits: "a text", r"expected logits of the shape \(100, 10\), got something else"),
        (lambda logits: (2 * logits).tolist(), "ordered as before"),
        (lambda logits: logits if len(logits) == 100 else None, "rest of the batch"),
    ],
)
def test_logits_in_any_wrapping_are_judged_and_anything_else_is_told_apart(answer, told):
    with pytest.raises(WrongAnswerError, match=told):
        exercises.check_reordering(answer)


PARTS = ("Evaluating robustness", "The paper", "Measuring margins", "From paper to practice")
TOC = yaml.safe_load((NOTEBOOKS.parent / "_toc.yml").read_text())["parts"]
TAUGHT = [Path(page["file"]).name for part in TOC if part["caption"] in PARTS for page in part["chapters"]]


@pytest.mark.parametrize("name", TAUGHT)
def test_a_page_ends_with_three_to_five_exercises_each_solved_and_one_checked(name):
    section = (NOTEBOOKS / f"{name}.md").read_text(encoding="utf-8").partition("\n## Exercises\n")[2]
    first, *tasks = re.split(r"^(?=\d\. )", section, flags=re.MULTILINE)
    assert first.strip() == ""
    assert [int(task[0]) for task in tasks] == list(range(1, len(tasks) + 1))
    assert 3 <= len(tasks) <= 5
    assert [task.splitlines()[0] for task in tasks if "{dropdown}" not in task and "hide-cell" not in task] == []
    assert CALL.search(section)


CASE = {"first": torch.tensor([1.0, 2.0]), "second": 3.0}


def product(first, second):
    return first * second


def test_a_result_that_no_usual_mistake_explains_is_described(capsys):
    check(lambda first, second: np.array([3, 6]), cases=[CASE], answer=product, mistakes={})
    assert capsys.readouterr().out == "Right.\n"
    for wrong, told in {
        "a text": "expected numbers, a tensor or an array",
        (3.0, 6.0, 9.0): r"expected the shape \(2,\), got \(3,\)",
        (3.0, np.nan): "1 of 2 values are NaN",
        (3.0, 6.5): "1 of 2 values are wrong, by 0.5 at most",
    }.items():
        with pytest.raises(WrongAnswerError, match=told):
            check(lambda first, second, wrong=wrong: wrong, cases=[CASE], answer=product, mistakes={})


def test_a_function_that_writes_into_its_arguments_is_told_so_and_spoils_nothing():
    with pytest.raises(WrongAnswerError, match="changes its argument first in place"):
        check(lambda first, second: first.mul_(second), cases=[CASE], answer=product, mistakes={})
    assert_close(CASE["first"], torch.tensor([1.0, 2.0]), rtol=0, atol=0)


def test_equal_infinities_are_equal_and_others_are_not():
    far = {"answer": lambda first, second: np.array([np.inf, 1]), "cases": [CASE], "mistakes": {}}
    check(lambda first, second: np.array([np.inf, 1]), **far)
    with pytest.raises(WrongAnswerError, match="1 of 2 values are wrong, by inf"):
        check(lambda first, second: np.array([-np.inf, 1]), **far)


def test_a_notebook_shows_the_one_line_and_no_traceback():
    assert WrongAnswerError("mind the sign")._render_traceback_() == ["Not yet: mind the sign."]
