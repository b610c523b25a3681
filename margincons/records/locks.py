"""One writer per record: a lock that the kernel lets go of when its holder ends, however it ends."""

import datetime
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from margincons.errors import LockedError

NAME = "record.lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a record's folder against a second writer.

    The lock is on the open file, not the file's existence: what a killed process leaves behind holds nobody up, and
    the next writer takes it over. On a shared file system it reaches as far as that system's ``flock`` does.

    Args:
        folder: Of the record; created.

    Raises:
        LockedError: If somebody else holds it; the message names who.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    file = _hold(path)
    try:
        os.ftruncate(file, 0)
        os.write(file, json.dumps(_holder()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while still held: nobody can hold the file and see it vanish
        os.close(file)


def _hold(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise LockedError(path.parent, _read(path)) from None
        except OSError:
            os.close(file)
            raise
        if _is_still_there(path, file):
            return file
        os.close(file)  # its last holder removed it between our opening and locking it


def _is_still_there(path: Path, file: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False


def _holder() -> dict[str, str | int]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": command[:200]}


def _read(path: Path) -> dict[str, str | int]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found
    return {}  # it is being written this moment
