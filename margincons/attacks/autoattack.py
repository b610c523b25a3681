"""The attacks of AutoAttack: FAB (minimum norm), APGD and Square (fixed budget), and their ensemble."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from margincons.attacks.autoattack_package import build, check_network, import_autoattack, quietly, run_autoattack
from margincons.attacks.randomness import gaussian, uniform
from margincons.attacks.result import AttackResult, leads_clearly, step_outwards
from margincons.errors import UnknownNameError
from margincons.threat import ThreatModel, per_item, vector_norm

__all__ = ["apgd", "autoattack", "fab_paper", "fab_restarts", "fab_targeted", "import_autoattack", "square"]

ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
VERSIONS = ("standard", "plus", "rand")


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
    """

    def adjust(ensemble: Any) -> None:
        _configure(ensemble.fab, steps=steps)
        ensemble.fab.n_restarts = restarts

    options = {"norm": norm, "epsilon": float("inf"), "seed": seed, "attacks": ["fab"]}
    found = run_autoattack(model, inputs, labels, adjust=adjust, **options)
    return AttackResult.judge(model, inputs, step_outwards(model, inputs, found, labels), labels, norm=norm)


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
    """
    runs = [(None, restart) for restart in range(restarts)]
    return _nearest(model, inputs, labels, norm=norm, seed=seed, steps=steps, runs=runs, indices=indices)


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
    """
    others = check_network(model, inputs, norm) - 1
    runs = list(product(range(2, min(targets, others) + 2), range(restarts)))  # rank 1 is the prediction
    return _nearest(model, inputs, labels, norm=norm, seed=seed, steps=steps, runs=runs, indices=indices)


def autoattack(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str,
    seed: int = 0,
    version: str = "standard",
    attacks: Sequence[str] | None = None,
    batch_size: int = 250,
) -> AttackResult:
    """Spend a fixed budget with AutoAttack's ensemble; the share that it leaves standing is robust accuracy.

    Each attack sees only the images that those before it left standing.

    Source: Croce and Hein, 2020, arXiv:2003.01690.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale, fp32.
        labels: Classes to leave, (n,): the true ones for robust accuracy.
        epsilon: Radius of the ball on the [0, 1] pixel scale.
        norm: "Linf", "L2" or "L1".
        seed: Seeds AutoAttack's draws; they depend on the batches as well.
        version: "standard", "plus" or "rand"; not used when ``attacks`` are given.
        attacks: Any of `ATTACKS`, run in this order; targeted ones try at most all other classes.
        batch_size: Images per batch.

    Raises:
        UnknownNameError: If the version or an attack does not exist.
        UsageError: If an attack needs more classes than the network has.
    """
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    if version not in VERSIONS:
        raise UnknownNameError("version of AutoAttack", version, VERSIONS)
    for name in attacks or ():
        if name not in ATTACKS:
            raise UnknownNameError("attack", name, ATTACKS)
    version = version if attacks is None else "custom"
    options = {"seed": seed, "version": version, "attacks": attacks, "batch_size": batch_size}
    found = run_autoattack(model, inputs, labels, norm=norm, epsilon=threat.epsilon, **options)
    return AttackResult.judge(model, inputs, found, labels, norm=norm)


def apgd(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str,
    loss: str = "ce",
    seed: int = 0,
    steps: int = 100,
    restarts: int = 1,
) -> AttackResult:
    """Climb one loss by projected gradient steps whose size adapts itself.

    Source: Croce and Hein, 2020, arXiv:2003.01690, section 3.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale, fp32; one batch.
        labels: Classes to leave, (n,).
        epsilon: Radius of the ball on the [0, 1] pixel scale.
        norm: "Linf", "L2" or "L1".
        loss: "ce", the cross-entropy, or "dlr", the difference of logits ratio (three classes or more).
        seed: Seeds the random starts.
        steps: Steps per restart.
        restarts: Random starts, each tried only on the images that still stand.

    Raises:
        UnknownNameError: If the loss is neither.
        UsageError: If the DLR loss is asked of a network with two classes.
    """
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    if loss not in ("ce", "dlr"):
        raise UnknownNameError("loss of APGD", loss, ("ce", "dlr"))

    def adjust(ensemble: Any) -> None:  # rebuilt, since APGD derives its checkpoints from the number of steps
        options = {"eps": threat.epsilon, "norm": norm, "seed": seed, "device": inputs.device}
        rebuild = type(ensemble.apgd)
        ensemble.apgd = rebuild(model, n_iter=steps, n_restarts=restarts, logger=ensemble.logger, **options)

    options = {"norm": norm, "epsilon": threat.epsilon, "seed": seed, "attacks": [f"apgd-{loss}"]}
    found = run_autoattack(model, inputs, labels, adjust=adjust, **options)
    return AttackResult.judge(model, inputs, found, labels, norm=norm)


def square(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str,
    seed: int = 0,
    queries: int = 5000,
    restarts: int = 1,
) -> AttackResult:
    """Search at random over square patches; no gradient is asked for, so none can mislead it.

    Source: Andriushchenko et al., 2020, arXiv:1912.00049.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale, fp32; one batch.
        labels: Classes to leave, (n,).
        epsilon: Radius of the ball on the [0, 1] pixel scale.
        norm: "Linf", "L2" or "L1".
        seed: Seeds the search.
        queries: Forward passes per image and restart at most.
        restarts: Searches, each run only on the images that still stand.
    """
    threat = ThreatModel(norm=norm, epsilon=epsilon)

    def adjust(ensemble: Any) -> None:
        ensemble.square.n_queries, ensemble.square.n_restarts = queries, restarts

    options = {"norm": norm, "epsilon": threat.epsilon, "seed": seed, "attacks": ["square"]}
    found = run_autoattack(model, inputs, labels, adjust=adjust, **options)
    return AttackResult.judge(model, inputs, found, labels, norm=norm)


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
    check_network(model, inputs, norm)
    indices = torch.arange(len(inputs)) if indices is None else indices
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
