"""FAB, AutoAttack's minimum-norm attack: in the paper's setting, with true restarts, and towards each class."""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from margincons.attacks.autoattack_package import build, check_network, quietly, run_autoattack
from margincons.attacks.randomness import gaussian, uniform
from margincons.attacks.result import AttackResult, leads_clearly, step_outwards
from margincons.passes import in_eval_mode
from margincons.threat import check_labels, per_item, places, vector_norm


@in_eval_mode
def fab_paper(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, norm: str, seed: int = 0, steps: int = 100, restarts: int = 5
) -> AttackResult:
    """Untargeted FAB through AutoAttack with an infinite budget: the protocol of the margin consistency paper.

    An infinite budget makes every first success final, so the restarts never tighten a bound: they only give
    an image that the first run left unsolved further tries, from random corners of the pixel box. This is what
    AutoAttack runs, and it is kept; `fab_restarts` keeps the minimum instead. AutoAttack returns the clean
    image on failure, which reads as distance 0: here it is an infinite bound.

    Source: Croce and Hein, 2020, arXiv:1907.02044; settings (alpha_max 0.1, eta 1.05, beta 0.9) from
    Ngnawe et al., 2024, arXiv:2406.18451.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k); one backward pass per step and class.
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale, fp32; one batch.
        labels: Classes to leave, (n,): the predictions, since margins are of the predicted class.
        norm: "Linf", "L2" or "L1".
        seed: Seeds the random starts.
        steps: Steps per run.
        restarts: Runs at most, the first from the image itself.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
    """

    def adjust(ensemble: Any) -> None:
        _configure(ensemble.fab, steps=steps)
        ensemble.fab.n_restarts = restarts

    options = {"norm": norm, "epsilon": float("inf"), "seed": seed, "attacks": ["fab"]}
    found = run_autoattack(model, inputs, labels, adjust=adjust, **options)
    return AttackResult.judge(model, inputs, step_outwards(model, inputs, found, labels), labels, norm=norm)


@in_eval_mode
def fab_restarts(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str,
    seed: int = 0,
    steps: int = 100,
    restarts: int = 5,
    indices: Tensor | None = None,
) -> AttackResult:
    """Untargeted FAB, the nearest witness over ``restarts`` full runs.

    The first run starts at the image, each later one at random, half as far out as the nearest witness so far.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k); one backward pass per step and class.
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale, fp32; one batch.
        labels: Classes to leave, (n,).
        norm: "Linf", "L2" or "L1".
        seed: Together with an image's index and the restart, fixes its random start.
        steps: Steps per run.
        restarts: Number of runs.
        indices: Each image's place in its data set, (n,); its place in the batch unless given.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
    """
    runs = [(None, restart) for restart in range(restarts)]
    return _nearest(model, inputs, labels, norm=norm, seed=seed, steps=steps, runs=runs, indices=indices)


@in_eval_mode
def fab_targeted(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str,
    seed: int = 0,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    indices: Tensor | None = None,
) -> AttackResult:
    """FAB towards one class at a time, the nearest witness over targets and restarts.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k); one backward pass per step and target.
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale, fp32; one batch.
        labels: Classes to leave, (n,).
        norm: "Linf", "L2" or "L1".
        seed: Together with an image's index and the run, fixes its random start.
        steps: Steps per run.
        restarts: Number of runs per target, the first from the image itself.
        targets: How many other classes are tried, by falling logit; all of them where there are fewer.
        indices: Each image's place in its data set, (n,); its place in the batch unless given.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
    """
    others = check_network(model, inputs, norm) - 1
    runs = list(product(range(2, min(targets, others) + 2), range(restarts)))  # rank 1 is the prediction
    return _nearest(model, inputs, labels, norm=norm, seed=seed, steps=steps, runs=runs, indices=indices)


class _KeyedStarts(TorchFunctionMode):
    """Answers FAB's own torch.rand and torch.randn with draws keyed by image, not by place in the batch."""

    def __init__(self, images: Tensor, *, seed: int, indices: Tensor, restart: int) -> None:
        super().__init__()
        self._shape = images.shape
        self._key = {"seed": seed, "indices": indices, "restart": restart, "device": images.device}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the draw of a whole batch; leave every other call alone."""
        draw = {torch.rand: uniform, torch.randn: gaussian}.get(func)
        if draw is None or args != (self._shape,):
            return func(*args, **(kwargs or {}))
        return draw(tuple(self._shape[1:]), **self._key)


def _nearest(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str,
    seed: int,
    steps: int,
    runs: list[tuple[int | None, int]],
    indices: Tensor | None,
) -> AttackResult:
    check_labels(labels, len(inputs), classes=check_network(model, inputs, norm))
    indices = places(indices, len(inputs))
    nearest = inputs.clone()
    with quietly(model, inputs.device), torch.no_grad():
        fab = build(model, norm=norm, epsilon=float("inf"), seed=seed, attacks=["fab"], at=inputs).fab
        _configure(fab, steps=steps)
        standing = _standing(model, inputs, labels)
        images, classes = inputs[standing], labels[standing]
        best, distance = images.clone(), torch.full(classes.shape, torch.inf, device=images.device)
        for number, (rank, restart) in enumerate(runs if len(standing) else []):
            fab.target_class = rank
            fab.eps = distance.where(distance.isfinite(), vector_norm(torch.ones_like(images), norm))
            with _KeyedStarts(images, seed=seed, indices=indices.to(standing.device)[standing], restart=number):
                found = fab.attack_single_run(images, classes, use_rand_start=restart > 0, is_targeted=rank is not None)
            found = step_outwards(model, images, found, classes)
            length = vector_norm(found - images, norm).where(leads_clearly(model(found), classes), torch.inf)
            best = torch.where(per_item(length < distance, images), found, best)
            distance = torch.minimum(length, distance)
        nearest[standing] = best
    return AttackResult.judge(model, inputs, nearest, labels, norm=norm)


def _standing(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Images that are predicted as labelled in a batch of exactly these images: what FAB will find as well."""
    standing = torch.arange(len(inputs), device=inputs.device)
    while len(standing) and not (right := model(inputs[standing]).argmax(dim=1) == labels[standing]).all():
        standing = standing[right]
    return standing


def _configure(fab: Any, *, steps: int) -> None:
    fab.n_iter, fab.alpha_max, fab.eta, fab.beta = steps, 0.1, 1.05, 0.9
