"""What a run will cost, before it starts: passes per image, times operations per pass, over a device's rate.

A floating-point operation (FLOP) is one multiplication or one addition, as `torch.utils.flop_counter` counts them in
convolutions and matrix products; everything else is left out, and so is an attack's own arithmetic.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from margincons.checks import warn_before_work
from margincons.devices import choose_device
from margincons.margins import input_margins, options_of
from margincons.prepare import prepare
from margincons.records import read_record
from margincons.shards import plan

PEAK_RATES = {  # FLOP/s in fp32 by the vendor's data sheets; a network reaches a part of it
    "Titan Xp": 12.1e12,
    "V100": 15.7e12,
    "A100": 19.5e12,
    "H100": 66.9e12,
}
PILOT = 4  # images on which the passes of our attack are counted
_TARGETS = 9  # classes that targeted attacks try at most


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Passes through a network that an attack needs, per image."""

    forward: float
    backward: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations of one pass of one image, in FLOP."""

    forward: float
    backward: float  # to the gradient with respect to the image; weights need none

    def of(self, passes: Passes) -> float:
        """FLOP per image of an attack."""
        return passes.forward * self.forward + passes.backward * self.backward


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A run, priced."""

    images: int
    passes: Passes
    work: Work
    rate: float  # FLOP/s that the device reaches on this network

    @property
    def flop(self) -> float:
        """Operations of the whole run."""
        return self.images * self.work.of(self.passes)

    @property
    def seconds(self) -> float:
        """Time that the passes take."""
        return self.flop / self.rate

    def __str__(self) -> str:
        """One line for the terminal."""
        if not self.images:
            return "all images are measured already"
        return (
            f"{self.images} images, {self.passes.forward:.0f} forward and {self.passes.backward:.0f} backward passes "
            f"each, {_si(self.work.forward)}FLOP per forward pass: {_si(self.flop)}FLOP; at {_si(self.rate)}FLOP/s "
            f"about {duration(self.seconds)}"
        )


def passes_per_image(attack: str, *, effort: str = "standard", norm: str = "Linf", classes: int = 10) -> Passes:
    """Passes that an attack needs per image.

    Those of ours are the means of the shipped benchmark on CIFAR-10, three times as many in L1, where an effort takes
    three times the steps: it follows a few rivals however many classes there are, while FAB follows all of them. On
    small images it takes more; `predict` counts on the images themselves. AutoAttack's are those of an image that
    stands to the end; each image that falls saves some.

    Args:
        attack: A key of `margincons.margins.MINIMUM_NORM` or `FIXED_BUDGET`.
        effort: One of its efforts.
        norm: "Linf", "L2" or "L1".
        classes: Number of logits.

    Raises:
        UnknownNameError: If there is no such attack or effort.
    """
    options, targets = options_of(attack, effort), min(_TARGETS, classes - 1)
    restarts, steps = options.get("restarts", 1), options.get("steps", 0)
    if attack == "minimum_norm":
        results = read_record("benchmark/Linf")
        ours = (results["attack"] == f"ours {effort}") & (results["set"] == "cifar")
        mean = results[ours][["forward", "backward"]].mean()
        times = 3 if norm == "L1" else 1
        return Passes(forward=times * mean["forward"], backward=times * mean["backward"])
    return {
        "fab_paper": Passes(forward=212, backward=100 * classes),
        "fab_restarts": Passes(forward=1 + 202 * restarts, backward=100 * classes * restarts),
        "fab_targeted": Passes(forward=1 + 203 * targets * restarts, backward=100 * targets * restarts),
        "autoattack": Passes(forward=5119 + 305 * targets, backward=101 + 201 * targets),
        "pgd": Passes(forward=steps + 1, backward=steps),
        "fgsm": Passes(forward=1, backward=1),
    }[attack]


def work_per_pass(model: nn.Module, shape: tuple[int, ...]) -> Work:
    """Operations of one forward pass and of one backward pass to the image.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k); on the "meta" device nothing is computed.
        shape: Of one image, (c, h, w).
    """
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    image = torch.full((1, *shape), 0.5, device=device, requires_grad=True)
    with torch.enable_grad():
        with FlopCounterMode(display=False) as counter:
            logits = model(image)
        forward = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(logits.sum(), image)
    return Work(forward=forward, backward=counter.get_total_flops())


def achieved_rate(
    model: nn.Module, inputs: Tensor, *, seconds: float = 0.5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """FLOP/s that passes of these images reach on the device they are on, by the fastest of several.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: One batch, as large as the run's.
        seconds: How long to repeat the passes; three times at least.
        clock: What tells the time: `time.process_time` for one thread, on a machine that does other work too.
    """
    work = work_per_pass(model, tuple(inputs.shape[1:]))
    best, end, timed = float("inf"), clock() + seconds, 0
    while timed < 4 or clock() < end:  # the first makes room and picks algorithms
        started = clock()
        images = inputs.clone().requires_grad_()
        with torch.enable_grad():
            torch.autograd.grad(model(images).sum(), images)
        if inputs.device.type == "cuda":
            torch.cuda.synchronize(inputs.device)
        best, timed = min(best, clock() - started), timed + 1
    return len(inputs) * (work.forward + work.backward) / best


def predict(
    model: nn.Module, inputs: Tensor, *, images: int, clock: Callable[[], float] = time.perf_counter, **attack: Any
) -> Cost:
    """Price a run by timing a few passes of one batch; how many ours needs is counted on the first few images.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: One batch of the run, on the device.
        images: How many images the run is for.
        clock: As `achieved_rate` takes it.
        attack: "attack", "effort" and "norm", as `passes_per_image` takes them.
    """
    if attack["attack"] == "minimum_norm":
        found = input_margins(model, inputs[:PILOT], **attack)
        forward, backward = found.forward_passes.mean().item(), found.backward_passes.mean().item()
        passes = Passes(forward=forward, backward=backward)
    else:
        with torch.no_grad():
            passes = passes_per_image(**attack, classes=model(inputs[:1]).shape[1])
    return Cost(
        images=images,
        passes=passes,
        work=work_per_pass(model, tuple(inputs.shape[1:])),
        rate=achieved_rate(model, inputs, clock=clock),
    )


def price(model_id: str, data: str, *, out: str | Path | None = None, **options: Any) -> Cost:
    """Check a run as `margincons.measure` does and price what is left of it, without measuring or writing anything.

    It is timed on this machine even where a cluster is to measure, on a device like its workers' if there is one.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes.
        out: Folder of the record, whose finished images cost nothing more; None prices the whole run.
        options: Further options of `margincons.measure`, but for "progress".

    Raises:
        MarginError: Whatever `margincons.measure` would raise before work, except that another process may be writing
            the record.
    """
    asked = prepare(model_id, data, out=out, **options)
    classifier, images, settings = asked.classifier, asked.images, asked.settings
    warn_before_work(classifier, images, settings)
    left = len(images)
    if out is not None:
        left = sum(len(shard.rows) for shard in plan(Path(out), settings, images).missing)
    device = choose_device("auto") if settings["device"] == "cuda" else "cpu"
    inputs = images.inputs[: settings["batch_size"]].to(device)
    attack = {name: settings[name] for name in ("attack", "effort", "norm")}
    return predict(classifier.model.to(device), inputs, images=left, **attack)


def duration(seconds: float) -> str:
    """Write a time with two digits in the largest unit that fits: "0.40 s", "12 min", "3.1 h", "5.2 days"."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds)} s"


def _si(value: float) -> str:
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{_two_digits(value / size)} {prefix}"
    return f"{_two_digits(value)} "


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2g}"
