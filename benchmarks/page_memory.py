"""How much memory a page of the book takes: the most that its kernel ever had resident, one page after the other.

OMP_NUM_THREADS=1 python benchmarks/page_memory.py
OMP_NUM_THREADS=1 python benchmarks/page_memory.py fgsm pgd --profile digits
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import papermill

from margincons.book.pages import Page, Value, book_pages, page_parameters, read_profile

ROOT = Path(__file__).parents[1]
BAR = 2.0  # GB
# Of the kernel itself; getrusage would count what its parent held before exec.
PEAK = "import re, pathlib\nprint(re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])"


def main() -> int:
    """Execute pages and print a row for each; 1 where one takes more than `BAR`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="all of them when none is named")
    parser.add_argument("--profile", default="digits")
    options = parser.parse_args()
    pages = [page for page in book_pages(ROOT) if page.name in options.pages or not options.pages]
    given = page_parameters(book_pages(ROOT), read_profile(options.profile, ROOT))
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    print(f"{'page':<22} {'GB':>5} {'seconds':>8}")
    peaks = {}
    for page in pages:
        started = time.monotonic()
        peaks[page.name] = peak(page, given[page.name])
        print(f"{page.name:<22} {peaks[page.name]:>5.2f} {time.monotonic() - started:>8.0f}", flush=True)
    largest = max(peaks, key=peaks.get)
    print(f"largest: {largest} with {peaks[largest]:.2f} GB, the bar is {BAR}")
    return int(peaks[largest] > BAR)


def peak(page: Page, parameters: dict[str, Value]) -> float:
    """The most that the kernel of a page had resident, in GB (10^9 bytes)."""
    notebook = jupytext.read(page.source, fmt="md:myst")
    notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
    run = {"kernel_name": "python3", "language": "python", "progress_bar": False, "cwd": ROOT}
    done = papermill.execute_notebook(notebook, None, parameters, **run)
    return int(done.cells[-1].outputs[0].text) * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main())
