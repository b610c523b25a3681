"""Measuring: a network, images and a threat go in, a record comes out. Knows devices, batches, shards, resuming."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from margincons.checks import heard, warn_before_work
from margincons.classifier import Classifier
from margincons.data import Images, load_images
from margincons.errors import ChecksumError, FileFormatError, RecordError, UnknownNameError, UsageError
from margincons.margins import FIXED_BUDGET, MINIMUM_NORM
from margincons.records import check_settings, provenance, read_record, read_shard, write_shard
from margincons.rows import CERTIFICATES, measure_batch
from margincons.threat import ThreatModel
from margincons.zoo import load_model, state_sha256


def measure(
    model_id: str,
    data: str,
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
    batch_size: int = 200,
    shard_size: int = 200,
    device: str = "auto",
    download: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure one network on one data set, and keep the result as a record.

    Finished shards are never measured again: the same call after an interruption goes on where it stopped.

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
        batch_size: Images per batch.
        shard_size: Images per shard file.
        device: "cpu", "cuda", or "auto": CUDA when there is a device.
        download: Whether checkpoints and data sets may be downloaded.
        progress: Whether to draw a bar on stderr.

    Returns:
        The record as a table, one row per image.

    Raises:
        RecordError: If the folder holds a record of other settings.
        UnknownNameError: If an attack, effort or norm does not exist.
        UsageError: If epsilon is given to an attack without a budget or missing from one with a budget, or a size is 0.
    """
    _check_attack(attack, norm=norm, effort=effort, epsilon=epsilon)
    _check_sizes(batch_size=batch_size, shard_size=shard_size)
    if certificate not in (None, *CERTIFICATES):
        raise UnknownNameError("certificate", certificate, CERTIFICATES)
    device, out = choose_device(device), Path(out)
    if out.is_file():
        raise UsageError(f"Expected {out} to be the folder of a record, it is a file.")
    images = load_images(data, split=split, n=limit, download=download)
    model = load_model(model_id, download=download).to(device)
    classifier = Classifier(model, images.inputs[:2])
    settings = {
        "model": _portable(model_id),
        "weights_sha256": state_sha256(model),
        "data": images.name,
        "images": len(images),
        "data_sha256": images.checksum(),
        "decoding": images.decoding,
        "norm": norm,
        "attack": attack,
        "effort": effort,
        "epsilon": epsilon,
        "certificate": certificate,
        "time_limit": time_limit if certificate == "exact" else None,
        "seed": seed,
        "batch_size": batch_size,
        "shard_size": shard_size,
        "device": device,
    }
    made = provenance() | {"warnings": warn_before_work(classifier, images, settings)}
    bar = {"desc": f"{model_id} {attack}", "unit": "image", "disable": not progress, "file": sys.__stderr__}
    with tqdm(total=len(images), **bar) as bar:
        for number, rows in enumerate(torch.arange(len(images)).split(shard_size)):
            path = out / f"shard-{number:05d}.parquet"
            if not _finished(path, settings):
                started = time.perf_counter()
                with heard(made["warnings"]) as warned:
                    parts = [measure_batch(classifier, images, part, settings) for part in rows.split(batch_size)]
                seconds = round(time.perf_counter() - started, 2)
                write_shard(path, pd.concat(parts), settings, made | {"seconds": seconds, "warnings": warned})
            bar.update(len(rows))
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
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k); measured on its own device.
        images: From `load_images`.
        norm: "Linf", "L2" or "L1".
        attack: A minimum-norm attack, or one with a budget, which needs ``epsilon``.
        effort: "fast", "standard", "fine" or "exhaustive".
        epsilon: Budget of an attack that has one, on the [0, 1] pixel scale; None for the others.
        seed: Fixes every random start.
        batch_size: Images per batch.

    Returns:
        One row per image.

    Raises:
        UnknownNameError: If an attack, effort or norm does not exist.
        UsageError: If epsilon is given to an attack without a budget or missing from one with a budget, or a size is 0.
    """
    _check_attack(attack, norm=norm, effort=effort, epsilon=epsilon)
    _check_sizes(batch_size=batch_size)
    classifier = Classifier(model, images.inputs[:2])
    settings = {"norm": norm, "attack": attack, "effort": effort, "epsilon": epsilon, "seed": seed}
    warn_before_work(classifier, images, settings | {"batch_size": batch_size})
    parts = torch.arange(len(images)).split(batch_size)
    return pd.concat([measure_batch(classifier, images, part, settings) for part in parts], ignore_index=True)


def obtain(
    model_id: str, data: str, *, norm: str, attack: str, records: str, split: str = "test", **options: Any
) -> pd.DataFrame:
    """Take a record that ships with the package, or measure it into a folder of one's own: what pages call.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes.
        norm: "Linf", "L2" or "L1".
        attack: Name of the attack.
        records: "" for the shipped records; else the folder of records to resume and to extend.
        split: Which images of the data set.
        options: Further options of `measure`. A shipped record is cut to ``limit``; its effort must be the one asked.

    Raises:
        RecordError: If the shipped record was measured with another effort.
    """
    if records:
        out = record_folder(Path(records), model_id, norm, attack, split=split)
        return measure(model_id, data, norm=norm, attack=attack, out=out, split=split, **options)
    name = record_folder(Path(), model_id, norm, attack, split=split).as_posix()
    table = read_record(name)
    effort, recorded = options.get("effort", "standard"), table.attrs["settings"]["effort"]
    if effort != recorded:
        raise RecordError(
            f"Expected effort {effort!r}, the shipped record {name} has {recorded!r}; "
            "ask for that, or name a folder of records to measure into."
        )
    return table.head(options.get("limit") or len(table))


def measure_again(table: pd.DataFrame, rows: Sequence[int]) -> pd.DataFrame:
    """Measure some rows of a record anew, with the record's own settings, on this machine.

    Args:
        table: A record of a network and data set that have names, such as the shipped ones.
        rows: Which rows of the table.

    Returns:
        Columns "index", "recorded", "live" (input margins) and "ratio" (live over recorded), one row per image.

    Raises:
        RecordError: If the network's weights, or the images, are not those of the record.
    """
    settings = table.attrs["settings"]
    dataset, _, split = settings["data"].partition("/")
    images = load_images(dataset, split=split or "test", n=settings.get("images"))
    if settings.get("images") and images.checksum() != settings["data_sha256"]:
        raise RecordError(f"Expected the images that the record was measured on, those of {settings['data']} changed.")
    model = load_model(settings["model"])
    if state_sha256(model) != settings["weights_sha256"]:
        raise RecordError(
            f"Expected the weights that the record was measured with, those of {settings['model']} changed."
        )
    classifier = Classifier(model, images.inputs[:2])
    chosen = table.iloc[list(rows)]
    live = measure_batch(classifier, images, torch.tensor(chosen["index"].tolist()), settings)
    recorded, again = chosen["upper"].to_numpy(), live["upper"].to_numpy()
    return pd.DataFrame(
        {
            "index": chosen["index"].to_numpy(),
            "recorded": recorded,
            "live": again,
            "ratio": np.divide(again, recorded, out=np.ones_like(again), where=again != recorded),
        }
    )


def record_folder(
    root: Path, model_id: str, norm: str, attack: str, certificate: str | None = None, *, split: str = "test"
) -> Path:
    """Where a record lies: root/digits/trades/Linf/fab_paper, or root/nets.cnn/Linf/minimum_norm-crown-train."""
    parts = (attack, certificate, None if split == "test" else split)
    return root / _portable(model_id).replace(".py:", ".") / norm / "-".join(filter(None, parts))


def choose_device(device: str) -> str:
    """Resolve "auto", and refuse "cuda" where there is none.

    Raises:
        UsageError: If CUDA is asked for and absent, or the name is not a device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"Expected the device to be 'auto', 'cpu' or 'cuda', got {device!r}.")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("Expected a CUDA device, torch sees none; use device 'cpu', or 'auto' to take what is there.")
    return device


def _check_attack(attack: str, *, norm: str, effort: str, epsilon: float | None) -> None:
    """Refuse what the attack would refuse, before anything is loaded."""
    methods = MINIMUM_NORM | FIXED_BUDGET
    if attack not in methods:
        raise UnknownNameError("attack", attack, methods)
    if effort not in methods[attack].efforts:
        raise UnknownNameError(f"effort of {attack}", effort, methods[attack].efforts)
    if (attack in FIXED_BUDGET) != (epsilon is not None):
        need = "needs epsilon" if attack in FIXED_BUDGET else "finds distances: it takes no epsilon"
        raise UsageError(f"The attack {attack!r} {need}; got epsilon={epsilon}.")
    ThreatModel(norm=norm, epsilon=epsilon or 0.0)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"Expected a {name.replace('_', ' ')} of 1 or more, got {size}.")


def _portable(model_id: str) -> str:
    """Leave the folder out of a user's network, path/nets.py:cnn: the checksum of its weights identifies it."""
    return model_id.rsplit("/", 1)[-1] if ".py:" in model_id else model_id


def _finished(path: Path, settings: dict) -> bool:
    if not path.exists():
        return False
    try:
        _, about = read_shard(path)
    except (FileFormatError, ChecksumError):
        path.replace(path.with_suffix(".damaged"))
        return False
    check_settings(path, about["settings"], settings)
    return True
