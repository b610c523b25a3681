"""Checks before work: what would make a measurement wrong is refused, what would make it misleading is named.

AutoAttack looks for randomised and dynamic defences, probabilities and zero gradients; so does this, and for more. The
cost is a few passes over the first images.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor, nn

from margincons.cautions import (
    BatchDependentWarning,
    Caution,
    ChanceAccuracyWarning,
    DynamicWarning,
    NoHeadWarning,
    ProbabilitiesWarning,
    RandomisedWarning,
    TrainingModeWarning,
    VanishingGradientsWarning,
    plain,
)
from margincons.certificates.tracing import relu_graph
from margincons.classifier import Classifier
from margincons.data import CLASSES, Images
from margincons.errors import ClassesError, LabelRangeError, NoGradientError, UsageError

CHECKED = 32  # images looked at, at most
SPREAD = 1e-4  # of the largest logit: more than the last digits of fp32, as in AutoAttack's check
FAR = 10.0  # in sides of the pixel box: a gradient that puts the boundary farther away is as good as zero
FEWEST = 20  # images on which an accuracy says anything


def warn_before_work(classifier: Classifier, images: Images, settings: Mapping[str, Any]) -> list[dict[str, str]]:
    """Check, give each caution as a Python warning, and return them as a record keeps them: "name" and "text".

    Args:
        classifier: The network, on its device.
        images: The whole data set.
        settings: "attack"; "batch_size" is the most images that fit; an "epsilon" that is not None means an attack on
            the cross-entropy, whose gradient is then looked at; a "certificate" that the layers must be readable.

    Raises:
        LabelRangeError: If a label is no class of the network.
        ClassesError: If the data set is known to have another number of classes.
        NoGradientError: If the logits cannot be differentiated with respect to the images.
        ShapeError: If the network cannot take such images.
        NonFiniteLogitsError: If a logit is NaN or infinite.
        UnsupportedLayerError: If lower bounds are wanted and a layer cannot be read.
        UsageError: If FAB is to attack a network that draws at random.
    """
    loss = "logit gap" if settings.get("epsilon") is None else "cross-entropy"
    if settings.get("certificate"):
        relu_graph(classifier.model, images.inputs[:1].to(classifier.device))
    found = check_before_work(classifier, images, loss=loss, n=min(CHECKED, settings.get("batch_size", CHECKED)))
    if settings.get("attack", "").startswith("fab") and any(
        isinstance(caution, RandomisedWarning) for caution in found
    ):
        raise UsageError(
            "Expected a network that says the same twice: FAB holds its passes against each other, this one draws at "
            "random. Fix its randomness, or choose another attack."
        )
    for caution in found:
        warnings.warn(caution, stacklevel=3)
    return plain(found)


def check_before_work(
    classifier: Classifier, images: Images, *, loss: str = "logit gap", n: int = CHECKED
) -> list[Caution]:
    """Look at a network and its first images; raise what makes work pointless, return what makes it doubtful.

    Args:
        classifier: The network, on its device.
        images: The whole data set.
        loss: What the attack climbs: "logit gap" or "cross-entropy".
        n: How many images to pass through the network.

    Raises:
        LabelRangeError: If a label is no class of the network.
        ClassesError: If the data set is known to have another number of classes.
        NoGradientError: If the logits cannot be differentiated with respect to the images.
        ShapeError: If the network cannot take such images.
        NonFiniteLogitsError: If a logit is NaN or infinite.
    """
    model, inputs = classifier.model, images.inputs[:n].to(classifier.device)
    with _draws_given_back(inputs):
        logits = classifier.logits(inputs, batch_size=len(inputs))
        _check_classes(images, logits.shape[1])
        found = [] if classifier.head else [NoHeadWarning(f"No features: {classifier.no_head_reason}")]
        found += _sound(model, inputs, logits)
        found += _dynamic(model, inputs) + _climbable(model, inputs, logits, loss)
        return found + _better_than_guessing(logits, images.labels[:n].to(logits.device))


@torch.no_grad()
def check_passes(model: nn.Module, inputs: Tensor) -> list[Caution]:
    """Look at plain passes only, as a detector makes them: no labels, no gradients.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k), on the images' device and in eval mode.
        inputs: Images (n, c, h, w): the first few; `CHECKED` are enough.

    Returns:
        What makes scores doubtful: two passes that differ, parts in training mode, probabilities in place of logits.
    """
    with _draws_given_back(inputs):
        return _sound(model, inputs, model(inputs))


@contextmanager
def heard(known: Sequence[dict[str, str]] = ()) -> Iterator[list[dict[str, str]]]:
    """Collect the cautions that are given inside, as a record keeps them; they are given again at the end.

    Args:
        known: Cautions of the same record that were given before; their names are not kept twice.
    """
    found = list(known)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Caution)
        yield found
    for warning in caught:
        warnings.warn(warning.message, stacklevel=3)
    names = {one["name"] for one in known}
    given = plain([warning.message for warning in caught if isinstance(warning.message, Caution)])
    found += [one for one in given if one["name"] not in names]


def _draws_given_back(inputs: Tensor) -> AbstractContextManager[None]:
    """A randomised network draws numbers while it is looked at; work after that draws as if it had not."""
    return torch.random.fork_rng(devices=[inputs.device] if inputs.device.type == "cuda" else [])


def _sound(model: nn.Module, inputs: Tensor, logits: Tensor) -> list[Caution]:
    return _steady(model, inputs, logits) + _evaluated(model) + _logits_indeed(logits)


def _check_classes(images: Images, classes: int) -> None:
    dataset, built_in, _ = images.name.partition("/")  # a file or folder of one's own has no split in its name
    if built_in and CLASSES.get(dataset, classes) != classes:
        raise ClassesError(dataset, CLASSES[dataset], classes)
    low, high = images.labels.min().item(), images.labels.max().item()
    if low < 0 or high >= classes:
        raise LabelRangeError(low, high, classes)


@torch.no_grad()
def _steady(model: nn.Module, inputs: Tensor, logits: Tensor) -> list[Caution]:
    """Whether a second pass, and one in batches of another size, give the same logits."""
    scale, again = logits.abs().max().clamp_min(1e-12), model(inputs)
    spread = ((again - logits).abs().max() / scale).item()
    if spread > SPREAD:
        flips = int((again.argmax(dim=1) != logits.argmax(dim=1)).sum())
        return [
            RandomisedWarning(
                f"Two passes over {len(inputs)} images differ, by up to {spread:.2g} of the largest logit and in "
                f"{flips} decisions"
            )
        ]
    parts = torch.cat([model(part) for part in inputs.split(max(1, len(inputs) // 2))])
    spread = ((parts - logits).abs().max() / scale).item() if len(inputs) > 1 else 0.0
    if spread > SPREAD:
        return [BatchDependentWarning(f"Logits change with the batch, by up to {spread:.2g} of the largest logit")]
    return []


def _evaluated(model: nn.Module) -> list[Caution]:
    training = [(name, module) for name, module in model.named_modules() if module.training]
    if not training:
        return []
    name, module = training[0]
    first = f"{name or 'the network itself'} ({type(module).__name__})"
    return [TrainingModeWarning(f"{len(training)} modules are still in training mode after eval(), first {first}")]


def _logits_indeed(logits: Tensor) -> list[Caution]:
    if not (logits.min() >= 0 and logits.max() <= 1):  # NaN is no probability
        return []
    sums = bool(((logits.sum(dim=1) - 1).abs() < SPREAD).all())
    return [ProbabilitiesWarning(f"Outputs all lie in [0, 1]{' and sum to 1' if sums else ''}, as probabilities do")]


@torch.no_grad()
def _dynamic(model: nn.Module, inputs: Tensor) -> list[Caution]:
    """Under no_grad nothing is kept for a backward pass, and none is made, unless the network asks for it itself."""
    read = []

    def unpack(tensor: Tensor) -> Tensor:
        read.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        model(inputs[:2])
    return [DynamicWarning("The network computes gradients in its own forward pass")] if read else []


@torch.enable_grad()
def _climbable(model: nn.Module, inputs: Tensor, logits: Tensor, loss: str) -> list[Caution]:
    inputs, predicted = inputs.clone().requires_grad_(), logits.argmax(dim=1)
    try:
        outputs = model(inputs)
        if loss == "cross-entropy":
            climbed, gap = nn.functional.cross_entropy(outputs, predicted, reduction="none"), torch.zeros(len(inputs))
        else:
            first, second = outputs.topk(2, dim=1).values.unbind(dim=1)
            climbed, gap = second - first, (first - second).detach()
        total = climbed.sum()
        gradient = torch.autograd.grad(total, inputs, allow_unused=True)[0] if total.requires_grad else None
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch's own: of tensors that are changed in place, or taken to numpy
        said = " ".join(str(error).split()).partition(" Hint:")[0]
        raise NoGradientError(said[:200].rstrip(".")) from error
    if gradient is None:  # where weights want gradients the logits may have some, and the images none
        raise NoGradientError("they do not depend on them")
    slope = gradient.flatten(1).abs().sum(dim=1)
    lost = int((~slope.isfinite() | (slope == 0) | (gap.to(slope) > FAR * slope)).sum())
    if not lost:
        return []
    seen = f"The gradient of the {loss} vanishes on {lost} of {len(inputs)} images ({lost / len(inputs):.0%})"
    return [VanishingGradientsWarning(seen)]


def _better_than_guessing(logits: Tensor, labels: Tensor) -> list[Caution]:
    n, classes = logits.shape
    right = int((logits.argmax(dim=1) == labels).sum())
    if n < FEWEST or right > binom.ppf(0.95, n, 1 / classes):
        return []
    return [ChanceAccuracyWarning(f"{right} of the first {n} images are classified as labelled, as guessing would do")]
