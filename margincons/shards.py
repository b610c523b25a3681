"""Shards: which rows of a record each file holds, which of them are finished, and how one is measured and written."""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from margincons.checks import heard
from margincons.classifier import Classifier
from margincons.data import Images
from margincons.errors import BatchMemoryError, ChecksumError, FileFormatError, MissingFileError, RecordError
from margincons.records import EXTENSION, check_settings, differing, read_shard, write_shard
from margincons.records.atomic import set_aside
from margincons.records.kept_images import images_of, load_images_of, write_images
from margincons.rows import measure_batch


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of a record, and the images it is for."""

    path: Path
    rows: range  # places in the data set


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a record has and what it lacks."""

    finished: list[Shard]
    missing: list[Shard]
    batch_size: int  # as asked, or the least that a finished shard had to be measured with
    aside: dict[Path, str]  # files in the way, "damaged" or "foreign": `make_room` renames them


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A shard that is measured and not yet written."""

    columns: dict[str, np.ndarray]  # (n,) each
    adversarial: np.ndarray | None  # (n, c, h, w), where they are kept
    made: dict[str, Any]  # how it was made


def plan(folder: Path, settings: dict[str, Any], images: Images) -> Plan:
    """Look at what a folder holds and split the images that are left into shards; nothing is written.

    Shards that are damaged are in the way, and so are a few of another measurement among many of this one. A record
    may be extended: shards that were measured when fewer images were asked for stay, and new ones start after them.

    Raises:
        RecordError: If the folder holds a record of other settings, of other images, or of more images.
    """
    found, aside = _read_all(folder, bool(settings.get("keep_images")))
    checksum = functools.cache(lambda n: images.head(n).checksum())
    same = {
        path: about["settings"]
        for path, (_, about) in found.items()
        if set(differing(about["settings"], settings)) <= set(EXTENSION)
    }
    most = max((one.get("images") or 0 for one in same.values()), default=0)
    if most > settings["images"]:
        raise RecordError(
            f"Expected {folder} to be a record of {settings['images']} images or fewer, it is one of {most}; "
            f"ask for {most} or more (--limit), or choose another folder."
        )
    ours = {path for path, one in same.items() if _continues(one, settings, checksum)}
    if len(ours) <= len(found) / 2:
        for path, (_, about) in found.items():
            if path not in ours:
                check_settings(path, about["settings"], settings, extended=True)
                raise RecordError(
                    f"Expected the first {about['settings']['images']} images of {settings['data']} to be those that "
                    f"{path} was measured on, they changed; choose another folder."
                )
    ends = sorted({found[path][1]["settings"]["images"] for path in ours} | {len(images)})
    rows, start, size = [], 0, settings["shard_size"]
    for end in ends:
        rows += [range(first, min(first + size, end)) for first in range(start, end, size)]
        start = end
    shards = [Shard(path=folder / f"shard-{number:05d}.parquet", rows=part) for number, part in enumerate(rows)]
    finished = [shard for shard in shards if shard.path in ours and found[shard.path][0] == list(shard.rows)]
    aside |= dict.fromkeys(found.keys() - {shard.path for shard in finished}, "foreign")
    sizes = [found[shard.path][1]["made"].get("batch_size", settings["batch_size"]) for shard in finished]
    missing = [shard for shard in shards if shard not in finished]
    return Plan(finished=finished, missing=missing, batch_size=min([settings["batch_size"], *sizes]), aside=aside)


def make_room(found: Plan) -> None:
    """Rename the files that are in the way, with the images kept beside them; call it as the only writer."""
    for path, why in found.aside.items():
        for part in (path, images_of(path)):
            if part.exists():
                set_aside(part, why)


def measure_shard(
    classifier: Classifier,
    images: Images,
    rows: range,
    settings: dict[str, Any],
    *,
    batch_size: int,
    made: dict[str, Any],
    advance: Callable[[int], object] = lambda images: None,
) -> Measured:
    """Measure the images of one shard, in batches that are halved as often as memory runs out.

    Args:
        classifier: The network, on its device.
        images: The whole data set.
        rows: Places of the shard's images.
        settings: Of the record.
        batch_size: To start with; what it came to is kept under "batch_size" in how the shard was made.
        made: How the measurement is being made, from `margincons.records.provenance`.
        advance: Called with the number of images that were done, or undone.

    Raises:
        BatchMemoryError: If not even one image fits into memory.
    """
    started, batches = time.perf_counter(), None
    with heard(made.get("warnings", ())) as warned:
        while batches is None:
            batches, full = _batches(classifier, images, rows, settings, batch_size=batch_size, advance=advance)
            if batches is None:
                if batch_size == 1:
                    raise BatchMemoryError(str(classifier.device), full)
                batch_size = -(-min(batch_size, len(rows)) // 2)
                notice = f"margincons: out of memory on {classifier.device}; going on with batches of {batch_size}"
                tqdm.write(notice, file=sys.stderr)
    seconds = round(time.perf_counter() - started, 2)
    columns, kept = zip(*batches, strict=True)
    return Measured(
        columns={name: np.concatenate([batch[name] for batch in columns]) for name in columns[0]},
        adversarial=np.concatenate(kept) if settings.get("keep_images") else None,
        made=made | {"seconds": seconds, "batch_size": batch_size, "warnings": warned},
    )


def write(shard: Shard, measured: Measured, settings: dict[str, Any]) -> None:
    """Write a measured shard: its images first, so that a finished shard has them."""
    made = measured.made
    if measured.adversarial is not None:
        made = made | {"images_sha256": write_images(shard.path, np.array(shard.rows), measured.adversarial)}
    write_shard(shard.path, measured.columns, settings, made)


def _read_all(folder: Path, with_images: bool) -> tuple[dict[Path, tuple[list[int], dict[str, Any]]], dict[Path, str]]:
    """Rows and provenance of the shards that are whole, and those that are not."""
    found, damaged = {}, {}
    for path in sorted(folder.glob("shard-*.parquet")):
        try:
            table, about = read_shard(path)
            if with_images and about["settings"].get("keep_images"):
                load_images_of(path, about["made"])
            found[path] = table["index"].tolist() if "index" in table else [], about
        except (FileFormatError, ChecksumError, MissingFileError):
            damaged[path] = "damaged"
    return found, damaged


def _continues(found: dict[str, Any], wanted: dict[str, Any], checksum: Callable[[int], str]) -> bool:
    """Whether a shard of a record belongs to one of more images; `checksum` is that of the first n of these."""
    n = found.get("images") or 0
    return not differing(found, wanted) or (n < wanted["images"] and checksum(n) == found["data_sha256"])


def _batches(
    classifier: Classifier, images: Images, rows: range, settings: dict[str, Any], *, batch_size: int, advance: Callable
) -> tuple[list[tuple[dict[str, np.ndarray], np.ndarray | None]] | None, str]:
    """Measure batch by batch; None, and what the device said, where memory ran out."""
    done = []
    try:
        for part in torch.arange(rows.start, rows.stop).split(batch_size):
            batch = measure_batch(classifier, images, part, settings)
            done.append((batch.columns, batch.adversarial.cpu().numpy() if settings.get("keep_images") else None))
            advance(len(part))
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        advance(-sum(len(columns["index"]) for columns, _ in done))
        full = " ".join(str(error).split()) or "an allocation that failed"
    else:
        return done, ""
    done.clear()
    if classifier.device.type == "cuda":
        torch.cuda.empty_cache()
    return None, full


def _is_out_of_memory(error: Exception) -> bool:
    said = ("not enough memory", "out of memory", "can't allocate memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in said)
