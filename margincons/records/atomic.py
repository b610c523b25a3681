"""Files that are whole or absent: written under another name, flushed to disk, renamed."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from margincons.errors import UsageError

SUFFIX = ".tmp"  # of what is being written; `clear_unfinished` takes away what a killed process left


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its name only once all of it is on disk; an error in between leaves nothing.

    Args:
        path: Where; its folder is created.

    Yields:
        The file under its temporary name, open for writing bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_target(path: str | Path, what: str) -> None:
    """Refuse a path where no file can be written, before the work whose result it is to hold; leaves nothing behind.

    Args:
        path: Where `written_whole` is going to write.
        what: What the file will hold: "the detector".

    Raises:
        UsageError: If the path is a folder, or its nearest folder that exists takes no files.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UsageError(f"Expected {path} to be the file of {what}, it is a folder.")
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UsageError(f"Expected to write the file of {what} to {path}, cannot: {error.strerror}.") from None


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes left of a record half-written; call it only where nobody else writes."""
    for path in folder.glob(f"shard-*{SUFFIX}"):
        path.unlink()


def set_aside(path: Path, why: str) -> Path:
    """Rename a file to NAME.why, or NAME.why-2 and so on, never onto another; the new path."""
    aside, number = path.with_name(f"{path.name}.{why}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{why}-{number}")
    return path.rename(aside)
