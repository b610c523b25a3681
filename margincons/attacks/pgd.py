"""Projected gradient ascent inside a ball, from random starts."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from margincons.attacks.randomness import gaussian, laplace, uniform
from margincons.attacks.result import AttackResult, rival_lead
from margincons.attacks.steps import Loss, input_gradient, steepest_step
from margincons.errors import UsageError
from margincons.passes import in_eval_mode
from margincons.threat import ThreatModel, check_images, per_item, places, project, vector_norm


@in_eval_mode
def pgd(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str = "Linf",
    steps: int = 40,
    restarts: int = 1,
    step_size: float | None = None,
    loss: Loss = "cross_entropy",
    seed: int = 0,
    indices: Tensor | None = None,
) -> AttackResult:
    """Climb a loss by projected gradient steps; keep each image's best end point over restarts.

    Source: Madry et al., 2018, arXiv:1706.06083, section 2.1. Best is the end point where the strongest other
    class leads by most. The step in L1 fills the steepest pixels first, as the pixel box demands.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k); it normalises its own inputs.
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale.
        labels: Classes to leave, (n,); the predictions, when margins are wanted.
        epsilon: Radius of the ball on the [0, 1] pixel scale: 8/255, not 8.
        norm: "Linf", "L2" or "L1".
        steps: Number of steps in each restart.
        restarts: Number of random starts, each drawn inside the ball.
        step_size: Length of a step in the same norm; 2.5 * epsilon / steps unless given.
        loss: "cross_entropy", as the method is known; "log_odds", which does not saturate; "hinge", which stops at the
            boundary; or a function of logits and labels, such as `hinge_sum` with a ``kappa``.
        seed: Together with an image's index and the restart, fixes its random start.
        indices: Each image's place in its data set, (n,); its place in the batch unless given.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If there is not one label and one index per image, as whole numbers.
        LabelRangeError: If a label is no class of the network.
        UsageError: If there is no step, no restart, or an epsilon or a step size that cannot be meant.
    """
    check_images(inputs)
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    if steps < 1 or restarts < 1:
        raise UsageError(f"Expected at least one step and one restart, got steps={steps} and restarts={restarts}.")
    length = 2.5 * epsilon / steps if step_size is None else step_size
    if epsilon > 0 and not 0 < length < math.inf:
        raise UsageError(f"Expected a step_size above 0, got {step_size}.")
    indices = places(indices, len(inputs))
    best, best_lead = inputs, torch.full_like(inputs[:, 0, 0, 0], -torch.inf)
    for restart in range(restarts):
        adversarial = random_start(inputs, threat, seed=seed, indices=indices, restart=restart)
        for stepped in ascent(
            model, inputs, labels, start=adversarial, threat=threat, steps=steps, step_size=length, loss=loss
        ):
            adversarial = stepped
        with torch.no_grad():
            lead = rival_lead(model(adversarial), labels)
        better = lead > best_lead
        best = torch.where(per_item(better, inputs), adversarial, best)
        best_lead = torch.where(better, lead, best_lead)
    return AttackResult.judge(model, inputs, best, labels, norm=norm)


def ascent(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    start: Tensor,
    threat: ThreatModel,
    steps: int,
    step_size: float,
    loss: Loss = "cross_entropy",
) -> Iterator[Tensor]:
    """Yield the points (n, c, h, w) of one climb, after each step: `pgd` keeps the last, a loss curve needs them all.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Images (n, c, h, w) in [0, 1], the centres of the balls.
        labels: Classes to leave, (n,).
        start: Where to begin, (n, c, h, w), inside the balls.
        threat: The ball.
        steps: Number of steps.
        step_size: Length of each in the ball's norm.
        loss: As in `pgd`.
    """
    adversarial = start
    for _ in range(steps):
        gradient = input_gradient(model, adversarial, labels, loss=loss)
        moved = adversarial + steepest_step(gradient, adversarial, step_size, threat.norm)
        adversarial = _into_ball(inputs, moved, threat)
        yield adversarial


def random_start(inputs: Tensor, threat: ThreatModel, *, seed: int, indices: Tensor, restart: int) -> Tensor:
    """Draw one point per image, uniformly from the ball around it, then clamped into [0, 1].

    Args:
        inputs: Images (n, c, h, w) in [0, 1].
        threat: The ball.
        seed: With ``indices`` and ``restart``, all that the draw depends on.
        indices: Each image's place in its data set, (n,).
        restart: Number of the start, from 0.
    """
    key = {"seed": seed, "indices": indices, "device": inputs.device}
    shape = tuple(inputs.shape[1:])
    if threat.norm == "Linf":
        offset = 2 * uniform(shape, restart=restart, **key) - 1
    else:
        if threat.norm == "L2":
            direction = gaussian(shape, restart=restart, **key)
        else:
            direction = laplace(shape, restart=restart, **key)
        radius = uniform((1,), restart=-1 - restart, **key)[:, 0] ** (1 / inputs[0].numel())
        offset = direction * per_item(radius / vector_norm(direction, threat.norm), inputs)
    return (inputs + threat.epsilon * offset.to(inputs.dtype)).clamp(0, 1)


def _into_ball(inputs: Tensor, moved: Tensor, threat: ThreatModel) -> Tensor:
    radius = torch.full_like(inputs[:, 0, 0, 0], threat.epsilon)
    return (inputs + project(moved - inputs, radius, threat.norm)).clamp(0, 1)  # the clamp only shortens
