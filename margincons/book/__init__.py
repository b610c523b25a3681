"""The book: its pages are executed through papermill, Jupyter Book makes a site of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from margincons.book.execution import execute_pages, is_current, page_keys
from margincons.book.pages import Page, Value, book_pages, page_parameters, read_profile
from margincons.book.plan import planned_measurements
from margincons.book.site import SITE, build_site, shown
from margincons.errors import UnknownNameError, UsageError

__all__ = ["build_book"]


def build_book(
    *,
    root: str | Path = ".",
    profile: str = "digits",
    parameters: Mapping[str, Value] | None = None,
    pages: Iterable[str] | None = None,
    jobs: int = 2,
    strict: bool = True,
    dry_run: bool = False,
    html: bool = True,
    force: bool = False,
) -> None:
    """Execute the pages that are not up to date, then build the site.

    Args:
        root: The project's folder, which holds _toc.yml.
        profile: The name of a file in notebooks/params, or the path of such a YAML file.
        parameters: Page parameters that override the profile.
        pages: Names of the pages to execute; all of them when None.
        jobs: How many pages run at a time.
        strict: Whether a warning of Sphinx is an error.
        dry_run: Only list what would run: for each page its parameters, measurements and downloads.
        html: Whether to build the site.
        force: Whether to execute pages that are up to date too.

    Raises:
        UnknownNameError: If a page, a profile or a parameter does not exist.
        UsageError: If a parameter has the wrong type.
        MissingFileError: If the table of contents, or a page that it names, does not exist.
        FileFormatError: If a profile or a page's parameters cell holds what it should not.
        PageError: If a page failed, after the others ran; or the site was built with warnings.
    """
    root = Path(root).resolve()
    if jobs < 1:
        raise UsageError(f"Expected 1 page or more at a time, got {jobs}.")
    book = book_pages(root)
    given = page_parameters(book, read_profile(profile, root) | dict(parameters or {}))
    wanted = _choose(book, pages)
    keys = page_keys(wanted, given)
    stale = [page for page in wanted if force or not is_current(page, keys[page.name])]
    if dry_run:
        _describe(wanted, stale, given)
        return
    print(f"Pages: {len(stale)} to execute, {len(wanted) - len(stale)} up to date (profile {profile}).", flush=True)
    execute_pages(stale, given, keys, root=root, jobs=jobs)
    missing = [page.name for page in book if not page.output.is_file()]
    if html and missing:
        print(f"Site: not built, because these pages were never executed: {', '.join(missing)}.")
        print(f"Look at {', '.join(str(shown(page.output)) for page in wanted)}, in any editor of notebooks.")
    elif html:
        build_site(root, strict=strict)
        print(f"Look at {shown(root / SITE / 'index.html')}")


def _choose(book: list[Page], names: Iterable[str] | None) -> list[Page]:
    if names is None:
        return book
    names = list(names)
    known = [page.name for page in book]
    for name in names:
        if name not in known:
            raise UnknownNameError("page", name, known)
    return [page for page in book if page.name in names]


def _describe(wanted: list[Page], stale: list[Page], given: Mapping[str, Mapping[str, Value]]) -> None:
    for page in wanted:
        print(f"{page.name}: {'would be executed' if page in stale else 'up to date'}")
        for name, value in given[page.name].items():
            print(f"    {name} = {value!r}")
        for line in planned_measurements(page, given[page.name]):
            print(f"  would {line}")
        if missing := _needed([page], given):
            print(f"  would download or ask for {len(missing)} of the files below")
    needed = _needed(stale, given)
    print("Needs files that are not shipped:" if needed else "Needs no files that are not shipped.")
    for line in needed:
        print(f"    {line}")


def _needed(pages: list[Page], given: Mapping[str, Mapping[str, Value]]) -> list[str]:
    values = [value for page in pages for value in given[page.name].values()]
    flat = {item for value in values for item in (value if isinstance(value, list) else [value])}
    return _absent_networks(flat) + _datasets(flat)


def _absent_networks(values: set[Value]) -> list[str]:
    ids = sorted(value for value in values if str(value).startswith("robustbench/"))
    if not ids:
        return []
    from margincons.zoo.robustbench import robustbench_checkpoints

    return [f"{path} ({model})" for model in ids for path in robustbench_checkpoints(model) if not path.is_file()]


def _datasets(values: set[Value]) -> list[str]:
    from margincons.data import DATASETS, data_folder

    return [f"{name}, unless it lies in {data_folder()}" for name in DATASETS if name in values and name != "digits"]
