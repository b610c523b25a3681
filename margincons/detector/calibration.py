"""A detector from names: a network, its images, and margins that a record holds or that are measured first."""

from pathlib import Path

import pandas as pd
import torch

from margincons.classifier import Classifier
from margincons.data import Images, load_images
from margincons.detection import check_budget
from margincons.detector import Detector
from margincons.detector.files import check_repeatable
from margincons.detector.scorer import make_scorer
from margincons.devices import choose_device
from margincons.errors import RecordError, UsageError
from margincons.labelled_margins import check_disjoint, check_record, check_split, labelled_margins
from margincons.margins import FIXED_BUDGET, MINIMUM_NORM
from margincons.measure import measure, record_folder
from margincons.pseudo_margin import PseudoMargin, fit_pseudo_margin
from margincons.records import read_record
from margincons.scores import LEARNED
from margincons.statistics.conformal import conformal_rank
from margincons.threat import ThreatModel
from margincons.zoo import load_model


def calibrate_detector(
    model_id: str,
    data: str,
    *,
    epsilon: float,
    miss_rate: float = 0.1,
    false_alarm_rate: float | None = None,
    score: str = "logit_margin",
    train: str | None = None,
    train_data: str | None = None,
    record: str | None = None,
    norm: str | None = None,
    attack: str = "minimum_norm",
    effort: str = "standard",
    records: str | Path = "runs",
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    download: bool = False,
) -> Detector:
    """Calibrate a detector on images whose margins are in a record, or are measured into one.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes.
        epsilon: Brittle means a margin <= epsilon, on the [0, 1] pixel scale.
        miss_rate: Promised share of brittle images that go unflagged.
        false_alarm_rate: Promised share of robust images that are called brittle, or None.
        score: A name of `margincons.scores.SCORES`, or "pseudo_margin", which is fitted first.
        train: Record that holds margins to fit the pseudo-margin to, of other images: those of a split "train", or
            "calibration" where another is calibrated on. It reads features where the network has them, else logits.
        train_data: What `load_images` takes for the images of that record; None where the record's own name says it,
            which that of a file or folder of one's own does not.
        record: A folder or the name of a shipped record that holds the margins of these images; its norm is taken.
            Of an attack with a budget it must be the record at epsilon; brittle then means found by that attack.
        norm: "Linf", "L2" or "L1"; None is the record's, and Linf where margins are measured here.
        attack: Minimum-norm attack that measures them, without a record.
        effort: "fast", "standard", "fine" or "exhaustive", likewise.
        records: Folder to measure into, resumably, likewise.
        split: Split of the data set: never "train".
        limit: Only the first images; of a record, the rows that are of these.
        seed: Fixes the attack's random starts, and the fit.
        device: "auto", "cpu" or "cuda".
        download: Whether checkpoints and CIFAR may be downloaded.

    Raises:
        UsageError: If the images are those that the network was trained on, or a record to fit to is missing, or
            given to a score that is not learned; if margins would have to be measured by an attack with a budget; or if
            the network is randomised, so that no file could know it.
        RecordError: If a record is of another network, of other images, in another norm than ``norm`` or the one to
            calibrate on, or of an attack whose budget is not epsilon.
        LeakageError: If the record to fit to is one of test images.
        SharedImagesError: If the score would be fitted on an image that is calibrated on.
        MarginError: What `measure` and `Detector.calibrate` refuse.
    """
    if split == "train":
        raise UsageError(
            "Expected calibration images that the network was not trained on, got the split 'train': margins are "
            "larger there, and thresholds found on them promise nothing on new images."
        )
    if (score in LEARNED) != (train is not None):
        told = "is learned: name a record of training images" if train is None else "is not learned: it takes no record"
        raise UsageError(f"The score {score!r} {told} (train, --train) to fit it to.")
    table = None if record is None else read_record(record)
    if table is None and attack in FIXED_BUDGET:
        raise UsageError(
            f"Expected an attack that finds margins to calibrate on ({', '.join(MINIMUM_NORM)}), got {attack!r}, which "
            f"says only who is brittle at one epsilon; measure with it at {epsilon:.4g} and give the record (--record)."
        )
    norm = _norm(table, norm)
    ThreatModel(norm=norm, epsilon=epsilon)
    for rate in (miss_rate, false_alarm_rate):
        if rate is not None:
            conformal_rank(1, rate)  # what cannot be meant is refused before hours of measuring
    model, images = load_model(model_id, download=download), load_images(data, split=split, n=limit, download=download)
    model = model.to(choose_device(device))
    classifier = Classifier(model, images.inputs[:2])
    check_repeatable(classifier.model, tuple(images.inputs[:1].shape[1:]))
    if table is not None:
        table = table[table["index"] < len(images)]
        check_record(table, model, load_images(data, split=split, download=download))
        check_budget(table, epsilon)
    if train is not None:
        score = _fitted(classifier, train, train_data, images, norm=norm, seed=seed, download=download)
    make_scorer(score, classifier, norm=norm)  # what it needs, the network has: known before hours of measuring, too
    if table is None:
        out = record_folder(Path(records), model_id, norm, attack, split=split)
        options = {"norm": norm, "attack": attack, "effort": effort, "seed": seed, "out": out, "split": split}
        table = measure(model_id, data, limit=limit, device=device, download=download, **options)
    return Detector.calibrate(
        model,
        images.inputs[torch.tensor(table["index"].tolist())],
        margins=table["upper"].to_numpy(),
        epsilon=epsilon,
        miss_rate=miss_rate,
        false_alarm_rate=false_alarm_rate,
        score=score,
        norm=norm,
    )


def _norm(table: pd.DataFrame | None, asked: str | None) -> str:
    """The norm asked for, which must be that of the record where there is one."""
    if table is None:
        return asked or "Linf"
    recorded = table.attrs.get("settings", {}).get("norm", "Linf")
    if asked not in (None, recorded):
        raise RecordError(f"Expected a record of margins in {asked}, got one in {recorded}.")
    return recorded


def _fitted(
    classifier: Classifier, train: str, data: str | None, judged: Images, *, norm: str, seed: int, download: bool
) -> PseudoMargin:
    table = read_record(train)
    settings = table.attrs.get("settings", {})
    check_split(settings.get("data", ""))
    if settings.get("norm") != norm:
        raise RecordError(
            f"Expected margins in {norm} to fit to, as those to calibrate on, got {settings.get('norm')}."
        )
    name, slash, split = settings["data"].rpartition("/")
    if not (slash or data):
        raise UsageError(
            f"Expected the images of {train} to be named (train_data, --train-data): it says that they were called "
            f"{settings['data']}, not where they are."
        )
    images = load_images(data or name, split=split if data in (None, name) else "test", download=download)
    images = images.head(settings.get("images") or len(images))
    labelled = labelled_margins(classifier, table, images)
    check_disjoint(judged, images)
    return fit_pseudo_margin(labelled, inputs="features" if classifier.head else "logits", seed=seed)
