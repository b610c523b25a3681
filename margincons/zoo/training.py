"""Training a bundled network again, and holding the outcome against the recorded one."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from margincons.data import load_images
from margincons.records import provenance
from margincons.records.atomic import check_target
from margincons.zoo.bundled import INDEX, WEIGHTS, bundled_index, sha256, weights_path
from margincons.zoo.recipes import RECIPES, train

ACCURACY_TOLERANCE = 0.02  # another machine or version of torch trains a slightly different network


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What training gave, beside what is on record."""

    model_id: str
    accuracy: float  # clean, on the test images
    recorded_accuracy: float | None  # None for a network that has no record yet
    same_weights: bool  # the weights are the recorded ones to the last bit
    path: Path

    @property
    def agrees(self) -> bool:
        """Whether the accuracy is the recorded one within `ACCURACY_TOLERANCE`."""
        return self.recorded_accuracy is None or abs(self.accuracy - self.recorded_accuracy) <= ACCURACY_TOLERANCE

    def __str__(self) -> str:
        """One line for the terminal."""
        text = f"{self.model_id}: clean accuracy {self.accuracy:.4f}"
        if self.recorded_accuracy is not None:
            weights = "the same weights" if self.same_weights else "other weights"
            text += f", recorded {self.recorded_accuracy:.4f}, {weights}: {'agrees' if self.agrees else 'DISAGREES'}"
        return f"{text} ({self.path})"


def retrain(model_id: str, *, out: str | Path | None = None, seed: int = 0, progress: bool = False) -> Outcome:
    """Train a bundled network and compare it with the recorded one.

    Args:
        model_id: A key of `RECIPES`.
        out: Folder for the weights. The package's own folder (`WEIGHTS`) also gets a new entry in its index.
        seed: Seed of the training; the bundled networks have 0.
        progress: Whether to draw a bar over epochs.
    """
    from safetensors.torch import save_file

    folder = Path(out or "runs/train")
    check_target(folder / weights_path(model_id).name, "the weights")
    made, started = provenance(), time.perf_counter()
    model = train(model_id, seed=seed, progress=progress)
    seconds = round(time.perf_counter() - started, 1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / weights_path(model_id).name
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    accuracy = clean_accuracy(model)
    recorded = bundled_index().get(model_id)
    outcome = Outcome(
        model_id=model_id,
        accuracy=accuracy,
        recorded_accuracy=recorded and recorded["accuracy"],
        same_weights=bool(recorded) and sha256(path) == recorded["sha256"],
        path=path,
    )
    if folder.resolve() == WEIGHTS.resolve():
        recipe = RECIPES[model_id]
        entry = {
            "architecture": recipe.finished_architecture or recipe.architecture,
            "recipe": recipe.loss.__doc__.splitlines()[0],
            "train_epsilon": recipe.epsilon,
            "seed": seed,
            "sha256": sha256(path),
            "accuracy": accuracy,
            "train_seconds": seconds,
            "made": made,
        }
        INDEX.write_text(json.dumps({**bundled_index(), model_id: entry}, indent=1) + "\n")
        bundled_index.cache_clear()
    return outcome


@torch.no_grad()
def clean_accuracy(model: nn.Module) -> float:
    """Share of digits' test images that are classified correctly."""
    images = load_images("digits", split="test")
    return (model(images.inputs).argmax(dim=1) == images.labels).float().mean().item()
