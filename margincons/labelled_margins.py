"""Margins to learn from: those of training or calibration images, with what the network says of these images.

Margins of test images are refused: a score that has seen the images it is judged on proves nothing.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from margincons.brief import Brief
from margincons.classifier import Classifier, Outputs
from margincons.consistency import column
from margincons.data import CHUNK, Images
from margincons.errors import LeakageError, RecordError, SharedImagesError, UsageError
from margincons.zoo import state_sha256

SPLITS = ("train", "calibration")  # the only ones to learn from


@dataclass(frozen=True, kw_only=True, repr=False)
class LabelledMargins(Brief):
    """What a score may be learned from, one row per image; made by `labelled_margins`.

    Raises:
        LeakageError: If the images are not of a split to learn from.
        UsageError: If a margin is negative, infinite or NaN.
    """

    outputs: Outputs  # features (n, d) and logits (n, k)
    margins: Tensor  # (n,), input margins on the [0, 1] pixel scale, finite
    data: str  # data set and split: "digits/train"
    left_out: int  # images without a finite margin

    def __post_init__(self) -> None:
        """Refuse images that scores are judged on, and what is no margin."""
        check_split(self.data)
        if wrong := int((~(self.margins.isfinite() & (self.margins >= 0))).sum()):
            raise UsageError(f"Expected finite margins of 0 or more to learn from, {wrong} of {len(self)} are not.")

    def __len__(self) -> int:
        """Count the images."""
        return len(self.margins)


def labelled_margins(
    classifier: Classifier, table: pd.DataFrame, images: Images, *, margin: str = "upper"
) -> LabelledMargins:
    """Pass the images of a record through the network whose margins it holds.

    Args:
        classifier: The network.
        table: A record of `measure` with ``split="train"`` or "calibration", or its first rows.
        images: The images of that record, or more of them. No others pass: the record holds their checksum.
        margin: The column that holds the input margin.

    Raises:
        LeakageError: If the record is one of test images, or does not say of which.
        RecordError: If the network's weights, or the images, are not those of the record, or it is of an attack with
            a budget, whose distances are no margins.
        MissingColumnError: If the table lacks a column.
    """
    settings = table.attrs.get("settings", {})
    check_split(settings.get("data", ""))
    if settings.get("epsilon") is not None:
        raise RecordError(
            f"Expected margins to learn from, got distances of {settings.get('attack')} within a budget of "
            f"{settings['epsilon']:.4g}; take the record of a minimum-norm attack."
        )
    check_record(table, classifier.model, images)
    margins = column(table, margin)
    known = np.isfinite(margins)
    rows = torch.from_numpy(column(table, "index")[known]).long()
    return LabelledMargins(
        outputs=classifier(images.inputs[rows]),
        margins=torch.from_numpy(margins[known]).float().to(classifier.device),
        data=settings["data"],
        left_out=int((~known).sum()),
    )


def check_record(table: pd.DataFrame, model: nn.Module, images: Images) -> None:
    """Refuse a record of another network, or of images that do not begin with its own.

    Raises:
        RecordError: If the checksum of weights or images differs.
    """
    settings = table.attrs.get("settings", {})
    if state_sha256(model) != settings.get("weights_sha256"):
        raise RecordError(
            f"Expected the network whose margins the record holds, {settings.get('model')}; got other weights."
        )
    if images.head(settings.get("images") or len(images)).checksum() != settings["data_sha256"]:
        raise RecordError(f"Expected the images that the record was measured on, {settings['data']}; got others.")


def check_disjoint(images: Images, learned: Images) -> None:
    """Refuse images that a score was fitted on, whatever their files are called.

    Args:
        images: Those that are to be calibrated on.
        learned: Those that the score was fitted on.

    Raises:
        SharedImagesError: If an image is in both, to the last bit.
    """
    known = set(_digests(learned))
    if shared := sum(digest in known for digest in _digests(images)):
        raise SharedImagesError(shared, len(images), learned.name)


def _digests(images: Images) -> list[bytes]:
    parts = (images.inputs[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return [hashlib.sha256(image.contiguous().numpy()).digest() for part in parts for image in part]


def check_split(data: str) -> None:
    """Refuse images that are not "<data set>/train" or "<data set>/calibration", nor of a file of that name.

    Raises:
        LeakageError: If the split is not one to learn from.
    """
    if data.rpartition("/")[2] not in SPLITS:
        raise LeakageError(data)
