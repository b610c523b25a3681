"""Networks trained to be compared: recipes under several seeds, through time, and pressed towards collapse.

``python -m margincons.studies.training_runs STUDY FOLDER`` trains and measures what is not yet there, in one thread.
The weights are not kept: a row holds their checksum, and recipe, seed and epoch train them again.
"""

import functools
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from margincons.certificates import lower_bounds
from margincons.classifier import Classifier
from margincons.cli_outcome import outcome
from margincons.cli_values import Parser, count
from margincons.data import Images, load_images
from margincons.detection import clean_accuracy, is_brittle, is_correct, robust_accuracy
from margincons.margins import input_margins
from margincons.records import read_record
from margincons.records.once import made_once
from margincons.scores import logit_margin
from margincons.statistics.metrics import auroc, kendall_tau
from margincons.studies.local_complexity import local_complexity, relu_count
from margincons.studies.neural_collapse import neural_collapse
from margincons.zoo.collapsing import collapsing
from margincons.zoo.long_training import checkpoints
from margincons.zoo.recipes import RECIPES, Recipe, train_recipe
from margincons.zoo.user import state_sha256

EPSILON = 0.1  # radius of what depends on one
ATTACK = {"norm": "Linf", "attack": "minimum_norm", "effort": "standard", "seed": 0}
CERTIFIED = {"interval": 800, "crown": 40}  # the first test images, by method; CROWN takes long
COMPLEXITY = {"radius": 0.1, "directions": 16}
BENT_AROUND = 200  # the first images of a split round which local complexity is counted


@dataclass(frozen=True, kw_only=True)
class Study:
    """Which networks are trained: by each recipe under each seed, and looked at after these epochs."""

    recipes: dict[str, Recipe]
    epochs: tuple[int, ...] = ()  # of training at a constant rate, of recipes that have an id; () for the whole recipe
    certified: bool = False  # whether certified bounds are measured


# Not `rescaled` and `masked`: they are trained as `pgd_at` and `standard` are, and differ only in what is done to
# the logits afterwards.
_TRAINED = {name: recipe for name, recipe in RECIPES.items() if name not in ("digits/rescaled", "digits/masked")}
STUDIES = {
    "seeds": Study(recipes=_TRAINED, certified=True),
    "time": Study(
        recipes={name: RECIPES[name] for name in ("digits/standard", "digits/pgd_at")},
        epochs=(0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    ),
    "collapse": Study(
        recipes={
            f"{name}+{strength:g}": replace(RECIPES[name], loss=collapsing(RECIPES[name].loss, strength))
            for name in ("digits/standard", "digits/fgsm_at")
            for strength in (0, 0.1, 1, 10)
        }
    ),
}


def measured(model: nn.Module, *, certified: bool = True) -> dict[str, Any]:
    """Measure one network on digits.

    Args:
        model: The network, in eval mode.
        certified: Whether to compute certified bounds; NaN where not.

    Returns:
        Numbers: "train_accuracy", "train_robust_accuracy" (at `EPSILON`, by the attack), "interval" and "crown" (mean
        share of the attack's bound that is certified), the fields of `NeuralCollapse` on training images, and
        "complexity" and "train_complexity" (mean share of ReLUs). Columns of the test images: "predicted",
        "logit_margin", "upper". And "weights_sha256".
    """
    train_images, test_images = (load_images("digits", split=split) for split in ("train", "test"))
    classifier = Classifier(model, test_images.inputs[:2])
    train_table, test_table = (_margins(classifier, images) for images in (train_images, test_images))
    collapse = neural_collapse(classifier.features(train_images.inputs), train_images.labels, classifier.head)
    return {
        "weights_sha256": state_sha256(model),
        "train_accuracy": clean_accuracy(train_table).value,
        "train_robust_accuracy": robust_accuracy(train_table, epsilon=EPSILON).value,
        **{method: _certified_share(model, test_table, method) if certified else np.nan for method in CERTIFIED},
        **asdict(collapse),
        "train_complexity": _complexity(model, train_images),
        "complexity": _complexity(model, test_images),
        "predicted": test_table["predicted"].to_numpy(dtype=np.int8),
        **{name: test_table[name].to_numpy(dtype=np.float32) for name in ("logit_margin", "upper")},
    }


def trained(study: str, recipe: str, seed: int, *, progress: bool = False) -> Iterator[tuple[int, nn.Module]]:
    """Train one network of a study; yield the epochs it has had and what it is then."""
    chosen = STUDIES[study]
    if chosen.epochs:
        yield from checkpoints(recipe, chosen.epochs, seed=seed, progress=progress)
    else:
        how = chosen.recipes[recipe]
        yield how.epochs, train_recipe(how, seed=seed, name=f"{recipe} seed {seed}" if progress else "")


def run(study: str, folder: str | Path, *, seeds: int = 5, progress: bool = True) -> pd.DataFrame:
    """Train and measure the networks of a study that a folder lacks; one shard per network, one row per checkpoint.

    Args:
        study: A key of `STUDIES`.
        folder: Of records; the study's lies in training/STUDY below it.
        seeds: Seeds 0, 1, .. of each recipe. A record of fewer is extended.
        progress: Whether to draw bars over epochs.

    Returns:
        The whole record.

    Raises:
        RecordError: If a shard was made with other settings.
        LockedError: If another process is writing the record.
    """
    root, settings = Path(folder) / "training" / study, settings_of(study)
    for number, (seed, recipe) in enumerate(itertools.product(range(seeds), STUDIES[study].recipes)):
        make = functools.partial(_checkpoints, number, study, recipe, seed, progress)
        made_once(root / f"shard-{number:05d}.parquet", settings, make)
    return read_record(root)


def _checkpoints(number: int, study: str, recipe: str, seed: int, progress: bool) -> pd.DataFrame:
    """Rows of one network, the number-th of a record."""
    rows, started = [], time.process_time()
    for epoch, model in trained(study, recipe, seed, progress=progress):
        row = {"recipe": recipe, "seed": seed, "epoch": epoch, "seconds": time.process_time() - started}
        rows.append(row | measured(model, certified=STUDIES[study].certified))
        started = time.process_time()  # seconds are of training alone, since the row before
    table = pd.DataFrame(rows)
    table.insert(0, "index", number * len(rows) + np.arange(len(rows)))
    return table


def settings_of(study: str) -> dict[str, Any]:
    """What identifies a study's record: data, attack, and how everything else is measured."""
    checksums = {f"{split}_sha256": load_images("digits", split=split).checksum() for split in ("train", "test")}
    return {
        "study": study,
        "data": "digits",
        **checksums,
        **ATTACK,
        "epsilon": EPSILON,
        "epochs": list(STUDIES[study].epochs),
        "certified": CERTIFIED,
        "complexity": COMPLEXITY | {"images": BENT_AROUND},
    }


def images_of(row: pd.Series) -> pd.DataFrame:
    """Unfold the test images of one row into a table as `consistency` and `detection` take it, one row per image."""
    columns = {name: row[name] for name in ("predicted", "logit_margin", "upper")}
    return pd.DataFrame({"label": load_images("digits").labels.numpy(), **columns})


def summary(record: pd.DataFrame, *, epsilon: float = EPSILON) -> pd.DataFrame:
    """Reduce each row of a study to numbers: the columns of images give way to "tau", "auroc" and accuracies.

    Args:
        record: Rows of `run`.
        epsilon: Radius of "auroc" and "robust_accuracy". "gap" is the robust accuracy on training images less that on
            test images, at the radius of the record; "auroc" is NaN where all images are brittle, or none.
    """
    rows = []
    for _, row in record.iterrows():
        table = images_of(row)
        brittle, margin = is_brittle(table, epsilon), table["logit_margin"]
        rows.append(
            {
                "tau": kendall_tau(table["upper"], margin),
                "auroc": auroc(brittle, -margin) if 0 < brittle.sum() < len(table) else np.nan,
                "accuracy": is_correct(table).mean(),
                "robust_accuracy": (is_correct(table) & ~brittle).mean(),
                "gap": row["train_robust_accuracy"] - (is_correct(table) & ~is_brittle(table, EPSILON)).mean(),
            }
        )
    kept = record.drop(columns=["predicted", "logit_margin", "upper"])
    return pd.concat([kept, pd.DataFrame(rows, index=record.index)], axis=1)


def terminal_phase(table: pd.DataFrame) -> pd.Series:
    """First checkpoint from which on a network classifies every training image correctly; NaN where there is none.

    Source: Papyan, Han and Donoho, 2020, arXiv:2008.08186, who call what follows the terminal phase of training.

    Args:
        table: One row per checkpoint, with columns "recipe", "seed", "epoch" and "train_accuracy".

    Returns:
        Epochs, indexed by recipe and seed.
    """

    def first(one: pd.DataFrame) -> float:
        one = one.sort_values("epoch")
        from_here_on = (one["train_accuracy"] == 1)[::-1].cummin()[::-1]
        return float(one["epoch"][from_here_on].min())

    return table.groupby(["recipe", "seed"], sort=False)[["epoch", "train_accuracy"]].apply(first)


def _margins(classifier: Classifier, images: Images) -> pd.DataFrame:
    """Test or training images with the columns that consistency, detection and accuracies read."""
    logits = classifier.logits(images.inputs)
    bounds = input_margins(classifier.model, images.inputs, predicted=logits.argmax(dim=1), **ATTACK)
    return pd.DataFrame(
        {
            "label": images.labels.numpy(),
            "predicted": bounds.predicted.numpy(),
            "logit_margin": logit_margin(logits).numpy(),
            "upper": bounds.upper.numpy(),
        }
    )


def _certified_share(model: nn.Module, table: pd.DataFrame, method: str) -> float:
    """Mean of lower over upper bound, over the images where an attack found something."""
    inputs = load_images("digits", n=CERTIFIED[method]).inputs
    lower = lower_bounds(model, inputs, method=method, norm=ATTACK["norm"], tolerance=1e-2).numpy()
    upper = table["upper"].to_numpy(dtype=float)[: len(lower)]
    found = np.isfinite(upper) & (upper > 0)
    return float((lower[found] / upper[found]).mean())


def _complexity(model: nn.Module, images: Images) -> float:
    """Mean share of the network's ReLUs that bend it near an image."""
    inputs = images.inputs[:BENT_AROUND]
    return float(local_complexity(model, inputs, **COMPLEXITY).double().mean()) / relu_count(model, inputs[:1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study from the command line."""
    parser = Parser(prog="margincons.studies.training_runs", description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("folder", type=Path, help="folder of records")
    parser.add_argument("--seeds", type=count, default=5, help="seeds of each recipe (default: 5)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = run(options.study, options.folder, seeds=options.seeds)
    print(f"{options.folder / 'training' / options.study}: {len(table)} networks")


if __name__ == "__main__":
    sys.exit(outcome(main, name="training_runs"))
