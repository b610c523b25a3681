"""Which pages there are, and which parameters each of them is given.

_toc.yml is the only list of pages: an entry ``book/executed/NAME`` is executed from ``notebooks/NAME.md``,
every other entry is prose. A profile, ``notebooks/params/NAME.yaml``, is a flat set of page parameters.
"""

import ast
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from margincons.errors import FileFormatError, MissingFileError, UnknownNameError, UsageError

Value = bool | int | float | str | list
EXECUTED = Path("book/executed")
_SCALARS = {"bool": bool, "int": int, "float": int | float, "str": str}
_TYPES = [*_SCALARS, *(f"list[{scalar}]" for scalar in _SCALARS)]


@dataclass(frozen=True, kw_only=True)
class Page:
    """One executed page."""

    name: str
    source: Path  # MyST Markdown
    output: Path  # the executed notebook
    declared: Mapping[str, str]  # parameter -> its type, e.g. "list[str]"


def book_pages(root: Path) -> list[Page]:
    """Read which pages are executed, in reading order.

    Raises:
        MissingFileError: If _toc.yml or the source of a page does not exist.
    """
    pages = []
    for entry in toc_files(root):
        if (path := Path(entry)).parent == EXECUTED:
            source = root / "notebooks" / f"{path.name}.md"
            if not source.is_file():
                raise MissingFileError(source, "page of the table of contents")
            output = root / EXECUTED / f"{path.name}.ipynb"
            pages.append(Page(name=path.name, source=source, output=output, declared=declared_parameters(source)))
    return pages


def toc_files(root: Path) -> list[str]:
    """List what _toc.yml names, executed pages and prose, in reading order, without suffixes.

    Raises:
        MissingFileError: If there is no _toc.yml.
    """
    path = root / "_toc.yml"
    if not path.is_file():
        raise MissingFileError(path, "table of contents (the book is built in a clone of the project)")

    def walk(node: object) -> list[str]:
        if isinstance(node, list):
            return [file for child in node for file in walk(child)]
        if isinstance(node, dict):
            own = [node[key] for key in ("root", "file") if key in node]
            return own + [file for child in node.values() for file in walk(child)]
        return []

    return walk(yaml.safe_load(path.read_text(encoding="utf-8")))


def declared_parameters(source: Path) -> dict[str, str]:
    """Read the names and types that a page declares in its cell tagged "parameters".

    Raises:
        FileFormatError: If the cell holds anything but lines such as ``epsilon: float = 0.1``.
    """
    import jupytext

    cells = jupytext.read(source, fmt="md:myst").cells
    tagged = (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    declared = {}
    for line in ast.parse(next(tagged, "")).body:
        simple = isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None
        if not simple or (annotation := ast.unparse(line.annotation)) not in _TYPES:
            expected = f"parameters such as `epsilon: float = 0.1` (types: {', '.join(_TYPES)})"
            raise FileFormatError(source, expected, f"`{ast.unparse(line)}`")
        declared[line.target.id] = annotation
    return declared


def read_profile(profile: str, root: Path) -> dict[str, Value]:
    """Read a flat set of page parameters, by name or by path.

    Raises:
        UnknownNameError: If there is no profile of that name.
        MissingFileError: If there is no file at that path.
        FileFormatError: If the file holds anything but scalars and lists of scalars.
    """
    folder = root / "notebooks" / "params"
    by_path = profile.endswith((".yaml", ".yml"))
    path = Path(profile) if by_path else folder / f"{profile}.yaml"
    if by_path and not path.is_file():
        raise MissingFileError(path, "profile")
    if not path.is_file():
        raise UnknownNameError("profile", profile, sorted(file.stem for file in folder.glob("*.yaml")))
    expected = "`name: value` lines whose values are scalars or lists of them"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-99-99
        raise FileFormatError(path, expected, " ".join(str(error).split())) from None
    if not isinstance(content, dict):
        raise FileFormatError(path, expected, reprlib.repr(content))
    for name, value in content.items():
        items = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(isinstance(item, bool | int | float | str) for item in items):
            raise FileFormatError(path, expected, f"{name}: {reprlib.repr(value)}")
    return content


def page_parameters(pages: Iterable[Page], given: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Give each page just the parameters that it declares.

    Raises:
        UnknownNameError: If no page declares a name.
        UsageError: If a value does not have the declared type.
    """
    pages = list(pages)
    known = sorted({name for page in pages for name in page.declared})
    for name in given:
        if name not in known:
            raise UnknownNameError("page parameter", name, known)
    chosen = {page.name: {name: given[name] for name in page.declared if name in given} for page in pages}
    for page in pages:
        for name, value in chosen[page.name].items():
            if not _has_type(value, page.declared[name]):
                hint = "; YAML reads 1e-3 as text, write 1.0e-3" if "float" in page.declared[name] else ""
                came = reprlib.repr(value)
                raise UsageError(f"Expected the page parameter {name!r} to be {page.declared[name]}, got {came}{hint}.")
    return chosen


def _has_type(value: Value, annotation: str) -> bool:
    if annotation.startswith("list["):
        inner = annotation.removeprefix("list[").removesuffix("]")
        return isinstance(value, list) and all(_has_type(item, inner) for item in value)
    # To Python a bool is an int; to a reader of a page it is not.
    return isinstance(value, _SCALARS[annotation]) and (annotation == "bool" or not isinstance(value, bool))
