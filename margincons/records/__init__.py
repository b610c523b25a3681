"""Records: one row per image, in Parquet shards that carry how they were measured.

A record is a folder of files ``shard-00000.parquet``, each written whole or not at all and never again. The settings
that made it travel in every shard's schema, with checksums over the rows and over themselves.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from margincons.errors import (
    ChecksumError,
    FileFormatError,
    MarginError,
    MissingColumnError,
    MissingFileError,
    RecordError,
    UnknownNameError,
)
from margincons.records.atomic import written_whole

SHIPPED = Path(__file__).parents[1] / "shipped"
EXTENSION = ("images", "data_sha256")  # settings that change when a record is extended to more images
_CHECKSUMS = {"weights_sha256": "the network", "data_sha256": "the images"}  # settings, and what they are of
_KEY, _SEAL = b"margincons", b"margincons_sha256"  # provenance as JSON, and its checksum
_DIGEST, _OLD = "columns_sha256", "rows_sha256"  # keys of the provenance: checksum of the rows, today's and the first
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


def write_shard(
    path: Path, table: pd.DataFrame | dict[str, np.ndarray], settings: dict[str, Any], made: dict[str, Any]
) -> None:
    """Write one shard: to a temporary name, flushed to disk, then renamed.

    Args:
        path: Where; its folder is created.
        table: One row per image; or its columns, by name, which is quicker.
        settings: What identifies the record; the same in all its shards.
        made: How this shard was made, from `provenance`.
    """
    rows = pa.table({name: pa.array(column, from_pandas=True) for name, column in table.items()})
    about = json.dumps({"settings": settings, "made": made, _DIGEST: _digest(rows)}).encode()
    rows = rows.replace_schema_metadata({_KEY: about, _SEAL: hashlib.sha256(about).hexdigest()})
    whole = pa.BufferOutputStream()  # one write to the file, for there are many small ones to this
    pq.write_table(rows, whole, compression="zstd", use_dictionary=False)  # hardly a value repeats
    with written_whole(path) as file:
        file.write(whole.getvalue())


def read_shard(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read one shard and check that it holds what was written.

    Returns:
        The rows, and a dictionary with keys "settings" and "made", and with the checksum of the rows.

    Raises:
        FileFormatError: If the file is not a shard of a record.
        ChecksumError: If its rows or its provenance have changed.
    """
    rows, about = _read_checked(path)
    return rows.to_pandas(), about


def _read_checked(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    try:
        rows = pq.ParquetFile(path).read(use_threads=False)
        metadata = rows.schema.metadata or {}
        about = _about(path, metadata)
        digest, wanted = (_digest(rows), about[_DIGEST]) if _DIGEST in about else (_old_digest(rows), about[_OLD])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FileFormatError(path, "a shard of a record", " ".join(str(error).split())[:200]) from None
    if digest != wanted:
        raise ChecksumError(path, wanted, digest)
    return rows.replace_schema_metadata(None), about


def _about(path: Path, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise FileFormatError(path, "a shard of a record", "Parquet without margincons' provenance")
    seal, digest = metadata.get(_SEAL, b"").decode(errors="replace"), hashlib.sha256(metadata[_KEY]).hexdigest()
    if seal and seal != digest:  # the oldest records have none
        raise ChecksumError(path, seal, digest)
    try:
        about = json.loads(metadata[_KEY])
    except ValueError:
        about = None
    if not isinstance(about, dict) or not about.keys() & {_DIGEST, _OLD} or not about.keys() >= {"settings", "made"}:
        raise FileFormatError(path, "a shard of a record", "provenance that cannot be read")
    return about


def read_record(path_or_name: str | Path) -> pd.DataFrame:
    """Read a whole record, one row per image in the order of the data set.

    Args:
        path_or_name: A folder, one shard file, or the name of a shipped record such as
            "digits/trades/Linf/fab_paper".

    Returns:
        The table; ``table.attrs`` holds "settings" and "made" of its first shard, with the warnings of all; where a
        record was extended, the settings of the extension.

    Raises:
        MissingFileError: If there is no such folder.
        UnknownNameError: If it looks like a shipped record's name and none has it, or records lie below or beside it.
        RecordError: If its shards were measured with different settings, or two hold the same image.
    """
    shards = shards_of(path_or_name)
    with ThreadPoolExecutor(max_workers=2) as pool:  # Python's lock leaves more of them nothing to do
        tables, abouts = zip(*pool.map(_read_checked, shards), strict=True)
    latest = max((about["settings"] for about in abouts), key=lambda settings: settings.get("images") or 0)
    for shard, about in zip(shards, abouts, strict=True):
        check_settings(shard, about["settings"], latest, extended=True)
    try:
        table = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    except pa.ArrowException as error:
        raise RecordError(f"Expected the shards of {path_or_name} to have the same columns, but: {error}") from None
    if "index" not in table:
        raise MissingColumnError("index", table.columns)
    if len(shards) > 1 and not table["index"].is_unique:
        raise RecordError(f"Expected each row of {path_or_name} in one shard, some are in two: remove the copies.")
    if not table["index"].is_monotonic_increasing:
        table = table.sort_values("index", ignore_index=True)
    told = {one["name"]: one for about in reversed(abouts) for one in about["made"].get("warnings", ())}
    table.attrs = {"settings": latest, "made": abouts[0]["made"] | ({"warnings": list(told.values())} if told else {})}
    return table


def shards_of(path_or_name: str | Path) -> list[Path]:
    """Files of a record, by its folder or by the name of a shipped one; errors as in `read_record`."""
    path = Path(path_or_name)
    if not path.exists():
        shipped = shipped_records()
        if path.parts[:1] not in {Path(name).parts[:1] for name in shipped}:
            raise _no_record(path, path.parent.glob("*/shard-*.parquet"))
        if path.as_posix() not in shipped:
            raise UnknownNameError("record", str(path_or_name), shipped)
        path = SHIPPED / path
    shards = [path] if path.is_file() else sorted(path.glob("shard-*.parquet"))
    if not shards:
        raise _no_record(path, path.rglob("shard-*.parquet"))
    return shards


def _no_record(path: Path, around: Iterable[Path]) -> MarginError:
    """Offer the records whose shards lie around a path that is none."""
    known = sorted({str(shard.parent) for shard in around})
    return UnknownNameError("record", str(path), known) if known else MissingFileError(path, "record")


def check_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any], *, extended: bool = False) -> None:
    """Raise `RecordError` naming the first setting in which a shard differs from what is wanted.

    Args:
        path: Of the shard.
        found: Its settings.
        wanted: Those it should have.
        extended: Allow a shard that was measured when fewer images were asked for.
    """
    fewer = extended and (found.get("images") or 0) < (wanted.get("images") or 0)
    for key in differing(found, wanted):
        if not (fewer and key in EXTENSION):
            differs = f"with {key}={wanted.get(key)!r}, it has {found.get(key)!r}"
            if key in _CHECKSUMS:
                differs = f"on {_CHECKSUMS[key]} at hand, {key} is another: did {_CHECKSUMS[key]} change?"
            raise RecordError(
                f"Expected {path} to be measured {differs}; a record holds one measurement: choose another "
                "folder (measure --out, calibrate --records), or the same settings."
            )


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of the settings that differ, those that an extension may change last; one that is absent counts as None."""
    keys = [key for key in dict.fromkeys([*wanted, *found]) if found.get(key) != wanted.get(key)]
    return sorted(keys, key=EXTENSION.__contains__)


def shipped_records() -> list[str]:
    """Names of the records that ship with the package."""
    return sorted({path.parent.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("shard-*.parquet")})


def _digest(rows: pa.Table) -> str:
    """SHA-256 over names, types and values; the same however Arrow cuts the rows into chunks."""
    digest = hashlib.sha256()
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        kind, array = column.type, column.combine_chunks()
        if pa.types.is_list(kind):
            kind = pa.list_(kind.value_type)  # Arrow calls what lists hold "item", Parquet calls it "element"
        digest.update(f"{name} {kind} {len(array)} {array.null_count}".encode())
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            if array.null_count:
                digest.update(array.is_valid().to_numpy(zero_copy_only=False))
                array = array.fill_null(pa.scalar(0).cast(kind))
            digest.update(array.to_numpy(zero_copy_only=False))
        else:
            digest.update(repr(array.to_pylist()).encode())
    return digest.hexdigest()


def _old_digest(rows: pa.Table) -> str:
    """Checksum of the first shipped records: the same idea through Python's text of the values, 20 times slower."""
    digest = hashlib.sha256()
    for name in rows.column_names:
        digest.update(name.encode())
        digest.update(repr(rows.column(name).to_pylist()).encode())
    return digest.hexdigest()


@functools.cache  # the code that runs stays what it was at first, whatever is committed meanwhile
def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
