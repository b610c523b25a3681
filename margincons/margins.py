"""Input margins: the tightest verified upper bound that the chosen attacks find, image by image."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from margincons.attacks.autoattack import autoattack
from margincons.attacks.fab import fab_paper, fab_restarts, fab_targeted
from margincons.attacks.fgsm import fgsm
from margincons.attacks.minimum_norm import minimum_norm
from margincons.attacks.pgd import pgd
from margincons.attacks.result import AttackResult
from margincons.brief import Brief
from margincons.classifier import first_logits
from margincons.errors import UnknownNameError
from margincons.passes import CountPasses, evaluating
from margincons.threat import check_images, check_labels, check_norm

EFFORTS = ("fast", "standard", "fine", "exhaustive")


@dataclass(frozen=True, kw_only=True, repr=False)
class MarginBounds(Brief):
    """Upper bounds on input margins, one entry per image, each with the image that proves it."""

    upper: Tensor  # (n,), in the norm asked for, on the [0, 1] pixel scale; infinite where nothing was found
    adversarial: Tensor  # (n, c, h, w), in [0, 1]; the clean image where nothing was found
    predicted: Tensor  # (n,), class of the clean image: the one whose margin this is
    adversarial_label: Tensor  # (n,), class of the adversarial image; the predicted one where nothing was found
    success: Tensor  # (n,), bool: a verified witness exists
    forward_passes: Tensor  # (n,), forward passes of the search, averaged over the batch an image sat in
    backward_passes: Tensor  # (n,), likewise backward
    attack: list[str]  # (n,), name of the attack that found the bound


@dataclass(frozen=True, kw_only=True)
class Method:
    """An attack under its name: the function, and what each effort means for it."""

    run: Callable[..., AttackResult]
    efforts: dict[str, dict[str, int | str]]  # options by effort; a missing effort does not exist


_ONE_PROTOCOL = {"standard": {}}


def _by_effort(option: str, *values: int) -> dict[str, dict[str, int]]:
    return {effort: {option: value} for effort, value in zip(EFFORTS, values, strict=True)}


MINIMUM_NORM = {
    "minimum_norm": Method(run=minimum_norm, efforts={effort: {"effort": effort} for effort in EFFORTS}),
    "fab_paper": Method(run=fab_paper, efforts=_ONE_PROTOCOL),
    "fab_restarts": Method(run=fab_restarts, efforts=_by_effort("restarts", 1, 5, 9, 20)),
    "fab_targeted": Method(run=fab_targeted, efforts=_by_effort("restarts", 1, 2, 5, 9)),
}
FIXED_BUDGET = {
    "autoattack": Method(run=autoattack, efforts=_ONE_PROTOCOL),
    "pgd": Method(run=pgd, efforts=_by_effort("steps", 10, 40, 100, 400)),
    "fgsm": Method(run=fgsm, efforts=_ONE_PROTOCOL),
}


def input_margins(
    model: nn.Module,
    inputs: Tensor,
    *,
    norm: str = "Linf",
    attack: str = "minimum_norm",
    effort: str = "standard",
    seed: int = 0,
    against: str | tuple[str, ...] = (),
    indices: Tensor | None = None,
    predicted: Tensor | None = None,
) -> MarginBounds:
    """Bound from above how far each image is from the decision boundary of its predicted class.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        inputs: Images (n, c, h, w) in [0, 1]; one batch.
        norm: "Linf", "L2" or "L1".
        attack: A key of `MINIMUM_NORM`.
        effort: "fast", "standard", "fine" or "exhaustive".
        seed: Together with an image's index, fixes every random start.
        against: Further attacks, or the name of one; the least bound over all is kept, with the name of its attack.
        indices: Each image's place in its data set, (n,); its place in the batch unless given.
        predicted: Predicted classes, (n,), where they are known: saves a forward pass.

    Raises:
        PixelRangeError: If a pixel leaves [0, 1].
        ShapeError: If the images are no batch or not what the network takes, it does not return logits of two classes
            or more, or there is not one predicted class or index per image.
        NonFiniteLogitsError: If a logit of an image is NaN or infinite.
        InPlaceError: If the network writes into its images.
        ForwardError: If its own code fails in another way.
        LabelRangeError: If `minimum_norm` is given a predicted class that the network does not have.
        UnknownNameError: If a norm, attack or effort does not exist.
        UsageError: If the model is no network.
    """
    check_norm(norm)
    against = (against,) if isinstance(against, str) else against
    for name in (attack, *against):
        if name not in MINIMUM_NORM:
            hint = " (a fixed budget gives no margin)" if name in FIXED_BUDGET else ""
            raise UnknownNameError(f"minimum-norm attack{hint}", name, MINIMUM_NORM)
        options_of(name, effort)
    options = {"norm": norm, "effort": effort, "seed": seed, "indices": indices, "predicted": predicted}
    bounds = _run(attack, MINIMUM_NORM[attack], model, inputs, **options)
    for name in against:
        bounds = _tighter(bounds, _run(name, MINIMUM_NORM[name], model, inputs, **options))
    return bounds


def attack_within(
    model: nn.Module,
    inputs: Tensor,
    *,
    norm: str = "Linf",
    epsilon: float,
    attack: str = "autoattack",
    effort: str = "standard",
    seed: int = 0,
    indices: Tensor | None = None,
    predicted: Tensor | None = None,
) -> MarginBounds:
    """Look for an adversarial image of the predicted class within a budget.

    Where one is found, ``upper`` is its distance: at most epsilon, and not minimal. An image that is classified
    correctly and where none is found counts as robust.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        inputs: Images (n, c, h, w) in [0, 1]; one batch.
        norm: "Linf", "L2" or "L1".
        epsilon: The budget, on the [0, 1] pixel scale.
        attack: A key of `FIXED_BUDGET`.
        effort: "fast", "standard", "fine" or "exhaustive"; only "standard" where the attack has one protocol.
        seed: Fixes every random start.
        indices: Each image's place in its data set, (n,).
        predicted: Predicted classes, (n,), where they are known: saves a forward pass.

    Raises:
        UnknownNameError: If a norm, attack or effort does not exist.
    """
    if attack not in FIXED_BUDGET:
        raise UnknownNameError("attack with a budget", attack, FIXED_BUDGET)
    options = {"norm": norm, "effort": effort, "seed": seed, "indices": indices, "predicted": predicted}
    options["epsilon"] = epsilon
    return _run(attack, FIXED_BUDGET[attack], model, inputs, **options)


def _run(
    name: str,
    method: Method,
    model: nn.Module,
    inputs: Tensor,
    *,
    effort: str,
    predicted: Tensor | None,
    **options: object,
) -> MarginBounds:
    check_images(inputs)
    for what, given in (("predicted", predicted), ("indices", options["indices"])):
        if given is not None:
            check_labels(given, len(inputs), what=what)
    fixed = options_of(name, effort)
    with evaluating(model):
        if predicted is None:
            predicted = first_logits(model, inputs).argmax(dim=1)
        taken = inspect.signature(method.run).parameters  # FAB in the paper's setting, say, has no use for indices
        options = {key: value for key, value in options.items() if key in taken}
        counted = CountPasses(model)
        result = method.run(counted, inputs, predicted, **options, **fixed)
    passes = torch.ones(len(inputs)) / max(1, len(inputs))
    return MarginBounds(
        upper=result.upper,
        adversarial=result.adversarial,
        predicted=predicted,
        adversarial_label=result.adversarial_label,
        success=result.success,
        forward_passes=passes * counted.forward_images,
        backward_passes=passes * counted.backward_images,
        attack=[name] * len(inputs),
    )


def options_of(attack: str, effort: str) -> dict[str, int | str]:
    """What an effort means for an attack: options of its function.

    Raises:
        UnknownNameError: If the attack does not exist, or it has no such effort.
    """
    methods = MINIMUM_NORM | FIXED_BUDGET
    if attack not in methods:
        raise UnknownNameError("attack", attack, methods)
    if effort not in methods[attack].efforts:
        raise UnknownNameError(f"effort of {attack}", effort, methods[attack].efforts)
    return methods[attack].efforts[effort]


def _tighter(first: MarginBounds, second: MarginBounds) -> MarginBounds:
    better = second.upper < first.upper
    image = better.view(-1, 1, 1, 1)
    return replace(
        first,
        upper=torch.where(better, second.upper, first.upper),
        adversarial=torch.where(image, second.adversarial, first.adversarial),
        adversarial_label=torch.where(better, second.adversarial_label, first.adversarial_label),
        success=first.success | second.success,
        forward_passes=first.forward_passes + second.forward_passes,
        backward_passes=first.backward_passes + second.backward_passes,
        attack=[b if won else a for a, b, won in zip(first.attack, second.attack, better.tolist(), strict=True)],
    )
