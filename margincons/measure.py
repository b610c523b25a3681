"""Measuring: a network, images and a threat go in, a record comes out. Knows devices, batches, shards, resuming."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from margincons.checks import warn_before_work
from margincons.classifier import Classifier
from margincons.cluster import Job, measured_by
from margincons.data import Images
from margincons.errors import ShapeError
from margincons.passes import evaluating
from margincons.prepare import check_attack, check_sizes, portable_id, prepare
from margincons.records import provenance, read_record
from margincons.records.atomic import clear_unfinished
from margincons.records.locks import only_writer
from margincons.rows import measure_batch
from margincons.shards import make_room, measure_shard, plan, write

if TYPE_CHECKING:
    from distributed import Client


def measure(
    model_id: str | Path,
    data: str | Path,
    *,
    norm: str = "Linf",
    attack: str = "minimum_norm",
    effort: str = "standard",
    out: str | Path,
    epsilon: float | None = None,
    certificate: str | None = None,
    time_limit: float = 60.0,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | str = "auto",
    shard_size: int = 200,
    device: str = "auto",
    download: bool = False,
    progress: bool = True,
    keep_images: bool = False,
    client: "Client | None" = None,
) -> pd.DataFrame:
    """Measure one network on one data set, and keep the result as a record.

    Finished shards are never measured again: the same call after an interruption does the rest, an unfinished shard
    from its start, and with a larger ``limit`` it extends the record. One process at a time may write a record.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes.
        norm: "Linf", "L2" or "L1".
        attack: A minimum-norm attack, or one with a budget, which needs ``epsilon``.
        effort: "fast", "standard", "fine" or "exhaustive".
        out: Folder of the record.
        epsilon: Budget of an attack that has one, on the [0, 1] pixel scale; None for the others.
        certificate: "interval", "crown" or "exact": what bounds the margins of a ReLU network from below; None for
            no lower bounds.
        time_limit: Seconds per image for "exact"; what is proved by then is kept.
        split: Which images of a data set that has several splits; margins to learn from are those of "train".
        limit: How many images, from the first; all when None.
        seed: Fixes every random start.
        batch_size: Images per batch; "auto" is `BATCH_SIZE`. Halved, with a notice, whenever memory runs out; what
            it came to stands in each shard.
        shard_size: Images per shard file.
        device: "cpu", "cuda", or "auto": CUDA when there is a device.
        download: Whether checkpoints and data sets may be downloaded.
        progress: Whether to draw a bar on stderr.
        keep_images: Whether to keep the adversarial images, for `margincons.records.kept_images.read_images`.
        client: Of a Dask cluster whose workers measure the shards; None to measure here.

    Returns:
        The record as a table, one row per image.

    Raises:
        RecordError: If the folder holds a record of other settings, or of more images.
        LockedError: If another process is writing the record.
        BatchMemoryError: If not even one image fits into memory.
        ClusterError: If the cluster gives up.
        UnknownNameError: If an attack, effort or norm does not exist.
        UsageError: If epsilon is given to an attack without a budget or missing from one with a budget, or a size or
            the limit is below 1.
    """
    out = Path(out)
    asked = prepare(
        model_id,
        data,
        norm=norm,
        attack=attack,
        effort=effort,
        out=out,
        epsilon=epsilon,
        certificate=certificate,
        time_limit=time_limit,
        split=split,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        shard_size=shard_size,
        device=device,
        download=download,
        keep_images=keep_images,
        client=client,
    )
    classifier, images, settings = asked.classifier, asked.images, asked.settings
    made = provenance() | {"warnings": warn_before_work(classifier, images, settings)}
    with only_writer(out):
        clear_unfinished(out)
        found = plan(out, settings, images)
        make_room(found)
        done = sum(len(shard.rows) for shard in found.finished)
        with _bar(f"{model_id} {attack}", done, len(images), progress) as bar:
            if client is None:
                size = found.batch_size
                for shard in found.missing:
                    measured = measure_shard(
                        classifier, images, shard.rows, settings, batch_size=size, made=made, advance=bar.update
                    )
                    size = measured.made["batch_size"]
                    write(shard, measured, settings)
            else:
                told = {key: made[key] for key in ("command", "warnings")}
                where = {"model_id": _reachable(model_id), "data": _reachable(data), "split": split}
                job = Job(**where, settings=settings, batch_size=found.batch_size, made=told)
                for shard, measured in measured_by(client, job, found.missing):
                    write(shard, measured, settings)
                    bar.update(len(shard.rows))
    return read_record(out)


def measure_images(
    model: nn.Module,
    images: Images,
    *,
    norm: str = "Linf",
    attack: str = "minimum_norm",
    effort: str = "standard",
    epsilon: float | None = None,
    seed: int = 0,
    batch_size: int = 200,
) -> pd.DataFrame:
    """Measure a network on images at hand and keep nothing on disk: the table of `measure`, for small numbers.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k); measured on its own device, in eval mode.
        images: From `load_images`, or of one's own: ``Images(inputs=..., labels=...)``.
        norm: "Linf", "L2" or "L1".
        attack: A minimum-norm attack, or one with a budget, which needs ``epsilon``.
        effort: "fast", "standard", "fine" or "exhaustive".
        epsilon: Budget of an attack that has one, on the [0, 1] pixel scale; None for the others.
        seed: Fixes every random start.
        batch_size: Images per batch.

    Returns:
        One row per image; ``table.attrs`` holds "settings": the arguments above.

    Raises:
        ShapeError: If the images are bare tensors or a name.
        UnknownNameError: If an attack, effort or norm does not exist.
        UsageError: If epsilon is given to an attack without a budget or missing from one with a budget, or a size is 0.
    """
    if not isinstance(images, Images):
        raise ShapeError("images", "from load_images, or Images(inputs=..., labels=...)", type(images).__name__)
    check_attack(attack, norm=norm, effort=effort, epsilon=epsilon)
    check_sizes(batch_size=batch_size)
    settings = {"norm": norm, "attack": attack, "effort": effort, "epsilon": epsilon, "seed": seed}
    with evaluating(model):
        classifier = Classifier(model, images.inputs[:2])
        warn_before_work(classifier, images, settings | {"batch_size": batch_size})
        parts = torch.arange(len(images)).split(batch_size)
        tables = [measure_batch(classifier, images, part, settings).table for part in parts]
    table = pd.concat(tables, ignore_index=True)
    table.attrs = {"settings": settings}
    return table


def record_folder(
    root: Path, model_id: str | Path, norm: str, attack: str, certificate: str | None = None, *, split: str = "test"
) -> Path:
    """Where a record lies: root/digits/trades/Linf/fab_paper, or root/nets.cnn/Linf/minimum_norm-crown-train."""
    parts = (attack, certificate, None if split == "test" else split)
    return root / portable_id(model_id).replace(".py:", ".") / norm / "-".join(filter(None, parts))


def _bar(title: str, done: int, images: int, progress: bool) -> tqdm:
    """Progress with rate and time left: live in a terminal, a line now and then in a log."""
    live = sys.__stderr__ is not None and sys.__stderr__.isatty()
    return tqdm(
        desc=title,
        initial=done,
        total=images,
        unit="image",
        disable=not progress,
        file=sys.__stderr__,
        mininterval=0.1 if live else 30,
        dynamic_ncols=True,
    )


def _reachable(name: str | Path) -> str:
    """Say from the root where a file is, for workers that run in another folder; leave other names alone."""
    name = str(name)
    path, colon, function = name.rpartition(":") if ".py:" in name else (name, "", "")
    return f"{Path(path).resolve()}{colon}{function}" if Path(path).exists() else name
