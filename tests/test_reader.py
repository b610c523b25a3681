"""A reader who installed the wheel and copies a page's cells into a notebook of their own sees what the book shows."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import jupytext
import pytest

from margincons.book.pages import book_pages

ROOT = Path(__file__).parents[1]
SESSION = Path(__file__).with_name("reader_session.py")
SOURCES = ("margincons", "pyproject.toml", "README.md", "LICENSE")
FEWER = {"n_images": 60, "n_attacked": 50, "n_grid": 10, "n_walked": 10, "n_restarts": 3, "draws": 200}
FEWER |= dict.fromkeys(("n_live", "n_bracketed"), 4)
TIMED = {"scale"}  # pages that show how fast this machine is; what they show is never the same twice
CLOCK = re.compile(r"\d[\d.,]*(?= ?(ms|s|seconds?|minutes?|hours?)\b)")


def cells_of(name):
    """The code of a page; behind its parameters cell, fewer images, as a reader in a hurry would set them."""
    cells = []
    (page,) = [page for page in book_pages(ROOT) if page.name == name]
    for cell in jupytext.read(page.source, fmt="md:myst").cells:
        if cell.cell_type == "code":
            cells.append(cell.source)
            if "parameters" in cell.metadata.get("tags", []):
                cells.append("\n".join(f"{name} = {n}" for name, n in FEWER.items() if name in page.declared))
    return cells


@pytest.fixture(scope="session")
def reader(tmp_path_factory, absent):
    """An interpreter with the wheel of this checkout and, behind it, the other packages that this one has."""
    if importlib.util.find_spec("ensurepip") is None:
        absent("There is no ensurepip, which installs the wheel: on Debian `apt-get install python3-venv`.")
    root = tmp_path_factory.mktemp("reader")
    for name in SOURCES:  # a copy, since a build leaves folders behind
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, root / "checkout" / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, root], cwd=root / "checkout", check=True, capture_output=True)
    shutil.rmtree(root / "checkout")
    (wheel,) = root.glob("*.whl")
    venv.create(root / "env", with_pip=True)
    python = root / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [python, "-m", "pip", "install", "-qq", "--no-index", "--no-deps", wheel]
    subprocess.run(pip, check=True, env=environment(), capture_output=True)
    (packages,) = {path for path in (root / "env").rglob("site-packages") if path.is_dir()}
    # A folder named in a .pth file is only searched: the .pth files in it, those of editable installs, are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "MARGINCONS_DOWNLOAD": "0"} | more


def read_along(python, names, folder, **more):
    """Run the cells of pages in a session of their own; what the package's path was, and what each page showed."""
    folder.mkdir()
    session = [python, "-W", "ignore:FigureCanvasAgg is non-interactive", SESSION]
    pages = json.dumps({name: cells_of(name) for name in names})
    ended = subprocess.run(
        session, cwd=folder, env=environment(**more), input=pages, text=True, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return json.loads(ended.stdout)


def compare(reader, names, tmp_path):
    theirs = read_along(reader, names, tmp_path / "theirs")
    ours = read_along(sys.executable, names, tmp_path / "ours", PYTHONPATH=str(ROOT))
    assert Path(theirs["package"]).is_relative_to(reader.parents[1])
    assert Path(ours["package"]).is_relative_to(ROOT)
    for name in names:
        shown, expected = (CLOCK.sub("", "\n".join(side["shown"][name])) for side in (theirs, ours))
        assert len(re.findall(r"\d", shown)) > 20  # something was measured
        assert name in TIMED or shown == expected, f"what the page {name} shows"
    return theirs


def test_cells_of_teaching_pages_show_the_same_with_the_wheel_elsewhere(reader, tmp_path):
    compare(reader, ["adversarial", "fgsm", "metrics"], tmp_path)
    assert {path.suffix for path in (tmp_path / "theirs").iterdir()} == {".csv"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [page.name for page in book_pages(ROOT)])
def test_cells_of_a_page_show_the_same_with_the_wheel_elsewhere(reader, name, tmp_path):
    compare(reader, [name], tmp_path)
