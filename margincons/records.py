"""Records: one row per image, in Parquet shards that carry how they were measured.

A record is a folder of files ``shard-00000.parquet``, each written whole or not at all and never again. The settings
that made it travel in every shard's schema, with checksums over the rows and over themselves.
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from margincons.errors import ChecksumError, FileFormatError, MissingFileError, RecordError, UnknownNameError

SHIPPED = Path(__file__).parent / "records"
_KEY, _SEAL = b"margincons", b"margincons_sha256"  # provenance as JSON, and its checksum
_PACKAGES = ("margincons", "torch", "numpy", "pyautoattack", "robustbench")


def provenance() -> dict[str, Any]:
    """Where and how a measurement is being made: command, commit, versions, machine, time."""
    import torch

    name = "margincons" if Path(sys.argv[0]).stem in ("margincons", "cli", "__main__") else Path(sys.argv[0]).name
    return {
        "command": " ".join([name, *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_shard(path: Path, table: pd.DataFrame, settings: dict[str, Any], made: dict[str, Any]) -> None:
    """Write one shard: to a temporary name, flushed to disk, then renamed.

    Args:
        path: Where; its folder is created.
        table: One row per image.
        settings: What identifies the record; the same in all its shards.
        made: How this shard was made, from `provenance`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pa.Table.from_pandas(table, preserve_index=False)
    about = json.dumps({"settings": settings, "made": made, "rows_sha256": _rows_sha256(rows)}).encode()
    rows = rows.replace_schema_metadata({_KEY: about, _SEAL: hashlib.sha256(about).hexdigest()})
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(rows, file, compression="zstd")
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


def read_shard(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read one shard and check that it holds what was written.

    Returns:
        The rows, and a dictionary with keys "settings", "made" and "rows_sha256".

    Raises:
        FileFormatError: If the file is not a shard of a record.
        ChecksumError: If its rows or its provenance have changed.
    """
    try:
        rows = pq.read_table(path)
        rows_sha256 = _rows_sha256(rows)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FileFormatError(path, "a shard of a record", " ".join(str(error).split())[:200]) from None
    metadata = rows.schema.metadata or {}
    if _KEY not in metadata:
        raise FileFormatError(path, "a shard of a record", "Parquet without margincons' provenance")
    seal, digest = metadata.get(_SEAL, b"").decode(errors="replace"), hashlib.sha256(metadata[_KEY]).hexdigest()
    if seal and seal != digest:  # the oldest records have none
        raise ChecksumError(path, seal, digest)
    try:
        about = json.loads(metadata[_KEY])
    except ValueError:
        raise FileFormatError(path, "a shard of a record", "provenance that cannot be read") from None
    if rows_sha256 != about["rows_sha256"]:
        raise ChecksumError(path, about["rows_sha256"], rows_sha256)
    return rows.replace_schema_metadata(None).to_pandas(), about


def read_record(path_or_name: str | Path) -> pd.DataFrame:
    """Read a whole record, one row per image in the order of the data set.

    Args:
        path_or_name: A folder, one shard file, or the name of a shipped record such as
            "digits/trades/Linf/fab_paper".

    Returns:
        The table; ``table.attrs`` holds "settings" and "made" of its first shard, with the warnings of all.

    Raises:
        MissingFileError: If there is no such folder.
        UnknownNameError: If it looks like a shipped record's name and none has it.
        RecordError: If its shards were measured with different settings.
    """
    path = Path(path_or_name)
    if not path.exists():
        shipped = shipped_records()
        if path.parts[:1] not in {Path(name).parts[:1] for name in shipped}:
            raise MissingFileError(path, "record")
        if path.as_posix() not in shipped:
            raise UnknownNameError("record", str(path_or_name), shipped)
        path = SHIPPED / path
    shards = [path] if path.is_file() else sorted(path.glob("shard-*.parquet"))
    if not shards:
        raise MissingFileError(path / "shard-*.parquet", "shard of a record")
    tables, abouts = zip(*(read_shard(shard) for shard in shards), strict=True)
    for shard, about in zip(shards, abouts, strict=True):
        check_settings(shard, about["settings"], abouts[0]["settings"])
    table = pd.concat(tables, ignore_index=True).sort_values("index", ignore_index=True)
    told = {one["name"]: one for about in reversed(abouts) for one in about["made"].get("warnings", ())}
    made = abouts[0]["made"] | ({"warnings": list(told.values())} if told else {})
    table.attrs = {"settings": abouts[0]["settings"], "made": made}
    return table


def check_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `RecordError` naming the first setting in which a shard differs from what is wanted."""
    for key in [*wanted, *found]:
        if found.get(key) != wanted.get(key):
            raise RecordError(
                f"Expected {path} to be measured with {key}={wanted.get(key)!r}, it has {found.get(key)!r}; "
                "a record holds one measurement: choose another folder, or the same settings."
            )


def shipped_records() -> list[str]:
    """Names of the records that ship with the package."""
    return sorted({path.parent.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("shard-*.parquet")})


def _rows_sha256(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in rows.column_names:
        digest.update(name.encode())
        digest.update(repr(rows.column(name).to_pylist()).encode())
    return digest.hexdigest()


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
