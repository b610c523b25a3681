from itertools import pairwise

import pytest
import torch
from torch import nn

from margincons.threat import project, vector_norm


class Residual(nn.Module):
    """Two convolutions round a shortcut, normalised, batch-normalised and average-pooled: every kind of layer."""

    def __init__(self, classes=3):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2))
        self.second = nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(2, classes))
        self.register_buffer("mean", torch.tensor([0.4]))
        self.register_buffer("std", torch.tensor([0.3]))

    def forward(self, images):
        images = (images - self.mean[None, :, None, None]) / self.std.view(1, -1, 1, 1)
        hidden = torch.relu(self.first(images))
        hidden = self.second(hidden) + hidden
        return self.head(nn.functional.relu(hidden))


def _balanced(network, shape):
    """Let no class win everywhere: over random images every logit has mean 0."""
    network.eval()
    head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.bias -= network(torch.rand(256, *shape)).mean(dim=0)
    return network


@pytest.fixture(scope="session")
def residual():
    """Make a residual network for images (n, 1, 2, 2) with weights of a seed."""

    def make(seed):
        torch.manual_seed(seed)
        network = Residual()
        norm = network.first[1]
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.05, 0.2)
        return _balanced(network, (1, 2, 2))

    return make


@pytest.fixture(scope="session")
def dense():
    """Make a fully connected network for images (n, 1, 1, d) with weights of a seed."""

    def make(seed, *widths):
        torch.manual_seed(seed)
        layers = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        network = nn.Sequential(*layers[:-1])
        for layer in network[1:]:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=1.5 / layer.in_features**0.5)
                nn.init.normal_(layer.bias, std=0.3)
        return _balanced(network, (1, 1, widths[0]))

    return make


@pytest.fixture(scope="session")
def points_of():
    """Draw random points (count, n, c, h, w) of balls inside the pixel box, most of them on the border."""

    def draw(ball, count=300):
        wild = torch.randn(count * len(ball.centre), *ball.centre.shape[1:], dtype=torch.float64)
        radius = ball.radius.repeat(count)
        wild = wild * (radius / vector_norm(wild, ball.norm) * 1.5).view(-1, 1, 1, 1)
        moved = project(wild, radius, ball.norm).view(count, *ball.centre.shape)
        return (ball.centre + moved).clamp(0, 1)

    return draw
