"""Runs that hold `evade` against plain PGD: all images of a data set, the same number of gradients for both.

``python -m margincons.studies.attack_runs FOLDER`` attacks every bundled network, in about five minutes on one core,
and
``python -m margincons.studies.attack_runs FOLDER nets.py:cnn --data images.npz --radii 2/255 4/255`` networks of one's
own. Networks whose shards are there are left alone, so that an interrupted run goes on with the next.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from margincons.cli_outcome import outcome
from margincons.cli_values import Parser, number
from margincons.data import Images, load_images
from margincons.detection import is_brittle
from margincons.detector.attacks import evade, wrong_class_pgd
from margincons.errors import DegenerateError, UsageError
from margincons.passes import CountPasses
from margincons.prepare import portable_id
from margincons.records import read_record
from margincons.records.once import made_once
from margincons.statistics.intervals import estimate, share_difference
from margincons.statistics.metrics import threshold_at_tpr
from margincons.zoo import load_model, state_sha256
from margincons.zoo.bundled import bundled_index

# Those of PGD are the best on digits' calibration split; other data sets take them as they are.
SETTINGS = {"gradients": 100, "pgd_restarts": 5, "pgd_step": 2.0, "seed": 0}
RADII = (0.1, 0.15, 0.2)
BATCH_SIZE = 200


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


def run(
    folder: str | Path,
    model_ids: Sequence[str] = (),
    *,
    data: str = "digits",
    radii: Sequence[float] = RADII,
    limit: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Make the runs that a folder lacks, one shard per network, and read the whole record.

    Args:
        folder: Of the record.
        model_ids: What `load_model` takes; every bundled network unless given.
        data: What `load_images` takes.
        radii: Epsilons of the adversary, on the [0, 1] pixel scale.
        limit: The first images only; all when None.
        progress: Whether to draw a bar over networks.

    Returns:
        The rows of `both_attacks`, with "network": the name of each, without its folder.

    Raises:
        RecordError: If a shard was made with other settings.
        LockedError: If another process is writing the record.
        UsageError: If two networks have the same name once their folders are left out.
    """
    images = load_images(data, n=limit)
    models: dict[str, nn.Module] = {}
    for model_id in model_ids or bundled_index():
        if (name := portable_id(model_id)) in models:
            raise UsageError(f"Expected networks of different names in a record, {name} comes twice; rename one file.")
        models[name] = load_model(model_id)
    settings = SETTINGS | {"data": images.name, "data_sha256": images.checksum(), "norm": "Linf", "device": "cpu"}
    settings |= {"radii": list(radii), "batch_size": BATCH_SIZE}
    settings["weights_sha256"] = {name: state_sha256(model) for name, model in models.items()}
    bar = tqdm(models.items(), desc="networks", file=sys.__stderr__, disable=not progress)
    for place, (name, model) in enumerate(bar):
        make = functools.partial(_attacked, place, name, model, images, radii)
        made_once(Path(folder) / f"shard-{place:05d}.parquet", settings, make)
    return read_record(folder)


def _attacked(place: int, name: str, model: nn.Module, images: Images, radii: Sequence[float]) -> pd.DataFrame:
    """Rows of one network, the place-th of a record."""
    batches = torch.arange(len(images)).split(BATCH_SIZE)
    parts = [both_attacks(model, images.inputs[rows], indices=rows, radii=radii) for rows in batches]
    table = pd.concat(parts, ignore_index=True).assign(network=name)
    table.insert(0, "index", place * len(table) + np.arange(len(table)))
    return table


def shares_past(runs: pd.DataFrame, margins: Mapping[str, pd.DataFrame], *, epsilon: float) -> pd.DataFrame:
    """How many images either attack gets past a detector that flags 95% of the brittle ones, by network and radius.

    Shares are of the images whose recorded margin is at most the adversary's radius: from no other is an evasion known.

    Args:
        runs: From `run`.
        margins: A record of margins of the same images for each network to be judged.
        epsilon: Radius that the detector was made for, on the [0, 1] pixel scale.

    Returns:
        Columns "network", "radius", "threshold" (of the logit margin; flagged is what does not exceed it), "n" (images
        that the shares are of), "evade", "PGD" and "difference" (of the two, paired), these three with intervals.

    Raises:
        DegenerateError: If all images of a network are brittle at epsilon, or none.
    """
    rows = []
    for network, table in margins.items():
        threshold = -threshold_at_tpr(is_brittle(table, epsilon), -table["logit_margin"].to_numpy())
        for radius, part in runs[runs["network"] == network].groupby("radius"):
            near = part[part["image"].isin(table["index"][is_brittle(table, radius)])]
            ours, plain = ((near[attack] > threshold).to_numpy() for attack in ("evade", "pgd"))
            found = {"evade": estimate("accuracy", ours), "PGD": estimate("accuracy", plain)}
            about = {"network": network, "radius": radius, "threshold": threshold, "n": len(near)}
            rows.append(about | found | {"difference": share_difference(ours, plain)})
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make all runs from the command line."""
    parser = Parser(prog="margincons.studies.attack_runs", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the record")
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="ids, or path/to/file.py:function (default: bundled)"
    )
    parser.add_argument("--data", default="digits", help="digits (default), another data set, or an .npz")
    parser.add_argument(
        "--radii", nargs="+", type=number, default=RADII, help="such as 2/255 (default: those of digits)"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = run(given.folder, given.models, data=given.data, radii=given.radii)
    print(f"{given.folder}: {len(runs)} images, by network and radius")


if __name__ == "__main__":
    sys.exit(outcome(main, name="attack_runs"))
