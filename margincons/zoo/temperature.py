"""Small networks trained while a page is built: one loop, hard or soft targets, any temperature."""

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot, softmax


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

    Args:
        model: Maps inputs (n, ...) to logits (n, k).
        inputs: What to learn from, (n, ...).
        targets: Classes (n,), or probabilities of classes (n, k).
        temperature: What logits are divided by in training. After it, at temperature 1, they are that much larger.
        epochs: Passes over the inputs, in batches of 64.
        max_lr: Peak of Adam's one-cycle schedule.
        seed: Fixes the order of the inputs, and dropout where there is any.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-4, fused=True)
        batches = -(-len(inputs) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=max_lr, total_steps=epochs * batches)
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(64):
                chosen = targets[rows]
                probabilities = one_hot(chosen, int(targets.max()) + 1) if targets.dim() == 1 else chosen
                loss = -(probabilities * log_softmax(model(inputs[rows]) / temperature, dim=1)).sum(dim=1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


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
