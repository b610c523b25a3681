"""Pages to hand out: notebooks without the answers of their exercises."""

import re
from pathlib import Path

from margincons.book.pages import EXECUTED, toc_files
from margincons.errors import UnknownNameError

_EXERCISES = "## Exercises"
_ANSWER = re.compile(r"^(:{3,})\{dropdown\}.*?^\1$\n?", re.DOTALL | re.MULTILINE)


def handout(name: str, *, root: str | Path = ".", folder: str | Path = ".") -> Path:
    """Write a page as a notebook that has not been executed and whose exercises have no answers; return its path.

    Args:
        name: The page's name.
        root: The project's folder, which holds _toc.yml.
        folder: Where to write NAME.ipynb.

    Raises:
        UnknownNameError: If the book has no page of that name.
        MissingFileError: If there is no table of contents.
    """
    import jupytext

    names = [Path(entry).name for entry in toc_files(Path(root)) if Path(entry).parent == EXECUTED]
    if name not in names:
        raise UnknownNameError("page", name, names)
    notebook = jupytext.read(Path(root) / "notebooks" / f"{name}.md", fmt="md:myst")
    kept, reached = [], False
    for cell in notebook.cells:
        if reached and "hide-cell" in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            above, heading, tasks = ("", "", cell.source) if reached else cell.source.partition(_EXERCISES)
            cell.source = above + heading + _ANSWER.sub("", tasks)
            reached = reached or bool(heading)
        kept.append(cell)
    notebook.cells = kept
    path = Path(folder) / f"{name}.ipynb"
    jupytext.write(notebook, path)
    return path
