"""The book: its pages, their parameters, their execution through papermill, and the site.

_toc.yml is the only list of pages. An entry ``book/executed/NAME`` is executed from ``notebooks/NAME.md``;
every other entry is prose. A profile, ``notebooks/params/PROFILE.yaml``, is a flat set of page parameters.
"""

import ast
import concurrent.futures
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from margincons.errors import FileFormatError, MissingFileError, PageError, UnknownNameError, UsageError

Value = bool | int | float | str | list
EXECUTED = Path("book/executed")
SITE = Path("_build/html")
_TYPES = {"bool": bool, "int": int, "float": (int, float), "str": str}
_PACKAGE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Page:
    """One executed page."""

    name: str
    source: Path  # MyST Markdown
    output: Path  # the executed notebook
    declared: Mapping[str, str]  # parameter -> its annotation, e.g. "list[str]"


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
) -> int:
    """Execute the pages that are not up to date, then build the site from all of them.

    Args:
        root: The project's folder, which holds _toc.yml.
        profile: The name of a file in notebooks/params, or the path of such a YAML file.
        parameters: Page parameters that override the profile.
        pages: Names of the pages to execute; all of them when None.
        jobs: How many pages run at a time.
        strict: Whether a warning of Sphinx is an error.
        dry_run: Only list what would run, with its parameters and downloads.
        html: Whether to build the site.
        force: Execute pages that are up to date too.

    Returns:
        The number of pages executed.

    Raises:
        UnknownNameError: If a page, a profile or a parameter does not exist.
        UsageError: If a parameter has the wrong type.
        PageError: If a page failed, after the others ran; or the site was built with warnings.
    """
    root = Path(root).resolve()
    if jobs < 1:
        raise UsageError(f"Expected 1 page or more at a time, got {jobs}.")
    book = book_pages(root)
    given = page_parameters(book, read_profile(profile, root) | dict(parameters or {}))
    names = [page.name for page in book]
    for name in pages or []:
        if name not in names:
            raise UnknownNameError("page", name, names)
    wanted = [page for page in book if pages is None or page.name in set(pages)]
    keys = _keys(wanted, given)
    stale = [page for page in wanted if force or not _is_current(page, keys[page.name])]
    if dry_run:
        _describe(wanted, stale, given)
        return 0
    print(f"Pages: {len(stale)} to execute, {len(wanted) - len(stale)} up to date (profile {profile}).")
    _execute_pages(root, stale, given, keys, jobs)
    missing = [page.name for page in book if not page.output.is_file()]
    if html and missing:
        print(f"The site is not built: not yet executed are {', '.join(missing)}.")
    elif html:
        _build_site(root, strict)
        print(f"Look at {_shown(root / SITE / 'index.html')}")
    return len(stale)


def book_pages(root: Path) -> list[Page]:
    """Read the executed pages of _toc.yml, in reading order, each with the parameters that it declares.

    Raises:
        MissingFileError: If _toc.yml or the source of a page does not exist.
    """
    toc = root / "_toc.yml"
    if not toc.is_file():
        raise MissingFileError(toc, "table of contents")
    pages = []
    for entry in toc_files(yaml.safe_load(toc.read_text(encoding="utf-8"))):
        if (path := Path(entry)).parent == EXECUTED:
            source = root / "notebooks" / f"{path.name}.md"
            if not source.is_file():
                raise MissingFileError(source, "page of the table of contents")
            output = root / path.with_suffix(".ipynb")
            pages.append(Page(name=path.name, source=source, output=output, declared=declared_parameters(source)))
    return pages


def toc_files(node: object) -> list[str]:
    """List every page that a table of contents names, in reading order."""
    if isinstance(node, list):
        return [file for child in node for file in toc_files(child)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("root", "file") if key in node]
    return own + [file for child in node.values() for file in toc_files(child)]


def declared_parameters(source: Path) -> dict[str, str]:
    """Read the names and types that a page declares in its cell tagged "parameters".

    Raises:
        FileFormatError: If the cell holds anything but lines like ``epsilon: float = 0.1``.
    """
    import jupytext

    cells = jupytext.read(source, fmt="md:myst").cells
    tagged = (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    declared = {}
    for line in ast.parse(next(tagged, "")).body:
        text = ast.unparse(line)
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
            raise FileFormatError(source, "typed parameters such as `epsilon: float = 0.1`", f"`{text}`")
        annotation = ast.unparse(line.annotation)
        if annotation.removeprefix("list[").removesuffix("]") not in _TYPES:
            raise FileFormatError(source, f"parameters of type {', '.join(_TYPES)} or lists of them", f"`{text}`")
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
    if profile.endswith((".yaml", ".yml")):
        path = Path(profile)
        if not path.is_file():
            raise MissingFileError(path, "profile")
    else:
        path = folder / f"{profile}.yaml"
        if not path.is_file():
            raise UnknownNameError("profile", profile, sorted(file.stem for file in folder.glob("*.yaml")))
    expected = "`name: value` lines whose values are scalars or lists of them"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise FileFormatError(path, expected, " ".join(str(error).split())) from error
    if not isinstance(content, dict):
        raise FileFormatError(path, expected, type(content).__name__)
    for name, value in content.items():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, bool | int | float | str) for item in items):
            raise FileFormatError(path, expected, f"{name}: {value!r}")
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
    for page in pages:
        for name in given.keys() & page.declared.keys():
            _check_type(name, given[name], page.declared[name])
    return {page.name: {name: given[name] for name in page.declared if name in given} for page in pages}


def _check_type(name: str, value: Value, annotation: str) -> None:
    kind = _TYPES[annotation.removeprefix("list[").removesuffix("]")]
    items = value if isinstance(value, list) else [value]
    fits = all(isinstance(item, kind) and (kind is bool or not isinstance(item, bool)) for item in items)
    if isinstance(value, list) != annotation.startswith("list[") or not fits:
        hint = "; YAML reads 1e-3 as text, write 1.0e-3" if isinstance(value, str) and kind is _TYPES["float"] else ""
        raise UsageError(f"Expected the page parameter {name!r} to be {annotation}, got {value!r}{hint}.")


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _contents(folder: Path, *, skip: Iterable[str] = ()) -> list[bytes]:
    skip = {"__pycache__", *skip}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and skip.isdisjoint(path.parts))
    return [part for path in files for part in (str(path.relative_to(folder)).encode(), path.read_bytes())]


def _keys(pages: list[Page], given: Mapping[str, Mapping[str, Value]]) -> dict[str, str]:
    # The package's folder also holds the weights and records that pages read.
    package = _digest(_contents(_PACKAGE)).encode()

    def records(folder: str) -> bytes:
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file()) if folder else []
        return repr([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]).encode()

    return {
        page.name: _digest(
            [page.source.read_bytes(), json.dumps(own, sort_keys=True).encode(), package, records(own.get("records"))]
        )
        for page in pages
        for own in [given[page.name]]
    }


def _is_current(page: Page, key: str) -> bool:
    stamp = page.output.with_suffix(".key")
    return page.output.is_file() and stamp.is_file() and stamp.read_text() == key


def _describe(wanted: list[Page], stale: list[Page], given: Mapping[str, Mapping[str, Value]]) -> None:
    downloads = set()
    for page in wanted:
        print(f"{page.name}: {'would be executed' if page in stale else 'up to date'}")
        for name, value in given[page.name].items():
            print(f"    {name} = {value!r}")
            items = value if isinstance(value, list) else [value]
            downloads |= {item for item in items if str(item).startswith(("robustbench/", "cifar", "imagenet"))}
    print(f"Needed and not shipped: {', '.join(sorted(downloads)) or 'nothing'}")


def _execute_pages(root: Path, pages: list[Page], given: Mapping, keys: Mapping[str, str], jobs: int) -> None:
    failures = {}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="book") as sockets,
        concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=_prepare_worker) as pool,
        tqdm(total=len(pages), unit="page", file=sys.__stderr__, disable=not pages) as progress,
    ):
        futures = {
            pool.submit(_execute, page.source, page.output, given[page.name], str(root), f"{sockets}/{i}"): page
            for i, page in enumerate(pages)
        }
        waiting = set(futures)
        try:
            while waiting:
                running = [page.name for future, page in futures.items() if future in waiting][:jobs]
                progress.set_postfix_str("running " + ", ".join(running))
                done, waiting = concurrent.futures.wait(
                    waiting,
                    timeout=1 if sys.__stderr__.isatty() else None,
                    return_when=concurrent.futures.FIRST_COMPLETED,
                )
                for future in done:
                    page = futures[future]
                    progress.update()
                    if error := future.exception():
                        failures[page.name] = f"{error}" if isinstance(error, PageError) else f"{page.name}: {error!r}"
                        progress.write(failures[page.name], file=sys.__stderr__)
                    else:
                        page.output.with_suffix(".key").write_text(keys[page.name])
                        progress.write(f"  {page.name}: {future.result():.1f} s", file=sys.__stderr__)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    if failures:
        failed = ", ".join(failures)
        raise PageError(f"{len(failures)} of {len(pages)} pages failed ({failed}).\n" + "\n".join(failures.values()))


def _prepare_worker() -> None:
    # The driver alone answers Ctrl-C; it then ends the workers, and they their kernels.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"


def _execute(source: Path, output: Path, parameters: dict, root: str, sockets: str) -> float:
    """Execute one page in a kernel of its own; return the seconds it took."""
    import jupytext
    import nbformat
    import papermill
    import zmq
    from traitlets.config import Config

    start = time.monotonic()
    notebook = jupytext.read(source, fmt="md:myst")
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
    transport = {"transport": "ipc", "ip": sockets} if zmq.has("ipc") else {}
    try:
        executed = papermill.execute_notebook(
            notebook,
            None,
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=root,
            config=Config(KernelManager=transport),
            shutdown_kernel="immediate",
        )
    except papermill.PapermillExecutionError as error:
        head = "\n".join(f"    {line}" for line in error.source.splitlines()[:4])
        raise PageError(
            f"Page {source.stem} failed in its code cell {error.exec_count}:\n{head}\n{error.ename}: {error.evalue}"
        ) from None
    executed.metadata.pop("papermill", None)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"] += ["hide-input"]
            cell.metadata["mystnb"] = {"code_prompt_show": "Parameters of this run"}
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".unfinished")
    nbformat.write(executed, unfinished)
    unfinished.replace(output)
    return time.monotonic() - start


def _build_site(root: Path, strict: bool) -> None:
    _copy_mathjax(root / "book" / "_static" / "mathjax")
    inputs = [(root / name).read_bytes() for name in ("_config.yml", "_toc.yml")]
    key = _digest([str(strict).encode(), *inputs, *_contents(root / "book"), *_contents(_PACKAGE)])
    stamp = root / "_build" / "html.key"
    if stamp.is_file() and stamp.read_text() == key and (root / SITE / "index.html").is_file():
        print("Site: up to date.")
        return
    print("Site: building with Jupyter Book ...", flush=True)
    start = time.monotonic()
    # From nothing: Sphinx names a warning only when it reads a page anew, and leaves the pages that were removed.
    stamp.unlink(missing_ok=True)
    for folder in (root / SITE, root / "_build" / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(root)]
    finished = subprocess.run(
        command + ["-W", "-n", "--keep-going"] * strict,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
    log = root / "_build" / "html.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(finished.stdout, encoding="utf-8")
    if finished.returncode:
        lines = finished.stdout.splitlines()
        found = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-15:]
        raise PageError("Expected a site without warnings, got (all in " + f"{_shown(log)}):\n" + "\n".join(found))
    (root / SITE / ".nojekyll").touch()  # or GitHub Pages leaves out the folder _static
    stamp.write_text(key)
    print(f"Site: built in {time.monotonic() - start:.0f} s.")


def _copy_mathjax(folder: Path) -> None:
    name = "sphinx-mathjax-offline"
    source = importlib.metadata.distribution(name).locate_file(f"{name}/static/mathjax/tex-svg.js")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tex-svg.js").is_file():
        shutil.copyfile(source, folder / "tex-svg.js")


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
