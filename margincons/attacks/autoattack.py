"""The attacks of AutoAttack that spend a fixed budget: APGD, Square, and the whole ensemble. FAB is in `fab`."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from margincons.attacks.autoattack_package import run_autoattack
from margincons.attacks.result import AttackResult
from margincons.errors import UnknownNameError
from margincons.passes import in_eval_mode
from margincons.threat import ThreatModel

ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
VERSIONS = ("standard", "plus", "rand")


@in_eval_mode
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
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
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


@in_eval_mode
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
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
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


@in_eval_mode
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

    Raises:
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
    """
    threat = ThreatModel(norm=norm, epsilon=epsilon)

    def adjust(ensemble: Any) -> None:
        ensemble.square.n_queries, ensemble.square.n_restarts = queries, restarts

    options = {"norm": norm, "epsilon": threat.epsilon, "seed": seed, "attacks": ["square"]}
    found = run_autoattack(model, inputs, labels, adjust=adjust, **options)
    return AttackResult.judge(model, inputs, found, labels, norm=norm)
