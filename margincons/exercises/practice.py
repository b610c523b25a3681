"""Exercises of the part from paper to practice."""

import numpy as np

from margincons.exercises.checking import Function, check
from margincons.exercises.paper import MARGINS
from margincons.scaling import tail_exponent


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
