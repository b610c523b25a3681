"""The bundled networks: small, trained by `margincons.zoo.recipes` on scikit-learn's digits, shipped as safetensors."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from margincons.errors import ChecksumError, MissingFileError, UnknownNameError

WEIGHTS = Path(__file__).parents[1] / "weights"
INDEX = WEIGHTS / "index.json"


def cnn(classes: int = 10) -> nn.Sequential:
    """Two convolutions and two linear layers for images (n, 1, 8, 8): 38,282 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def mlp(classes: int = 10) -> nn.Sequential:
    """Layers 64-32-32-10 for images (n, 1, 8, 8): small enough for exact margins."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, classes)
    )


class Rescaled(nn.Module):
    """A network whose logits f became f / (1 + ||f||)^2: every decision kept, every logit margin changed.

    The scale is folded into the features, so the last layer stays linear: logits = [s h, s] @ [W, b].T with
    s = (1 + ||W h + b||)^-2. The features still know the margin; the logits have forgotten part of it.

    Args:
        network: Ends in a linear layer.
    """

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.body, inner = network[:-1], network[-1]
        self.head = nn.Linear(inner.in_features + 1, inner.out_features, bias=False)
        self.head.weight = nn.Parameter(torch.cat([inner.weight, inner.bias[:, None]], dim=1).detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, k) of images (n, 1, 8, 8)."""
        features = self.body(inputs)
        features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        scale = (1 + self.head(features).norm(dim=1, keepdim=True)) ** -2
        return self.head(scale * features)


ARCHITECTURES = {"cnn": cnn, "mlp": mlp, "rescaled_cnn": lambda: Rescaled(cnn())}


@functools.cache
def bundled_index() -> dict[str, dict[str, Any]]:
    """What is known of each bundled network, by id: architecture, recipe, checksum, accuracies, provenance."""
    return json.loads(INDEX.read_text()) if INDEX.exists() else {}


def weights_path(model_id: str) -> Path:
    """Where the weights of a bundled network lie: digits/trades in weights/digits.trades.safetensors."""
    return WEIGHTS / f"{model_id.replace('/', '.')}.safetensors"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_bundled(model_id: str) -> nn.Module:
    """Build a bundled network and fill in its weights, which must have the recorded checksum.

    Raises:
        UnknownNameError: If no bundled network has that id.
        MissingFileError: If its weights are gone.
        ChecksumError: If its weights are not those that were recorded.
    """
    from safetensors.torch import load_file

    index = bundled_index()
    if model_id not in index:
        raise UnknownNameError("model", model_id, index)
    path = weights_path(model_id)
    if not path.exists():
        raise MissingFileError(path, "file of weights")
    if sha256(path) != index[model_id]["sha256"]:
        raise ChecksumError(path, index[model_id]["sha256"], sha256(path))
    model = ARCHITECTURES[index[model_id]["architecture"]]()
    model.load_state_dict(load_file(path))
    return model.eval()
