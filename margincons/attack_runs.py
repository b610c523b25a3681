"""Runs that hold `evade` against plain PGD: every bundled network, all test images, the same number of gradients.

``python -m margincons.attack_runs FOLDER`` writes the record that the book shows, in about five minutes on one core;
networks whose shards are there are left alone, so that an interrupted run goes on with the next.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from margincons.data import load_images
from margincons.detector_attacks import evade, wrong_class_pgd
from margincons.errors import DegenerateError
from margincons.passes import CountPasses
from margincons.records import check_settings, provenance, read_record, read_shard, write_shard
from margincons.zoo import load_model
from margincons.zoo.bundled import bundled_index

RECORD = "detector_attacks/digits"
SETTINGS = {"gradients": 100, "pgd_restarts": 5, "pgd_step": 2.0, "seed": 0}  # PGD's: best on the calibration split
RADII = (0.1, 0.15, 0.2)


def both_attacks(model: nn.Module, inputs: Tensor, *, indices: Tensor, radii: Sequence[float] = RADII) -> pd.DataFrame:
    """Wrong-class margins that both attacks reach on the same images with the same number of gradients.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        inputs: Images (n, c, h, w).
        indices: Each image's place in its data set, (n,).
        radii: Epsilons, on the [0, 1] pixel scale.

    Returns:
        One row per image and radius: "image", "radius", "evade" and "pgd" (logits; minus infinity where no class was
        reached), "evade_gradients" and "pgd_gradients" (backward passes per image, as the network counts them).

    Raises:
        DegenerateError: If `evade` took more gradients than PGD.
    """
    counted, tables = CountPasses(model), []
    for radius in radii:
        common = {"epsilon": radius, "gradients": SETTINGS["gradients"], "seed": SETTINGS["seed"], "indices": indices}
        ours, spent = evade(counted, inputs, **common), counted.backward_images
        plain = wrong_class_pgd(
            counted, inputs, restarts=SETTINGS["pgd_restarts"], step_size=SETTINGS["pgd_step"], **common
        )
        theirs, counted.backward_images = counted.backward_images - spent, 0
        if spent > theirs:
            raise DegenerateError("A comparison", f"evade took {spent} gradients, PGD {theirs}")
        columns = {
            "image": indices.numpy(),
            "radius": radius,
            "evade": ours.scores.numpy(),
            "pgd": plain.scores.numpy(),
        }
        spending = {"evade_gradients": spent / len(inputs), "pgd_gradients": theirs / len(inputs)}
        tables.append(pd.DataFrame(columns | spending))
    return pd.concat(tables, ignore_index=True)


def run(folder: str | Path, *, limit: int | None = None, progress: bool = True) -> pd.DataFrame:
    """Make the runs that a folder lacks, one shard per network, and read the whole record.

    Args:
        folder: Of the record.
        limit: The first test images only; all when None.
        progress: Whether to draw a bar over networks.

    Raises:
        RecordError: If a shard was made with other settings.
    """
    images = load_images("digits", n=limit)
    settings = SETTINGS | {"data": "digits/test", "data_sha256": images.checksum(), "norm": "Linf", "device": "cpu"}
    settings["weights_sha256"] = {model_id: about["sha256"] for model_id, about in bundled_index().items()}
    bar = tqdm(list(bundled_index()), desc="networks", file=sys.__stderr__, disable=not progress)
    for number, model_id in enumerate(bar):
        path = Path(folder) / f"shard-{number:05d}.parquet"
        if path.is_file():
            check_settings(path, read_shard(path)[1]["settings"], settings)
            continue
        made = provenance()
        table = both_attacks(load_model(model_id), images.inputs, indices=torch.arange(len(images)))
        table = table.assign(network=model_id)
        table.insert(0, "index", number * len(table) + np.arange(len(table)))
        write_shard(path, table, settings, made)
    return read_record(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make all runs from the command line."""
    parser = argparse.ArgumentParser(prog="margincons.attack_runs", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the record")
    folder = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    print(f"{folder}: {len(run(folder))} images, by network and radius")


if __name__ == "__main__":
    main()
