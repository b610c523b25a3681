"""A detector from names: a network, its images, and margins that a record holds or that are measured first."""

from pathlib import Path

import torch

from margincons.classifier import Classifier
from margincons.conformal import conformal_rank
from margincons.data import load_images
from margincons.detector import Detector
from margincons.devices import choose_device
from margincons.errors import UsageError
from margincons.labelled_margins import check_record
from margincons.measure import measure, record_folder
from margincons.records import read_record
from margincons.scorer import make_scorer
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
    record: str | None = None,
    norm: str = "Linf",
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
        score: A name of `margincons.scores.SCORES`.
        record: A folder or the name of a shipped record that holds the margins of these images; its norm is taken.
        norm: Norm of margins that are measured here.
        attack: Minimum-norm attack that measures them.
        effort: "fast", "standard", "fine" or "exhaustive".
        records: Folder to measure into, resumably.
        split: Split of the data set: never "train".
        limit: Only the first images.
        seed: Fixes the attack's random starts.
        device: "auto", "cpu" or "cuda".
        download: Whether checkpoints and CIFAR may be downloaded.

    Raises:
        UsageError: If the images are those that the network was trained on.
        RecordError: If the record is of another network, or of other images.
        MarginError: What `measure` and `Detector.calibrate` refuse.
    """
    if split == "train":
        raise UsageError(
            "Expected calibration images that the network was not trained on, got the split 'train': margins are "
            "larger there, and thresholds found on them promise nothing on new images."
        )
    ThreatModel(norm=norm, epsilon=epsilon)
    for rate in (miss_rate, false_alarm_rate):
        if rate is not None:
            conformal_rank(1, rate)  # what cannot be meant is refused before hours of measuring
    model, images = load_model(model_id, download=download), load_images(data, split=split, n=limit, download=download)
    model = model.to(choose_device(device))
    make_scorer(score, Classifier(model, images.inputs[:2]), norm=norm)
    if record is None:
        out = record_folder(Path(records), model_id, norm, attack, split=split)
        options = {"norm": norm, "attack": attack, "effort": effort, "seed": seed, "out": out, "split": split}
        table = measure(model_id, data, limit=limit, device=device, download=download, **options)
    else:
        table = read_record(record).head(len(images))
        check_record(table, model, load_images(data, split=split, download=download))
        norm = table.attrs["settings"].get("norm", norm)
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
