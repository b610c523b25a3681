"""Exercises of the part from paper to practice."""

import numpy as np
import torch
from torch import Tensor

from margincons.attacks.result import rival_lead
from margincons.detector.attacks import wrong_class_margin
from margincons.exercises.checking import Function, check
from margincons.exercises.paper import MARGINS
from margincons.statistics.conformal import conformal_rank, conformal_threshold
from margincons.studies.scaling import tail_exponent


def check_tail_exponent(student: Function) -> None:
    """Check ``student(margins, k)``, the exponent of small margins from the k least, of page `scaling`."""

    def ratios(margins: np.ndarray, k: int, cut: int) -> np.ndarray:
        ordered = np.sort(margins)
        return ordered[cut] / ordered[:k]

    shuffled = np.random.default_rng(0).permutation(MARGINS)
    check(
        student,
        cases=[{"margins": shuffled, "k": k} for k in (3, 6)],
        answer=lambda margins, k: tail_exponent(margins, k=k).value,
        mistakes={
            "the cut is the margin after the k least, not the largest of them": lambda m, k: (
                k / np.log(ratios(m, k, k - 1)).sum()
            ),
            "this is the mean logarithm itself; the exponent is one over it": lambda m, k: np.log(
                ratios(m, k, k)
            ).mean(),
            "the logarithm is to the base 10": lambda m, k: k / np.log10(ratios(m, k, k)).sum(),
            "the first k margins were taken; sort them first": lambda m, k: k / np.log(m[k] / m[:k]).sum(),
            "the ratios are averaged before the logarithm is taken": lambda m, k: 1 / np.log(ratios(m, k, k).mean()),
        },
    )


def check_worst_threshold(student: Function) -> None:
    """Check ``student(logit_margins, brittle, miss_rate)``, the threshold for the worst kind, of page `shift`."""
    draw = np.random.default_rng(0)
    margins = draw.gamma(2.0, size=(3, 20)) * np.array([[1.0], [3.0], [2.0]])
    brittle = np.arange(20) % np.array([[2], [3], [1]]) == 0  # 10, 7 and 20 of them: 7 cannot promise 0.1

    def each(margins: np.ndarray, brittle: np.ndarray, rate: float) -> list[float]:
        kinds = [row[found] for row, found in zip(margins, brittle, strict=True)]
        return [-conformal_threshold(-row, rate) if conformal_rank(len(row), rate) else np.inf for row in kinds]

    def pooled(margins: np.ndarray, brittle: np.ndarray, rate: float) -> float:
        return -conformal_threshold(-margins[brittle], rate)

    def ranked(margins: np.ndarray, brittle: np.ndarray, beyond: int, rate: float) -> float:
        kinds = zip(margins, brittle, strict=True)
        falling = [np.sort(row[found])[::-1] for row, found in kinds]
        return max(row[conformal_rank(len(row), rate) - 1 + beyond] for row in falling)

    check(
        student,
        cases=[{"logit_margins": margins, "brittle": brittle, "miss_rate": rate} for rate in (0.25, 0.4, 0.1)],
        answer=lambda m, b, rate: max(each(m, b, rate)),
        mistakes={
            "this is the threshold that flags least; on the other kinds it misses more than promised": lambda m, b, r: (
                min(each(m, b, r))
            ),
            "the kinds are pooled: that promises a rate for their mixture and none for each": pooled,
            "an average of thresholds keeps the promise on no kind in particular": lambda m, b, r: np.mean(
                each(m, b, r)
            ),
            "all images were ranked; the promise is about the brittle ones": lambda m, b, r: max(
                each(m, np.ones_like(b), r)
            ),
            "this is one rank too far: of k = floor(rate (m + 1)), the k-th largest is flagged too": lambda m, b, r: (
                ranked(m, b, 1, r)
            ),
            "a kind with too few brittle images to promise that rate has no threshold: all must be flagged": (
                lambda m, b, r: ranked(m, b, 0, r)
            ),
        },
    )


def check_wrong_class_margin(student: Function) -> None:
    """Check ``student(logits, labels)``, the largest lead of a wrong class, of page `adaptive`."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5, generator=draw, dtype=torch.float64)
    labels = torch.randint(5, (12,), generator=draw)
    labels[:4] = logits[:4].argmax(dim=1)  # some still right

    def margin(logits: Tensor) -> Tensor:
        top = logits.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]

    check(
        student,
        cases=[{"logits": logits, "labels": labels}],
        answer=wrong_class_margin,
        mistakes={
            "this is the logit margin of whichever class leads; where the label leads, no wrong class has one": (
                lambda f, y: margin(f)
            ),
            "only the label was subtracted; the wrong class must lead over all others": rival_lead,
            "the label was left out of the race; a wrong class must lead over it, too": lambda f, y: margin(
                f.scatter(1, y[:, None], -torch.inf)
            ),
            "the sign is turned: a wrong class that leads has a positive margin": lambda f, y: (
                -wrong_class_margin(f, y)
            ),
            "where the label leads, the value is negative, not 0": lambda f, y: wrong_class_margin(f, y).clamp(min=0),
        },
    )
