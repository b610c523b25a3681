"""Detectors on disk: thresholds and scorer in one file, bound to the network by a checksum and by a probe.

The checksum covers weights, not code: a network whose code divides its logits by 2 has the same weights. So the file
keeps the logits of two fixed random images as well, and who loads it must give them again.
"""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from margincons.checks import SPREAD
from margincons.classifier import Classifier, as_taken
from margincons.detector.scorer import Scorer, load_scorer
from margincons.detector.thresholds import Thresholds
from margincons.errors import FileFormatError, MarginError, OtherNetworkError, UsageError
from margincons.records.atomic import check_target
from margincons.records.sealed import read_sealed, write_sealed
from margincons.zoo.user import state_sha256

VERSION = 1
TOLERANCE = 1e-2  # of the largest logit: other devices and number formats stay below it
_REAL = ("flag", "alarm")  # thresholds, kept as tensors: they may be infinite, which JSON does not know


def write_detector(
    path: str | Path,
    classifier: Classifier,
    scorer: Scorer,
    thresholds: Thresholds,
    *,
    norm: str,
    image_shape: tuple[int, int, int],
) -> None:
    """Write a detector's parts, the network left out.

    Raises:
        UsageError: If no file can be written there, or the network is randomised: it could not be recognised again.
    """
    check_target(path, "the detector")
    check_repeatable(classifier.model, image_shape)
    known = asdict(thresholds)
    about = {
        "weights_sha256": state_sha256(classifier.model),
        "norm": norm,
        "image_shape": list(image_shape),
        "score": scorer.name,
        "inputs": "features" if scorer.needs_features else "logits",
        "thresholds": {name: value for name, value in known.items() if name not in _REAL},
    }
    tensors = {f"scorer.{name}": value for name, value in scorer.state_dict().items()}
    tensors |= {name: torch.tensor(known[name], dtype=torch.float64) for name in _REAL if known[name] is not None}
    tensors["probe"] = _probed(classifier.model, _probe(classifier.model, image_shape))
    write_sealed(path, "detector", version=VERSION, about=about, tensors=tensors)


def read_detector(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Read a detector's parts and bind them to its network, by the names of `margincons.detector.Detector`'s fields.

    Raises:
        OtherNetworkError: If the network's weights, or its logits on the probe, are not those of the calibration.
        MissingFileError: If there is no such file.
        FileFormatError: If it holds something else.
        ChecksumError: If its content has changed.
    """
    about, tensors = read_sealed(path, "detector", version=VERSION)
    try:
        return _bound(path, model, about, tensors)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise FileFormatError(path, "a whole detector", f"{type(error).__name__}: {error}") from None


def _bound(path: str | Path, model: nn.Module, about: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if (found := state_sha256(model)) != (wanted := about["weights_sha256"]):
        raise OtherNetworkError(path, f"its weights have SHA-256 {found[:16]}..., not {wanted[:16]}...")
    shape = tuple(about["image_shape"])
    probe = _probe(model, shape)
    try:
        classifier = Classifier(model, probe)
    except MarginError as error:
        raise OtherNetworkError(path, f"it has those weights, but {error}".rstrip(".")) from error
    logits, kept = _probed(model, probe).cpu().double(), tensors["probe"].double()
    if logits.shape != kept.shape:
        raise OtherNetworkError(path, f"it has those weights, but {logits.shape[1]} logits, not {kept.shape[1]}")
    off = (logits - kept).abs().max()
    if not off <= TOLERANCE * kept.abs().max():
        cause = "randomness in its forward pass" if _spread(model, probe) > SPREAD else "other code"
        raise OtherNetworkError(path, f"it has those weights, but its logits differ, by up to {off:.2g}: {cause}")
    state = {name.removeprefix("scorer."): value for name, value in tensors.items() if name.startswith("scorer.")}
    real = {name: float(tensors[name]) if name in tensors else None for name in _REAL}
    known = {field.name: about["thresholds"][field.name] for field in fields(Thresholds) if field.name not in _REAL}
    return {
        "classifier": classifier,
        "scorer": load_scorer(about["score"], about["inputs"], state, classifier),
        "thresholds": Thresholds(**known, **real),
        "norm": about["norm"],
        "image_shape": shape,
    }


def check_repeatable(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Refuse a randomised network, in eval mode: its logits on the probe would not come again when a file is loaded.

    Raises:
        UsageError: If two passes over the probe differ.
    """
    if (spread := _spread(model, _probe(model, image_shape))) > SPREAD:
        raise UsageError(
            f"Expected a network that gives the same logits twice, two passes differ by up to {spread:.2g} of the "
            "largest: a detector's file knows its network by its logits, so it keeps none of a randomised network."
        )


def _spread(model: nn.Module, probe: Tensor) -> float:
    """Largest difference between the logits of two passes, as a share of the largest logit."""
    first, second = _probed(model, probe), _probed(model, probe)
    return ((second - first).abs().max() / first.abs().max().clamp_min(1e-12)).item()


def _probe(model: nn.Module, image_shape: tuple[int, int, int]) -> Tensor:
    """Two random images (2, c, h, w), always the same, as the network takes them."""
    return as_taken(torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0)), model)


@torch.no_grad()
def _probed(model: nn.Module, probe: Tensor) -> Tensor:
    return model(probe)
