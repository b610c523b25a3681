"""Exercises of the paper's part: separation, correlation, detection, features."""

import numpy as np
from scipy.stats import pearsonr, spearmanr

from margincons.exercises.checking import Function, check
from margincons.metrics import kendall_tau

MARGINS = np.array([0.03, 0.05, 0.08, 0.11, 0.12, 0.17, 0.21, 0.3])
SCORES = np.array([0.9, 0.4, 1.8, 1.1, 3.5, 2.2, 9.0, 3.1])


def check_kendall_tau(student: Function) -> None:
    """Check ``student(margins, scores)``, Kendall's tau of two arrays (n,) without ties, of page `correlation`."""

    def signs(margins: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return np.sign(np.subtract.outer(margins, margins) * np.subtract.outer(scores, scores))

    check(
        student,
        cases=[{"margins": MARGINS, "scores": SCORES}, {"margins": MARGINS, "scores": -(SCORES**2)}],
        answer=kendall_tau,
        mistakes={
            "this is the share of concordant pairs; tau also subtracts the share of discordant ones": lambda m, s: (
                (signs(m, s) > 0).sum() / (len(m) * (len(m) - 1))
            ),
            "an image was compared with itself: there are n (n - 1) / 2 pairs, not n^2 / 2": lambda m, s: signs(
                m, s
            ).mean(),
            "every pair was counted twice, or the number of pairs halved": lambda m, s: 2 * kendall_tau(m, s),
            "this is Pearson's correlation, of the values; tau looks at their order alone": lambda m, s: pearsonr(m, s)[
                0
            ],
            "this is Spearman's rho, of the ranks; tau counts pairs": lambda m, s: spearmanr(m, s)[0],
        },
    )
