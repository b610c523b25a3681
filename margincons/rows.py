"""One batch of images in, one row per image out: scores, bounds, certificates, and what they cost."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from margincons.certificates import exact_margins, lower_bounds
from margincons.classifier import Classifier
from margincons.data import Images
from margincons.margins import MarginBounds, attack_within, input_margins
from margincons.recall import Recalling
from margincons.scores import all_scores
from margincons.threat import vector_norm

CERTIFICATES = ("interval", "crown", "exact")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is known about the images of one batch."""

    columns: dict[str, np.ndarray]  # (n,) each; distances in the norm asked for, on the [0, 1] pixel scale
    adversarial: Tensor  # (n, c, h, w), on the network's device; the clean image where nothing was found

    @property
    def table(self) -> pd.DataFrame:
        """One row per image."""
        return pd.DataFrame(self.columns)


def measure_batch(classifier: Classifier, images: Images, rows: Tensor, settings: dict[str, Any]) -> Batch:
    """Measure one batch.

    Args:
        classifier: The network, on its device.
        images: The whole data set.
        rows: Which of its images, (n,).
        settings: "norm", "attack", "effort", "seed", "epsilon"; "certificate" and "time_limit" where wanted.
    """
    inputs = images.inputs[rows].to(classifier.device)
    outputs = classifier(inputs, batch_size=len(inputs))
    options = {key: settings[key] for key in ("norm", "attack", "effort", "seed")} | {"predicted": outputs.predicted}
    model = Recalling(classifier, inputs, outputs)
    if settings["epsilon"] is None:
        bounds = input_margins(model, inputs, indices=rows, **options)
    else:
        bounds = attack_within(model, inputs, indices=rows, epsilon=settings["epsilon"], **options)
    scores = all_scores(outputs, classifier.head, norm=settings["norm"])
    columns = {
        "index": rows.numpy(),
        "label": images.labels[rows].numpy(),
        "predicted": bounds.predicted.cpu().numpy(),
        **{name: score.cpu().numpy() for name, score in scores.items()},
        "upper": bounds.upper.cpu().numpy(),
        "success": bounds.success.cpu().numpy(),
        "adversarial_label": bounds.adversarial_label.cpu().numpy(),
        "feature_distance": _feature_distance(model, outputs.features, bounds, settings["norm"]),
        "forward_passes": bounds.forward_passes.numpy(),
        "backward_passes": bounds.backward_passes.numpy(),
        **_certified(classifier, inputs, bounds, settings),
    }
    return Batch(columns=columns, adversarial=bounds.adversarial)


def _certified(classifier: Classifier, inputs: Tensor, bounds: MarginBounds, settings: dict) -> dict[str, np.ndarray]:
    """Columns of lower bounds: "lower", and for exact margins the incumbent's distance, the status and the time."""
    method = settings.get("certificate")
    if method is None:
        return {}
    if method != "exact":
        lower = lower_bounds(classifier.model, inputs, norm=settings["norm"], method=method)
        return {"lower": lower.cpu().numpy()}
    options = {"norm": settings["norm"], "time_limit": settings["time_limit"]}
    parts = zip(inputs.split(1), bounds.upper.split(1), strict=True)
    solved = [
        exact_margins(classifier.model, image, upper=upper, **options)
        for image, upper in tqdm(parts, desc="exact margins", total=len(inputs), file=sys.__stderr__)
    ]
    return {
        "lower": np.array([float(one.lower) for one in solved]),
        "incumbent": np.array([float(one.upper) for one in solved]),
        "status": np.array([one.status[0] for one in solved]),
        "solve_seconds": np.array([float(one.seconds) for one in solved]),
    }


def _feature_distance(model: Recalling, clean: Tensor | None, bounds: MarginBounds, norm: str) -> np.ndarray:
    """Distance the features travel to the adversarial image; NaN where there is no head or no such image."""
    if clean is None:
        return torch.full_like(bounds.upper, torch.nan).cpu().numpy()
    moved = model.outputs(bounds.adversarial).features
    return torch.where(bounds.success, vector_norm(moved - clean, norm), torch.nan).cpu().numpy()
