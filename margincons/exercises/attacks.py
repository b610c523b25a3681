"""Exercises on attacks: what is adversarial, and how it is found."""

import torch
from torch import Tensor, nn

from margincons.attacks.fgsm import fgsm
from margincons.exercises.checking import Function, check
from margincons.exercises.fixtures import digits, network


def check_is_adversarial(student: Function) -> None:
    """Check ``student(model, inputs, candidates, labels, epsilon)``, booleans (n,), of page `adversarial`."""
    model, epsilon = network(), 0.15
    inputs, labels = digits()
    found = fgsm(model, inputs, labels, epsilon=epsilon).adversarial
    one_pixel = inputs.clone()
    one_pixel[..., 4, 4] = (inputs[..., 4, 4] < 0.5).double()  # far in l_inf, near on average
    candidates = torch.cat([found, inputs, inputs, inputs - 0.1, one_pixel, 1 - inputs])
    wrong = (labels + 1) % 10  # a label that the clean image misses already
    labels = torch.cat([labels, labels, wrong, wrong, wrong, wrong])

    def near(inputs: Tensor, candidates: Tensor, epsilon: float) -> Tensor:
        return (candidates - inputs).abs().flatten(1).amax(dim=1) <= epsilon + 1e-6

    def is_image(candidates: Tensor) -> Tensor:
        return ((candidates >= 0) & (candidates <= 1)).flatten(1).all(dim=1)

    def decided(model: nn.Module, candidates: Tensor, labels: Tensor) -> Tensor:
        return model(candidates).argmax(dim=1) != labels

    check(
        student,
        cases=[
            {
                "model": model,
                "inputs": inputs.repeat(6, 1, 1, 1),
                "candidates": candidates,
                "labels": labels,
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
