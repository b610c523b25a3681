"""Temperature: logits divided by one, and small networks trained at one while a page is built."""

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot, softmax

from margincons.errors import ShapeError
from margincons.passes import evaluating
from margincons.threat import check_labels


class Tempered(nn.Module):
    """A network whose logits are divided by a temperature: every decision kept, every gradient rescaled.

    Args:
        network: Maps inputs (n, ...) to logits (n, k).
        temperature: What its logits are divided by; 0.01 multiplies them by a hundred.
    """

    def __init__(self, network: nn.Module, *, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, k) of inputs (n, ...)."""
        return self.network(inputs) / self.temperature


def fit(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    epochs: int = 80,
    max_lr: float = 5e-3,
    seed: int = 0,
) -> nn.Module:
    """Train a network in place by cross-entropy on softmax(logits / temperature); return it in evaluation mode.

    All its parameters are trained, those that an earlier fit has frozen too, and frozen when that is done.

    Args:
        model: Maps inputs (n, ...) to logits (n, k).
        inputs: What to learn from, (n, ...).
        targets: Classes (n,), or probabilities of classes (n, k).
        temperature: What logits are divided by in training. After it, at temperature 1, they are that much larger.
        epochs: Passes over the inputs, in batches of 64.
        max_lr: Peak of Adam's one-cycle schedule.
        seed: Fixes the order of the inputs, and dropout where there is any.

    Raises:
        ShapeError: If the targets are neither one class per input nor one probability per input and logit.
        LabelRangeError: If a class has no logit.
    """
    with torch.random.fork_rng(devices=[]):
        probabilities = _probabilities(model, inputs, targets)
        model.requires_grad_(True)
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-4, fused=True)
        batches = -(-len(inputs) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=max_lr, total_steps=epochs * batches)
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(64):
                loss = -(probabilities[rows] * log_softmax(model(inputs[rows]) / temperature, dim=1)).sum(dim=1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval().requires_grad_(False)


def _probabilities(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Targets as probabilities of the classes that the network has logits for, (n, k)."""
    with evaluating(model), torch.no_grad():
        classes = model(inputs[:1]).shape[1]
    if targets.dim() == 1:
        check_labels(targets, len(inputs), classes=classes)
        return one_hot(targets, classes)
    if targets.shape != (len(inputs), classes):
        raise ShapeError("targets", f"classes or probabilities ({len(inputs)}, {classes})", tuple(targets.shape))
    return targets


def distil(
    teacher: nn.Module, student: nn.Module, inputs: Tensor, labels: Tensor, *, temperature: float, **options: float
) -> nn.Module:
    """Train a teacher on labels, then a student on the teacher's probabilities, both at one temperature.

    Source: Papernot et al., 2016, arXiv:1511.04508, section IV.

    Args:
        teacher: An untrained network; trained in place.
        student: An untrained network of the same outputs; trained in place.
        inputs: What to learn from, (n, ...).
        labels: Classes, (n,).
        temperature: What logits are divided by in both trainings; the student is used at temperature 1.
        options: Options of `fit`.

    Returns:
        The student, in evaluation mode.
    """
    fit(teacher, inputs, labels, temperature=temperature, **options)
    with torch.no_grad():
        soft = softmax(teacher(inputs) / temperature, dim=1)
    return fit(student, inputs, soft, temperature=temperature, **options)
