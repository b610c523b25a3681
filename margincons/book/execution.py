"""Pages are executed through papermill, several at a time, each in a process and a kernel of its own."""

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from tqdm import tqdm

from margincons.book.pages import Page, Value
from margincons.errors import PageError

PACKAGE = Path(__file__).parents[1]  # also holds the weights and records that pages read


def page_keys(pages: Iterable[Page], given: Mapping[str, Mapping[str, Value]]) -> dict[str, str]:
    """Hash all that a page's outputs follow from: its source, its parameters, the package, the records it reads."""
    package = folder_digest(PACKAGE)

    def key(page: Page) -> str:
        own = given[page.name]
        # Records of one's own can be large: a changed file shows in its size or time.
        records = [(path, path.stat()) for path in _files(Path(own.get("records") or os.devnull))]
        stamps = [(str(path), about.st_size, about.st_mtime_ns) for path, about in records]
        return digest([page.source.read_bytes(), json.dumps([own, stamps], sort_keys=True).encode(), package])

    return {page.name: key(page) for page in pages}


def is_current(page: Page, key: str) -> bool:
    """Whether the page was executed with this key."""
    stamp = _stamp(page)
    return page.output.is_file() and stamp.is_file() and stamp.read_text() == key


def execute_pages(
    pages: list[Page],
    given: Mapping[str, Mapping[str, Value]],
    keys: Mapping[str, str],
    *,
    root: Path,
    jobs: int,
) -> None:
    """Execute pages, `jobs` at a time; a page that fails does not stop the others.

    Args:
        pages: What to execute.
        given: The parameters of each page, by its name.
        keys: What `page_keys` returned; kept beside the output of each page that succeeds.
        root: The folder that pages run in.
        jobs: How many run at a time.

    Raises:
        PageError: If a page failed; names each such page, its cell and its error.
    """
    failures = {}
    with (
        tempfile.TemporaryDirectory(prefix="book") as sockets,
        concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker) as pool,
        tqdm(total=len(pages), unit="page", file=sys.__stderr__, disable=not pages) as progress,
    ):
        futures = {
            pool.submit(_execute, page.source, page.output, given[page.name], root, f"{sockets}/{number}"): page
            for number, page in enumerate(pages)
        }
        try:
            for future in _as_they_end(futures, jobs, progress):
                page, error = futures[future], future.exception()
                if error is None:
                    _stamp(page).write_text(keys[page.name])
                    progress.write(f"{page.name}: {future.result():.0f} s", file=sys.__stderr__)
                else:
                    failures[page.name] = str(error) if isinstance(error, PageError) else f"{page.name}: {error!r}"
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    if failures:
        texts = "\n\n".join(failures.values())
        raise PageError(f"{len(failures)} of {len(pages)} pages failed: {', '.join(failures)}.\n\n{texts}")


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over parts, each told apart from the next."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()


def folder_digest(folder: Path) -> bytes:
    """SHA-256 over the names and contents of all files in a folder."""
    files = [path for path in _files(folder) if "__pycache__" not in path.parts]
    return digest(
        part for path in files for part in (path.relative_to(folder).as_posix().encode(), path.read_bytes())
    ).encode()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _stamp(page: Page) -> Path:
    return page.output.with_suffix(".key")


def _as_they_end(futures: Mapping, jobs: int, progress: tqdm) -> Iterable[concurrent.futures.Future]:
    waiting = set(futures)
    while waiting:
        running = [page.name for future, page in futures.items() if future in waiting][:jobs]
        progress.set_postfix_str(", ".join(running))
        # In a terminal the clock of the bar moves on; a log is spared that.
        timeout = 1 if sys.__stderr__.isatty() else None
        done, waiting = concurrent.futures.wait(waiting, timeout, concurrent.futures.FIRST_COMPLETED)
        progress.update(len(done))
        yield from done


def _start_worker() -> None:
    # The driver alone answers Ctrl-C: it ends the workers, and they end their kernels.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # pages run side by side
    os.environ.setdefault("MARGINCONS_DOWNLOAD", "1")  # what a profile names may be fetched


def _execute(source: Path, output: Path, parameters: dict[str, Value], folder: Path, sockets: str) -> float:
    """Execute one page; its output appears whole or not at all. Returns the seconds it took."""
    import jupytext
    import nbformat
    import papermill
    import zmq
    from traitlets.config import Config

    started = time.monotonic()
    # Kernels that start at the same moment choose the same TCP port; socket files of their own cannot collide.
    transport = {"transport": "ipc", "ip": sockets} if zmq.has("ipc") else {}
    try:
        notebook = papermill.execute_notebook(
            jupytext.read(source, fmt="md:myst"),
            None,
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=folder,
            config=Config(KernelManager=transport),
            shutdown_kernel="immediate",
        )
    except papermill.PapermillExecutionError as error:
        head = "".join(f"\n    {line}" for line in error.source.splitlines()[:5])
        raise PageError(f"{source.name}, code cell {error.exec_count}:{head}\n{error.ename}: {error.evalue}") from None
    for part in (notebook, *notebook.cells):
        for timing in ("papermill", "execution"):
            part.metadata.pop(timing, None)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-input")
            cell.metadata["mystnb"] = {"code_prompt_show": "Parameters of this run"}
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_suffix(".unfinished")
    nbformat.write(notebook, unfinished)
    unfinished.replace(output)
    return time.monotonic() - started
