"""Exercises on metrics: what a table of margins, or of successes, says."""

import numpy as np

from margincons.exercises.checking import Function, check

CORRECT = np.array([True, True, False, True, True, True, False, True, True, True])
MARGINS = np.array([0.05, 0.1, 0.12, 0.2, np.inf, 0.15, np.inf, 0.3, 0.08, 0.02])  # two failed attacks
SUCCESSES = np.array(  # (budgets, images): from the start, late, never, lost again at a larger budget, last
    [[1, 0, 0, 0, 0], [1, 0, 0, 1, 0], [1, 1, 0, 0, 0], [1, 1, 0, 1, 1]], dtype=bool
)
BUDGETS = np.array([0.05, 0.1, 0.2, 0.4])


def check_robust_accuracies(student: Function) -> None:
    """Check ``student(correct, margins, epsilons)``, robust accuracies (m,), of page `metrics`."""

    def curve(keep: Function) -> Function:
        return lambda correct, margins, epsilons: [keep(correct, margins, epsilon) for epsilon in epsilons]

    check(
        student,
        cases=[{"correct": CORRECT, "margins": MARGINS, "epsilons": np.array([0.0, 0.1, 0.16, 0.5])}],
        answer=curve(lambda c, m, e: (c & (m > e)).mean()),
        mistakes={
            "misclassified images count as robust": curve(lambda c, m, e: (m > e).mean()),
            "images on which the attack failed were dropped; nothing was found for them, so they hold": curve(
                lambda c, m, e: (c & (m > e) & np.isfinite(m)).mean()
            ),
            "misclassified images are missing below the line; the share is of all images": curve(
                lambda c, m, e: (m > e)[c].mean()
            ),
            "a margin of just epsilon is brittle: the ball contains its edge": curve(
                lambda c, m, e: (c & (m >= e)).mean()
            ),
            "this is the share of images that are lost": curve(lambda c, m, e: 1 - (c & (m > e)).mean()),
        },
    )


def check_robustness_margin(student: Function) -> None:
    """Check ``student(correct, margins, accuracy)``, a radius, of page `metrics`."""

    def held(correct: np.ndarray, margins: np.ndarray) -> np.ndarray:
        return np.sort(np.where(correct, margins, 0.0))[::-1]

    check(
        student,
        cases=[{"correct": CORRECT, "margins": MARGINS, "accuracy": accuracy} for accuracy in (0.65, 0.35, 0.9)],
        answer=lambda c, m, a: held(c, m)[int(np.ceil(a * len(m))) - 1],
        mistakes={
            "misclassified images count as if they held; they hold at no radius": lambda c, m, a: np.sort(m)[::-1][
                int(np.ceil(a * len(m))) - 1
            ],
            "the share is taken of the correctly classified images, not of all": lambda c, m, a: np.sort(m[c])[::-1][
                int(np.ceil(a * c.sum())) - 1
            ],
            "one image too few holds at this radius; where the accuracy just ends, the last image still counts": (
                lambda c, m, a: held(c, m)[int(np.ceil(a * len(m)))]
            ),
            "this is the radius at which the wanted share is lost, not kept": lambda c, m, a: held(c, m)[::-1][
                int(np.ceil(a * len(m))) - 1
            ],
        },
    )


def check_least_budget(student: Function) -> None:
    """Check ``student(success, epsilons)``, distances (n,) from successes (m, n), of page `budgets`."""

    def first(success: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
        return np.where(success.any(axis=0), epsilons[success.argmax(axis=0)], np.inf)

    check(
        student,
        cases=[{"success": SUCCESSES, "epsilons": BUDGETS}],
        answer=first,
        mistakes={
            "an image that no budget turned has the first budget; argmax of nothing but False is 0": lambda s, e: e[
                s.argmax(axis=0)
            ],
            "an image that no budget turned has distance 0; nothing was found, so it is infinite": lambda s, e: (
                np.where(s.any(axis=0), first(s, e), 0)
            ),
            "this is the largest budget that succeeded; the least one bounds the distance": lambda s, e: np.where(
                s.any(axis=0), e[len(e) - 1 - s[::-1].argmax(axis=0)], np.inf
            ),
            "failures were counted, which is one too few where an attack fails again at a larger budget": lambda s, e: (
                np.append(e, np.inf)[(~s).sum(axis=0)]
            ),
            "this is the last budget that failed; the least that succeeded is a bound from above": lambda s, e: (
                np.where(s.any(axis=0), np.append(0, e)[s.argmax(axis=0)], np.inf)
            ),
        },
    )
