"""Many pseudo-margins of one network, each judged on test images: what to learn from, how, and from how many."""

import contextlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from margincons.classifier import Classifier, Outputs
from margincons.consistency import consistency
from margincons.data import load_images
from margincons.detection import detection
from margincons.devices import choose_device
from margincons.errors import DegenerateError
from margincons.labelled_margins import LabelledMargins, check_split, labelled_margins
from margincons.measure import record_folder
from margincons.pseudo_margin import PseudoMargin, fit_pseudo_margin
from margincons.recorded import obtain
from margincons.records import check_settings, read_record
from margincons.records.once import made_once
from margincons.threat import ThreatModel
from margincons.zoo import load_model

FEWER = (25, 50, 100, 200, 400)  # labelled margins of the learning curve, before all of them
SIZE = {"width": 128, "depth": 3}
PAPER_SIZE = {"width": 512, "depth": 5}
JUDGED = ("tau", "auroc", "aupr", "fpr95")

Design = dict[str, str | int]  # inputs, target, loss, width, depth, split, n_fit, seed


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One network's labelled margins by split, and the test images that every fit is judged on."""

    labelled: dict[str, LabelledMargins]
    outputs: Outputs  # of the test images
    table: pd.DataFrame  # their record


def lesson(
    model_id: str,
    data: str,
    *,
    splits: Sequence[str] = ("train",),
    n_images: int | None = None,
    n_fit: int | None = None,
    records: str = "",
    device: str = "auto",
    **options: str | int,
) -> Lesson:
    """Gather margins to learn from and the test images' record, as `obtain` has or measures them.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes.
        splits: Splits to learn from, or files of one's own named train.npz or calibration.npz.
        n_images: The first test images; all when None.
        n_fit: The first images of each split to learn from; all when None.
        records: "" for the shipped records; else the folder to measure into.
        device: "cpu", "cuda" or "auto".
        options: Further options of `obtain`: "norm", "attack", "effort", "seed".

    Raises:
        LeakageError: If a split is not one to learn from.
    """
    sources = [_source(data, split) for split in splits]
    for name, (own, split) in zip(splits, sources, strict=True):
        check_split(Path(own).stem if name == own else f"{own}/{split}")  # before anything is measured
    options = options | {"device": device, "records": records}
    table = obtain(model_id, data, limit=n_images, **options)
    images = load_images(data, n=len(table))
    classifier = Classifier(load_model(model_id).to(choose_device(device)), images.inputs[:2])
    labelled = {}
    for name, (own, split) in zip(splits, sources, strict=True):
        folder = str(Path(records) / Path(own).stem) if name == own else records  # one folder holds one data set
        learn = obtain(model_id, own, split=split, limit=n_fit, **options | {"records": folder})
        taught = load_images(own, split=split, n=learn.attrs["settings"].get("images"))
        labelled[name] = labelled_margins(classifier, learn, taught)
    return Lesson(labelled=labelled, outputs=classifier(images.inputs[: len(table)]), table=table)


def _source(data: str, split: str) -> tuple[str, str]:
    """A split of the data set, or a file of one's own, which has one split."""
    return (split, "test") if split.endswith(".npz") else (data, split)


def designs(lesson: Lesson, *, seeds: int = 5) -> list[Design]:
    """List what is fitted: every input, target and loss; then from fewer images, from another split, a larger network.

    Args:
        lesson: Its first split is the one that most fits learn from.
        seeds: How often each is fitted.
    """
    inputs = ("features", "logits") if lesson.outputs.features is not None else ("logits",)
    ways = [{"target": target, "loss": "mse"} for target in ("max", "sqrt", "rank")]
    ways.append({"target": "rank", "loss": "ranking"})
    first = next(iter(lesson.labelled))
    base: Design = {"inputs": inputs[0], **ways[0], **SIZE, "split": first, "n_fit": len(lesson.labelled[first])}
    chosen = [base | {"inputs": name} | way for name in inputs for way in ways]
    for split, labelled in lesson.labelled.items():
        sizes = [n for n in FEWER if n < len(labelled)] + [len(labelled)]
        chosen += [base | {"split": split, "n_fit": n} for n in sizes]
    chosen.append(base | PAPER_SIZE)
    once = [design for place, design in enumerate(chosen) if design not in chosen[:place]]
    return [design | {"seed": seed} for design, seed in itertools.product(once, range(seeds))]


def fit(lesson: Lesson, design: Design) -> PseudoMargin:
    """Fit one pseudo-margin as a design says."""
    options = {name: design[name] for name in ("inputs", "target", "loss", "width", "depth", "seed")}
    return fit_pseudo_margin(lesson.labelled[design["split"]], n=design["n_fit"], **options)


def scored(lesson: Lesson, fitted: PseudoMargin) -> pd.DataFrame:
    """Record of the test images with a column "pseudo_margin", for `consistency` and `detection`."""
    return lesson.table.assign(pseudo_margin=fitted(lesson.outputs).cpu().numpy())


def judge(lesson: Lesson, design: Design, *, epsilon: float) -> dict[str, str | int | float]:
    """Fit once and hold the outcome against the test images' margins: a row of the record.

    A statistic that is not defined, such as an AUROC where no image is brittle, is NaN.
    """
    fitted = fit(lesson, design)
    table = scored(lesson, fitted)
    row = design | {"epochs": fitted.epochs, "held_out_loss": fitted.held_out_loss} | dict.fromkeys(JUDGED, np.nan)
    with contextlib.suppress(DegenerateError):
        row["tau"] = consistency(table, score="pseudo_margin", replicates=50).tau.value
    with contextlib.suppress(DegenerateError):
        found = detection(table, epsilon=epsilon, score="pseudo_margin", replicates=50)
        row |= {name: getattr(found, name).value for name in JUDGED[1:]}
    return row


def obtain_fits(
    model_id: str,
    data: str,
    *,
    norm: str,
    epsilon: float,
    attack: str = "minimum_norm",
    records: str = "",
    out: str = "",
    splits: Sequence[str] = ("train",),
    seeds: int = 5,
    progress: bool = True,
    **options: str | int | None,
) -> pd.DataFrame:
    """Take the shipped fits of a network, or fit and judge all `designs`; one row per fit.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes.
        norm: "Linf", "L2" or "L1".
        epsilon: Brittle means margin <= epsilon, on the [0, 1] pixel scale.
        attack: Name of the attack that measured the margins.
        records: "" for the shipped margins; else the folder of records to measure into.
        out: Folder for the fits; ``records`` when "". Where both are "" the shipped fits are taken.
        splits: Splits to learn from; most fits learn from the first.
        seeds: Seeds per design.
        progress: Whether to draw a bar on stderr.
        options: Further options of `lesson`.

    Raises:
        RecordError: If the fits on disk, or those shipped, were made with other settings; the latter are of all images.
        LockedError: If another process is making them.
        UsageError: If epsilon is not on the [0, 1] pixel scale.
    """
    ThreatModel(norm=norm, epsilon=epsilon)  # refuses 8 for 8/255 before anything is measured or fitted
    root = Path(out or records) / "pseudo_margin"
    path = record_folder(root, model_id, norm, attack) / "shard-00000.parquet"
    if not (out or records):
        table, plain = read_record(path.parent.as_posix()), {"n_images": None, "n_fit": None, "seed": 0}
        asked = {"data": f"{data}/test", "epsilon": epsilon, "seeds": seeds, "splits": list(splits)}
        asked |= {"effort": "standard"} | plain | {name: one for name, one in options.items() if name != "device"}
        check_settings(path.parent, table.attrs["settings"] | plain, table.attrs["settings"] | asked)
        return table
    splits = list(splits)
    found = lesson(model_id, data, norm=norm, attack=attack, records=records, splits=splits, **options)
    margins = found.table.attrs["settings"]
    settings = {name: margins[name] for name in ("model", "weights_sha256", "data", "data_sha256", "norm", "attack")}
    settings |= {"effort": margins["effort"], "seed": margins["seed"], "images": len(found.table)}
    settings |= {"epsilon": epsilon, "splits": splits, "seeds": seeds}
    settings |= {"labelled": {split: len(labelled) for split, labelled in found.labelled.items()}}

    def make() -> pd.DataFrame:
        todo = tqdm(designs(found, seeds=seeds), desc=f"{model_id} fits", disable=not progress, file=sys.__stderr__)
        return pd.DataFrame([judge(found, design, epsilon=epsilon) for design in todo]).reset_index(names="index")

    made_once(path, settings, make)
    return read_record(path.parent)


def of_design(fits: pd.DataFrame, **wanted: str | int) -> pd.DataFrame:
    """Fits of one design, a row per seed; what is not named is as in the first design of the table."""
    names = ["inputs", "target", "loss", "width", "depth", "split", "n_fit"]
    design = fits[names].iloc[0].to_dict() | wanted
    return fits[(fits[names] == pd.Series(design)[names]).all(axis=1)]
