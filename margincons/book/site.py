"""The site: Jupyter Book renders the executed pages; what it needs lies in it, so that it opens from disk."""

import importlib.metadata
import shutil
import subprocess
import sys
import time
from pathlib import Path

from margincons.book.execution import PACKAGE, digest, folder_digest
from margincons.errors import PageError

SITE = Path("_build/html")


def build_site(root: Path, *, strict: bool = True) -> None:
    """Build the site from executed pages and prose, unless nothing changed since the last time.

    Args:
        root: The project's folder.
        strict: Whether a warning of Sphinx is an error.

    Raises:
        PageError: If Jupyter Book failed, or warned and ``strict``; names each warning.
    """
    _copy_mathjax(root / "book" / "_static" / "mathjax")
    configuration = [(root / name).read_bytes() for name in ("_config.yml", "_toc.yml")]
    key = digest([bytes([strict]), *configuration, folder_digest(root / "book"), folder_digest(PACKAGE)])
    stamp, log = root / "_build" / "html.key", root / "_build" / "html.log"
    if stamp.is_file() and stamp.read_text() == key and (root / SITE / "index.html").is_file():
        print("Site: up to date.")
        return
    print("Site: building with Jupyter Book ...", flush=True)
    started = time.monotonic()
    # From nothing: Sphinx warns of a page only when it reads it anew, and keeps pages that are gone.
    stamp.unlink(missing_ok=True)
    for folder in (root / SITE, root / "_build" / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    log.parent.mkdir(exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(
            [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(root)]
            + (["-W", "-n", "--keep-going"] if strict else []),
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status:
        lines = log.read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-10:]
        text = "\n".join(found)
        raise PageError(f"Expected a site without warnings, got these (everything is in {shown(log)}):\n\n{text}")
    (root / SITE / ".nojekyll").touch()  # or GitHub Pages leaves out folders such as _static
    stamp.write_text(key)
    print(f"Site: built in {time.monotonic() - started:.0f} s.")


def shown(path: Path) -> Path:
    """The path as a reader would type it: from the current folder, where it lies below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _copy_mathjax(folder: Path) -> None:
    # The wheel's own extension would add 24 MB to the site. This one file holds all of TeX that MathJax knows;
    # the smaller tex-svg.js fetches \boldsymbol and others from files beside it.
    wheel = "sphinx-mathjax-offline"
    source = importlib.metadata.distribution(wheel).locate_file(f"{wheel}/static/mathjax/tex-svg-full.js")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "tex-svg-full.js")
