"""Exercises on attacks: what is adversarial, and how it is found."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from margincons.attacks.fgsm import fgsm
from margincons.attacks.steps import input_gradient
from margincons.exercises.checking import Function, check
from margincons.exercises.fixtures import digits, network, partly_misclassified
from margincons.threat import project

ATTACKS_DECISION = "the decision is attacked; where it is wrong already, only the loss of the label makes sense"


def check_is_adversarial(student: Function) -> None:
    """Check ``student(model, inputs, candidates, labels, epsilon)``, booleans (n,), of page `adversarial`."""
    model, epsilon = network(), 0.15
    inputs, labels = digits()
    found = fgsm(model, inputs, labels, epsilon=0.99 * epsilon).adversarial  # with or without room for rounding
    beyond = (inputs + 1.1 * epsilon).clamp(max=1)
    one_pixel = inputs.clone()
    one_pixel[..., 4, 4] = (inputs[..., 4, 4] < 0.5).double()  # far in l_inf, near on average
    wrong = (labels + 1) % 10  # a label that the clean image misses already
    pairs = [(found, labels), (inputs, labels), (inputs, wrong), (inputs - 0.1, wrong), (inputs + 0.1, wrong)]
    pairs += [(beyond, wrong), (one_pixel, wrong), (1 - inputs, wrong)]

    def near(inputs: Tensor, candidates: Tensor, epsilon: float) -> Tensor:
        return (candidates - inputs).abs().flatten(1).amax(dim=1) <= epsilon

    def is_image(candidates: Tensor) -> Tensor:
        return ((candidates >= 0) & (candidates <= 1)).flatten(1).all(dim=1)

    def decided(model: nn.Module, candidates: Tensor, labels: Tensor) -> Tensor:
        return model(candidates).argmax(dim=1) != labels

    check(
        student,
        cases=[
            {
                "model": model,
                "inputs": inputs.repeat(len(pairs), 1, 1, 1),
                "candidates": torch.cat([candidates for candidates, _ in pairs]),
                "labels": torch.cat([labels for _, labels in pairs]),
                "epsilon": epsilon,
            }
        ],
        answer=lambda m, x, c, y, e: near(x, c, e) & is_image(c) & decided(m, c, y),
        mistakes={
            "candidates further away than epsilon count; mind the budget": lambda m, x, c, y, e: (
                is_image(c) & decided(m, c, y)
            ),
            "candidates with pixels outside [0, 1] count, and they are no images": lambda m, x, c, y, e: (
                near(x, c, e) & decided(m, c, y)
            ),
            "decisions that are still right count": lambda m, x, c, y, e: near(x, c, e) & is_image(c),
            "the decision is compared with the clean decision, not with the label": lambda m, x, c, y, e: (
                near(x, c, e) & is_image(c) & decided(m, c, m(x).argmax(dim=1))
            ),
            "the size of a perturbation in l_inf is its largest change, not the mean one": lambda m, x, c, y, e: (
                ((c - x).abs().flatten(1).mean(dim=1) <= e) & is_image(c) & decided(m, c, y)
            ),
        },
    )


def check_fgsm(student: Function) -> None:
    """Check ``student(model, inputs, labels, epsilon)``, images one signed step away, of page `fgsm`."""
    model, epsilon = network(), 0.15
    inputs, labels = partly_misclassified(model)

    def step(direction: Tensor) -> Tensor:
        return (inputs + epsilon * direction).clamp(0, 1)

    gradient = input_gradient(model, inputs, labels)
    of_decision = input_gradient(model, inputs, model(inputs).argmax(dim=1))
    moved = inputs.clone().requires_grad_()
    (of_logit,) = torch.autograd.grad(-model(moved).gather(1, labels[:, None]).sum(), moved)
    check(
        student,
        cases=[{"model": model, "inputs": inputs, "labels": labels, "epsilon": epsilon}],
        answer=lambda *_: step(gradient.sign()),
        mistakes={
            "the sign of the gradient is missing, so the size of the step depends on the network": lambda *_: step(
                gradient
            ),
            "the loss goes down, not up: this step makes the network surer of the label": lambda *_: step(
                -gradient.sign()
            ),
            "pixels leave [0, 1]; no image has such pixels": lambda *_: inputs + epsilon * gradient.sign(),
            "epsilon is on the [0, 1] pixel scale here and needs no division": lambda *_: (
                inputs + epsilon / 255 * gradient.sign()
            ).clamp(0, 1),
            "only the true logit is pressed down; the loss must set it against the others": lambda *_: step(
                of_logit.sign()
            ),
            "this is the perturbation; the images are asked for": lambda *_: step(gradient.sign()) - inputs,
            ATTACKS_DECISION: lambda *_: step(of_decision.sign()),
        },
    )


def check_pgd(student: Function) -> None:
    """Check ``student(model, inputs, labels, epsilon, steps, step_size)``, the last of the steps, of page `pgd`."""
    model = network()
    inputs, labels = partly_misclassified(model)

    def climb(
        epsilon: float,
        steps: int,
        step_size: float,
        *,
        leave: Tensor = labels,
        sign: Callable[[Tensor], Tensor] = torch.sign,
        at_the_start: bool = False,
        anew: bool = False,
        projected: bool = True,
        clamped: bool = True,
    ) -> Tensor:
        adversarial = inputs
        for _ in range(steps):
            direction = sign(input_gradient(model, inputs if at_the_start else adversarial, leave))
            adversarial = (inputs if anew else adversarial) + step_size * direction
            if projected:
                adversarial = inputs + (adversarial - inputs).clamp(-epsilon, epsilon)
            if clamped:
                adversarial = adversarial.clamp(0, 1)
        return adversarial

    def mistake(**change: Any) -> Function:
        return lambda _model, _inputs, _labels, *budget: climb(*budget, **change)

    check(
        student,
        cases=[{"model": model, "inputs": inputs, "labels": labels, "epsilon": 0.15, "steps": 7, "step_size": 0.05}],
        answer=mistake(),
        mistakes={
            "the gradient is taken at the clean image in every step; take it where the last step ended": mistake(
                at_the_start=True
            ),
            "the points leave the ball; project onto the ball around the clean image after every step": mistake(
                projected=False
            ),
            "pixels leave [0, 1]; clamp them after every step": mistake(clamped=False),
            "the sign of the gradient is missing": mistake(sign=lambda gradient: gradient),
            "the loss goes down, not up": mistake(sign=lambda gradient: -gradient.sign()),
            "every step starts anew from the clean image; start where the last one ended": mistake(anew=True),
            ATTACKS_DECISION: mistake(leave=model(inputs).argmax(dim=1)),
        },
    )


def check_project_l2(student: Function) -> None:
    """Check ``student(deltas, epsilon)``, the projections onto the Euclidean ball, of page `threat_models`."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.0, 0.01, 0.1, 0.3, 1.0], dtype=torch.float64).view(-1, 1, 1, 1)  # none, short, long
    deltas = scale * (2 * torch.rand(5, 1, 4, 4, generator=draw, dtype=torch.float64) - 1)

    def lengths(deltas: Tensor) -> Tensor:
        return deltas.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    check(
        student,
        cases=[{"deltas": deltas, "epsilon": 0.2}],
        answer=lambda d, e: project(d, torch.full_like(d[:, 0, 0, 0], e), "L2"),
        mistakes={
            "short perturbations were made longer; those inside the ball stay as they are": lambda d, e: (
                d * e / lengths(d)
            ),
            "the norm was taken over the whole batch; every image has a norm of its own": lambda d, e: (
                d * min(1.0, e / d.norm().item())
            ),
            "each pixel was clipped; that projects onto the l_inf ball": lambda d, e: d.clamp(-e, e),
            "the squared length was used; the root is missing": lambda d, e: d * (e / lengths(d) ** 2).clamp(max=1),
            "the norm was taken over the rows of an image; flatten the image first": lambda d, e: (
                d * (e / d.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
            ),
        },
    )


def check_transfer_rate(student: Function) -> None:
    """Check ``student(target, inputs, candidates, labels)``, a share, of page `transfer`."""
    source, target = network("digits/pgd_at"), network("digits/clp")
    inputs, labels = digits(120)
    candidates = fgsm(source, inputs, labels, epsilon=0.2).adversarial

    def shares(model: nn.Module, x: Tensor, c: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return model(x).argmax(dim=1) == y, model(c).argmax(dim=1) != y

    def rate(select: Callable[[Tensor, Tensor], Tensor]) -> Function:
        return lambda *case: select(*shares(*case)).double().mean()

    check(
        student,
        cases=[{"target": target, "inputs": inputs, "candidates": candidates, "labels": labels}],
        answer=rate(lambda right, fooled: fooled[right]),
        mistakes={
            "images count that the target had wrong before any attack": rate(lambda right, fooled: fooled),
            "images that the target had wrong are left out above the line only; leave them out below it too": rate(
                lambda right, fooled: right & fooled
            ),
            "this is the share that is still right": rate(lambda right, fooled: ~fooled[right]),
        },
    )
