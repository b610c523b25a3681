"""A network on the plane, for pictures: images of two pixels, three classes, trained in a second."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def plane_points(n: int = 300, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three interleaved arcs in the unit square.

    Returns:
        Images (n, 1, 1, 2) in [0, 1], and labels (n,).
    """
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    along = draw.uniform(0, 1, n)
    angle = 2 * np.pi * (labels / 3 + 0.45 * along)
    radius = 0.08 + 0.34 * along + draw.normal(0, 0.02, n)
    points = 0.5 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return torch.tensor(points.clip(0, 1), dtype=torch.float32).view(n, 1, 1, 2), torch.from_numpy(labels)


def plane_network(*, features: int = 24, seed: int = 0) -> nn.Sequential:
    """Layers 2-24-24-3 trained on `plane_points`, in eval mode; with other ``features``, 2-24-24-features-3.

    The extra layer has no ReLU: two features fill the plane and can be drawn beside the input.
    """
    inputs, labels = plane_points()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU()]
        layers += [nn.Linear(24, features)] if features != 24 else []
        model = nn.Sequential(*layers, nn.Linear(features, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(400):
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval()
