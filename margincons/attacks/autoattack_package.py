"""The one place that knows how the AutoAttack packages are imported, built and called.

Two packages hold the same attacks: the original ``autoattack`` and the registry's ``pyautoattack``, whose
entry point is spelled otherwise. The original is used where it is installed.
"""

import contextlib
import importlib
import inspect
import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from margincons.cautions import (
    Caution,
    DynamicWarning,
    MaskedGradientsWarning,
    ProbabilitiesWarning,
    RandomisedWarning,
    VanishingGradientsWarning,
)
from margincons.errors import ShapeError, UsageError
from margincons.threat import check_images, check_labels, check_norm

_SAID = (
    ("randomized defense", RandomisedWarning, "AutoAttack saw logits change between passes"),
    ("output is a probability distribution", ProbabilitiesWarning, "AutoAttack saw outputs that are probabilities"),
    ("dynamic defense", DynamicWarning, "AutoAttack saw the network compute gradients in its own forward pass"),
)
CLASSES_NEEDED = {"apgd-dlr": 3, "apgd-t": 4, "standard": 4, "plus": 4, "rand": 3}  # the DLR loss compares logits


def import_autoattack() -> ModuleType:
    """Import ``autoattack``, or put ``pyautoattack`` in its place for everything that imports it by that name.

    RobustBench imports ``autoattack`` and ``autoattack.state``: call this before importing it.
    """
    try:
        return importlib.import_module("autoattack")
    except ModuleNotFoundError as error:
        if error.name != "autoattack":
            raise
    package = importlib.import_module("pyautoattack")
    sys.modules["autoattack.state"] = importlib.import_module("pyautoattack.state")
    sys.modules["autoattack"] = package
    return package


def run_autoattack(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: str,
    epsilon: float,
    seed: int,
    version: str = "custom",
    attacks: Sequence[str] | None = None,
    batch_size: int | None = None,
    adjust: Callable[[Any], None] = lambda ensemble: None,
) -> Tensor:
    """Run AutoAttack and return its images, not yet judged.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale, fp32.
        labels: Classes to leave, (n,).
        norm: "Linf", "L2" or "L1".
        epsilon: Radius of the ball; infinite for minimum-norm attacks.
        seed: Seeds AutoAttack's own draws, which depend on the batch as well.
        version: A set of attacks that AutoAttack names, or "custom" with ``attacks``.
        attacks: AutoAttack's names of the attacks to run.
        batch_size: Images per batch; all at once unless given.
        adjust: Changes the built ensemble's settings before it runs.

    Raises:
        UsageError: If an attack needs more classes than the network has.
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
    """
    classes = check_network(model, inputs, norm)
    check_labels(labels, len(inputs), classes=classes)
    for name in attacks or [version]:
        if classes < CLASSES_NEEDED.get(name, 2):
            raise UsageError(
                f"Expected at least {CLASSES_NEEDED[name]} classes for AutoAttack's {name!r}, whose DLR loss compares "
                f"that many logits, got {classes}; choose attacks without it: 'apgd-ce', 'fab', 'square'."
            )
    if not len(inputs):
        return inputs
    with quietly(model, inputs.device):
        ensemble = build(model, norm=norm, epsilon=epsilon, seed=seed, version=version, attacks=attacks, at=inputs)
        for targeted in (ensemble.fab, ensemble.apgd_targeted):
            targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
        adjust(ensemble)
        run = ensemble.run_standard_evaluation
        size_name = "batch_size" if "batch_size" in inspect.signature(run).parameters else "bs"
        images = run(inputs, labels, **{size_name: batch_size or len(inputs)})
    return images[0] if isinstance(images, tuple) else images  # pyautoattack adds the labels


def build(
    model: nn.Module,
    *,
    norm: str,
    epsilon: float,
    seed: int,
    at: Tensor,
    version: str = "custom",
    attacks: Sequence[str] | None = None,
) -> Any:
    """Build AutoAttack under either signature, for the device of the images ``at``; call inside `quietly`."""
    entry = import_autoattack().AutoAttack
    options = {"norm": norm, "eps": epsilon, "seed": seed, "version": version, "device": at.device}
    parameters = inspect.signature(entry).parameters
    if attacks is not None:
        options["attacks" if "attacks" in parameters else "attacks_to_run"] = list(attacks)
    if "verbose" in parameters:
        options["verbose"] = False
    return entry(model, **options)


def check_network(model: nn.Module, inputs: Tensor, norm: str) -> int:
    """Check what every attack of the package needs and count the network's classes.

    Raises:
        UnknownNameError: If the norm is none of the three.
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If the images are not in single precision, to which AutoAttack would cast them.
    """
    check_norm(norm)
    check_images(inputs)
    if inputs.dtype != torch.float32:
        raise ShapeError("images for AutoAttack", "torch.float32", inputs.dtype)
    with torch.no_grad():
        return model(inputs[:1]).shape[1]


@contextlib.contextmanager
def quietly(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let AutoAttack run without a trace: no output, no gradients on parameters, generators as they were.

    What its own checks would print or log comes out as warnings of `margincons.cautions`, once each.
    """
    log, said = logging.getLogger("auto-attack"), io.StringIO()
    propagated, tracer, listener = log.propagate, sys.gettrace(), logging.StreamHandler(said)
    listener.setLevel(logging.WARNING)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    cuda = [device] if device.type == "cuda" else []
    calls = getattr(getattr(import_autoattack(), "checks", None), "funcs", {})
    calls.update(dict.fromkeys(calls, 0))  # else a dynamic defence seen once is seen in every later network
    with torch.random.fork_rng(devices=cuda), contextlib.redirect_stdout(said):
        try:
            log.propagate = False
            log.addHandler(listener)
            for parameter in trained:  # FAB calls backward(), which would fill their .grad
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            log.removeHandler(listener)
            log.propagate = propagated
            sys.settrace(tracer)  # its check for dynamic defences leaves none
    for caution in _cautions(said.getvalue()):
        warnings.warn(caution, stacklevel=4)


def _cautions(said: str) -> list[Caution]:
    """Translate the warnings of AutoAttack's checks, pyautoattack's log and the original's prints alike."""
    found = [kind(text) for words, kind, text in _SAID if words in said]
    points = [int(count) for count in re.findall(r"there are (\d+) points with zero gradient", said)]
    if points:
        found.append(VanishingGradientsWarning(f"AutoAttack started at up to {max(points)} images with zero gradient"))
    for loss in re.findall(r"Square Attack has decreased the robust accuracy of (\S+)%", said):
        found.append(MaskedGradientsWarning(f"Square took {loss} points off the accuracy that gradients had left"))
    return found
