"""Runs that hold `evade` against plain PGD: every bundled network, all test images, the same number of gradients.

``python -m margincons.attack_runs FOLDER`` writes the record that the book shows, in about five minutes on one core.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from margincons.data import load_images
from margincons.detector_attacks import evade, wrong_class_pgd
from margincons.errors import DegenerateError
from margincons.passes import CountPasses
from margincons.records import provenance, write_shard
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


def main(folder: str) -> None:
    """Make all runs and write their record."""
    torch.set_num_threads(1)
    made, images = provenance(), load_images("digits")
    indices, tables = torch.arange(len(images)), []
    for model_id in tqdm(list(bundled_index()), desc="networks", file=sys.__stderr__):
        tables.append(both_attacks(load_model(model_id), images.inputs, indices=indices).assign(network=model_id))
    table = pd.concat(tables, ignore_index=True).rename_axis("index").reset_index()
    settings = SETTINGS | {"data": "digits/test", "data_sha256": images.checksum(), "norm": "Linf", "device": "cpu"}
    settings["weights_sha256"] = {model_id: about["sha256"] for model_id, about in bundled_index().items()}
    write_shard(Path(folder) / "shard-00000.parquet", table, settings, made)


if __name__ == "__main__":
    main(sys.argv[1])
