"""Measuring: a network, images and a threat go in, a record comes out. Knows devices, batches, shards, resuming."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from margincons.classifier import Classifier
from margincons.data import Images, load_images
from margincons.errors import ChecksumError, FileFormatError, UsageError
from margincons.margins import FIXED_BUDGET, MarginBounds, attack_within, input_margins
from margincons.records import check_settings, provenance, read_record, read_shard, write_shard
from margincons.scores import all_scores
from margincons.threat import vector_norm
from margincons.zoo import load_model, state_sha256


def measure(
    model_id: str,
    data: str,
    *,
    norm: str = "Linf",
    attack: str = "fab_restarts",
    effort: str = "standard",
    out: str | Path,
    epsilon: float | None = None,
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
        UsageError: If epsilon is given to an attack without a budget, or missing from one with a budget.
    """
    _check_budget(attack, epsilon)
    device = choose_device(device)
    images = load_images(data, n=limit, download=download)
    model = load_model(model_id, download=download).to(device)
    classifier = Classifier(model, images.inputs[:2])
    out = Path(out)
    settings = {
        "model": _portable(model_id),
        "weights_sha256": state_sha256(model),
        "data": images.name,
        "data_sha256": images.checksum(),
        "decoding": images.decoding,
        "norm": norm,
        "attack": attack,
        "effort": effort,
        "epsilon": epsilon,
        "seed": seed,
        "batch_size": batch_size,
        "shard_size": shard_size,
        "device": device,
    }
    made = provenance()
    with tqdm(total=len(images), desc=f"{model_id} {attack}", unit="image", disable=not progress) as bar:
        for number, rows in enumerate(torch.arange(len(images)).split(shard_size)):
            path = out / f"shard-{number:05d}.parquet"
            if not _finished(path, settings):
                started = time.perf_counter()
                table = pd.concat(
                    [_measure_batch(classifier, images, part, settings) for part in rows.split(batch_size)]
                )
                write_shard(path, table, settings, made | {"seconds": round(time.perf_counter() - started, 2)})
            bar.update(len(rows))
    return read_record(out)


def measure_images(
    model: nn.Module,
    images: Images,
    *,
    norm: str = "Linf",
    attack: str = "fab_restarts",
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
        UsageError: If epsilon is given to an attack without a budget, or missing from one with a budget.
    """
    _check_budget(attack, epsilon)
    classifier = Classifier(model, images.inputs[:2])
    settings = {"norm": norm, "attack": attack, "effort": effort, "epsilon": epsilon, "seed": seed}
    parts = torch.arange(len(images)).split(batch_size)
    return pd.concat([_measure_batch(classifier, images, part, settings) for part in parts], ignore_index=True)


def obtain(model_id: str, data: str, *, norm: str, attack: str, records: str, **options: Any) -> pd.DataFrame:
    """Take a record that ships with the package, or measure it into a folder of one's own: what pages call.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes.
        norm: "Linf", "L2" or "L1".
        attack: Name of the attack.
        records: "" for the shipped records; else the folder of records to resume and to extend.
        options: Further options of `measure`. For a shipped record, only ``limit`` counts.
    """
    if records:
        out = record_folder(Path(records), model_id, norm, attack)
        return measure(model_id, data, norm=norm, attack=attack, out=out, **options)
    table = read_record(f"{model_id}/{norm}/{attack}")
    return table.head(options.get("limit") or len(table))


def measure_again(table: pd.DataFrame, rows: Sequence[int]) -> pd.DataFrame:
    """Measure some rows of a record anew, with the record's own settings, on this machine.

    Args:
        table: A record of a network and data set that have names, such as the shipped ones.
        rows: Which rows of the table.

    Returns:
        Columns "index", "recorded", "live" (input margins) and "ratio" (live over recorded), one row per image.
    """
    settings = table.attrs["settings"]
    images = load_images(settings["data"].split("/")[0])
    classifier = Classifier(load_model(settings["model"]), images.inputs[:2])
    chosen = table.iloc[list(rows)]
    live = _measure_batch(classifier, images, torch.as_tensor(chosen["index"].to_numpy()), settings)
    recorded = chosen["upper"].to_numpy()
    return pd.DataFrame(
        {
            "index": chosen["index"].to_numpy(),
            "recorded": recorded,
            "live": live["upper"].to_numpy(),
            "ratio": live["upper"].to_numpy() / recorded,
        }
    )


def record_folder(root: Path, model_id: str, norm: str, attack: str) -> Path:
    """Where a record lies among others: root/digits/trades/Linf/fab_paper, root/nets.cnn/Linf/fab_paper."""
    return root / _portable(model_id).replace(".py:", ".") / norm / attack


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


def _check_budget(attack: str, epsilon: float | None) -> None:
    if (attack in FIXED_BUDGET) != (epsilon is not None):
        need = "needs epsilon" if attack in FIXED_BUDGET else "finds distances: it takes no epsilon"
        raise UsageError(f"The attack {attack!r} {need}; got epsilon={epsilon}.")


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


def _measure_batch(classifier: Classifier, images: Images, rows: Tensor, settings: dict) -> pd.DataFrame:
    inputs = images.inputs[rows].to(classifier.device)
    outputs = classifier(inputs, batch_size=len(inputs))
    options = {key: settings[key] for key in ("norm", "attack", "effort", "seed")}
    if settings["epsilon"] is None:
        bounds = input_margins(classifier.model, inputs, indices=rows, **options)
    else:
        bounds = attack_within(classifier.model, inputs, indices=rows, epsilon=settings["epsilon"], **options)
    scores = all_scores(outputs, classifier.head, norm=settings["norm"])
    return pd.DataFrame(
        {
            "index": rows.numpy(),
            "label": images.labels[rows].numpy(),
            "predicted": bounds.predicted.cpu().numpy(),
            **{name: score.cpu().numpy() for name, score in scores.items()},
            "upper": bounds.upper.cpu().numpy(),
            "success": bounds.success.cpu().numpy(),
            "adversarial_label": bounds.adversarial_label.cpu().numpy(),
            "feature_distance": _feature_distance(classifier, outputs.features, bounds, settings["norm"]),
            "forward_passes": bounds.forward_passes.numpy(),
            "backward_passes": bounds.backward_passes.numpy(),
        }
    )


def _feature_distance(classifier: Classifier, clean: Tensor | None, bounds: MarginBounds, norm: str) -> np.ndarray:
    """Distance the features travel to the adversarial image; NaN where there is no head or no such image."""
    if clean is None:
        return torch.full_like(bounds.upper, torch.nan).cpu().numpy()
    moved = classifier.features(bounds.adversarial, batch_size=len(clean))
    return torch.where(bounds.success, vector_norm(moved - clean, norm), torch.nan).cpu().numpy()
