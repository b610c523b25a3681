"""What a page promises, read off its source: the question, the learning goal, the run time, the exercises."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from IPython.display import HTML

from margincons.book.pages import EXECUTED, toc_files

_GOAL = re.compile(r"After\s+this\s+page\s+you\s+can\s+(.*?[^0-9])\.(?=\s)", re.DOTALL)
_TIME = re.compile(r"Run\s+time:\s+(.*?)[;,.]", re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_ROLE = re.compile(r"\{[a-z:]+\}`([^`<]*?)(?: <[^`]*>)?`")


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One page, as its first lines and its last section describe it."""

    name: str
    title: str
    goal: str  # what follows "After this page you can"; "" where a page makes no such promise
    run_time: str
    exercises: int
    in_code: int  # exercises with a check


def promises(root: Path) -> list[Promise]:
    """Read the promises of all executed pages, in reading order; none outside the project's folder.

    Args:
        root: The project's folder.
    """
    if not (root / "_toc.yml").is_file():
        return []
    names = [Path(entry).name for entry in toc_files(root) if Path(entry).parent == EXECUTED]
    return [promise(name, (root / "notebooks" / f"{name}.md").read_text(encoding="utf-8")) for name in names]


def promise(name: str, source: str) -> Promise:
    """Read the promise of one page from its MyST source."""
    body, _, exercises = source.partition("\n## Exercises\n")
    goal, run_time = (found[1] if (found := rule.search(body)) else "" for rule in (_GOAL, _TIME))
    return Promise(
        name=name,
        title=re.search(r"^# (.*)$", body, re.MULTILINE)[1],
        goal=_plain(goal),
        run_time=_plain(run_time),
        exercises=len(re.findall(r"^\d+\. ", exercises, re.MULTILINE)),
        in_code=len(set(re.findall(r"exercises\.(check_\w+)", exercises))),
    )


def learning_goals(found: Iterable[Promise]) -> HTML:
    """List pages with their goals, run times and numbers of exercises; titles link to the pages beside this one."""
    items = [
        f'<dt><a href="{one.name}.html">{_html(one.title)}</a></dt>'
        f"<dd>{_html(one.goal)}. <small>({_facts(one)})</small></dd>"
        for one in found
        if one.goal
    ]
    return HTML(f'<dl class="learning-goals">{"".join(items)}</dl>')


def _html(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _facts(one: Promise) -> str:
    counted = f"{one.exercises} exercises" + (f", {one.in_code} of them checked" if one.in_code else "")
    return escape(", ".join(filter(None, (one.run_time, counted if one.exercises else ""))))


def _plain(text: str) -> str:
    return " ".join(_ROLE.sub(r"\1", text).split())
