"""Exercises of the part on measuring margins: bisection, excess, verdicts of brackets, the price of a run."""

import numpy as np
from torch import Tensor, nn

from margincons.exercises.checking import Function, check
from margincons.exercises.fixtures import digits, network


def check_nearest_on_segment(student: Function) -> None:
    """Check ``student(model, image, witness, steps)``, a bisection that ends at a witness, of page `attack`."""
    model, images = network(), digits(40)[0]
    image, decided = images[:1], model(images).argmax(dim=1)
    halfway = model((images + image) / 2).argmax(dim=1)
    witness = images[(decided != decided[0]) & (halfway != decided[0])][:1]  # the first half already crosses

    def ends(model: nn.Module, image: Tensor, witness: Tensor, steps: int) -> list[Tensor]:
        low, high = 0.0, 1.0
        for _ in range(steps):
            middle = (low + high) / 2
            crossed = bool(model(image + middle * (witness - image)).argmax() != model(image).argmax())
            low, high = (low, middle) if crossed else (middle, high)
        return [image + end * (witness - image) for end in (low, (low + high) / 2, high)]

    check(
        student,
        cases=[{"model": model, "image": image, "witness": witness, "steps": steps} for steps in (2, 3, 12)],
        answer=lambda *case: ends(*case)[2],
        mistakes={
            "this point still has the image's class: it is no witness, and bounds nothing": lambda *case: ends(*case)[
                0
            ],
            "the middle of the last interval may lie on either side": lambda *case: ends(*case)[1],
            "this is the witness as it was given": lambda model, image, witness, steps: witness,
            "one halving too few": lambda model, image, witness, steps: ends(model, image, witness, steps - 1)[2],
        },
        tolerance=1e-9,
    )


def check_mean_excess(student: Function) -> None:
    """Check ``student(bounds, reference)``, a mean excess and the share of failures, of page `tightness`."""
    draw = np.random.default_rng(0)
    reference = draw.gamma(3.0, 0.05, 40)
    bounds = reference * (1 + draw.exponential(0.05, 40))
    bounds[[3, 17, 30, 31]] = np.inf
    found = np.isfinite(bounds)

    def excess(bounds: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return (bounds / reference - 1)[np.isfinite(bounds)]

    check(
        student,
        cases=[{"bounds": bounds, "reference": reference}, {"bounds": bounds[found], "reference": reference[found]}],
        answer=lambda b, r: (excess(b, r).mean(), np.isinf(b).mean()),
        mistakes={
            "images on which the attack failed make the mean infinite; count them apart": lambda b, r: (
                (b / r - 1).mean(),
                np.isinf(b).mean(),
            ),
            "a failure counts as no excess at all: leave it out above and below the line": lambda b, r: (
                excess(b, r).sum() / len(b),
                np.isinf(b).mean(),
            ),
            "this is a difference, in units of the margin; an excess is relative": lambda b, r: (
                (b - r)[np.isfinite(b)].mean(),
                np.isinf(b).mean(),
            ),
            "large margins weigh more in a ratio of means; average the ratios": lambda b, r: (
                b[np.isfinite(b)].mean() / r[np.isfinite(b)].mean() - 1,
                np.isinf(b).mean(),
            ),
            "this is the ratio, not what it exceeds 1 by": lambda b, r: (excess(b, r).mean() + 1, np.isinf(b).mean()),
            "the second number is the share of images that have a bound": lambda b, r: (
                excess(b, r).mean(),
                np.isfinite(b).mean(),
            ),
        },
    )


def check_verdicts(student: Function) -> None:
    """Check ``student(lower, upper, epsilon)``, numbers of robust, brittle and undecided images, of page `brackets`."""
    lower = np.array([0.02, 0.05, 0.1, 0.1, 0.12, 0.2, 0.0, 0.08, 0.15, 0.03, 0.01])
    upper = np.array([0.04, 0.1, 0.1, 0.13, 0.14, np.inf, 0.3, 0.2, 0.16, 0.09, 0.12])

    def counts(lower: np.ndarray, upper: np.ndarray, epsilon: float) -> list[int]:
        robust, brittle = lower > epsilon, upper <= epsilon
        return [int(part.sum()) for part in (robust, brittle, ~robust & ~brittle)]

    check(
        student,
        cases=[{"lower": lower, "upper": upper, "epsilon": epsilon} for epsilon in (0.1, 0.02)],
        answer=counts,
        mistakes={
            "a margin may equal a lower bound of epsilon, and would be brittle then": lambda lo, up, e: counts(
                np.where(lo == e, np.inf, lo), up, e
            ),
            "a decision with a witness at exactly epsilon is brittle": lambda lo, up, e: counts(
                lo, np.where(up == e, np.inf, up), e
            ),
            "an attack that found nothing nearer proves nothing: robust needs the lower bound": lambda lo, up, e: [
                int((up > e).sum()),
                int((up <= e).sum()),
                0,
            ],
            "what could not be certified is not thereby brittle": lambda lo, up, e: [
                int((lo > e).sum()),
                int((lo <= e).sum()),
                0,
            ],
            "the first two numbers are swapped": lambda lo, up, e: [counts(lo, up, e)[i] for i in (1, 0, 2)],
        },
    )


def check_seconds(student: Function) -> None:
    """Check ``student(images, passes, gigaflop, teraflop_per_second)``, the price of a run, of page `scale`."""

    def price(images: int, passes: tuple[float, float], gigaflop: tuple[float, float], rate: float) -> float:
        return images * (passes[0] * gigaflop[0] + passes[1] * gigaflop[1]) / (1000 * rate)

    names = ("images", "passes", "gigaflop", "teraflop_per_second")
    runs = [(10_000, (30, 20), (1.1, 2.3), 14.0), (500, (212, 1000), (5.2, 10.0), 3.5)]
    check(
        student,
        cases=[dict(zip(names, run, strict=True)) for run in runs],
        answer=price,
        mistakes={
            "a TFLOP is a thousand GFLOP": lambda *run: 1000 * price(*run),
            "a TFLOP is a thousand GFLOP, not a thousandth of one": lambda *run: 1e6 * price(*run),
            "this is the time of one image": lambda images, *run: price(1, *run),
            "a backward pass has operations of its own, about twice a forward pass's": lambda n, p, g, rate: price(
                n, p, (g[0], g[0]), rate
            ),
            "the two kinds of passes got each other's operations": lambda n, p, g, rate: price(n, p, g[::-1], rate),
            "time is operations divided by the rate": lambda n, p, g, rate: price(n, p, g, 1 / rate),
        },
    )
