"""Exercises on detectors: thresholds that keep a promise on new images."""

import numpy as np
from scipy import stats

from margincons.exercises.checking import Function, check
from margincons.statistics.conformal import conformal_rank, conformal_threshold

# Logit margins of eleven images, in no order, and which of them are brittle: nine are.
LOGIT_MARGINS = np.array([2.5, 0.3, 7.0, 1.1, 0.8, 4.2, 0.1, 3.1, 9.0, 1.9, 5.4])
BRITTLE = np.array([1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1], dtype=bool)


def check_flag_threshold(student: Function) -> None:
    """Check ``student(logit_margins, brittle, miss_rate)``, a logit margin, of page `detector`."""

    def falling(margins: np.ndarray, brittle: np.ndarray) -> np.ndarray:
        return np.sort(margins[brittle])[::-1]

    check(
        student,
        cases=[{"logit_margins": LOGIT_MARGINS, "brittle": BRITTLE, "miss_rate": rate} for rate in (0.3, 0.1)]
        + [{"logit_margins": LOGIT_MARGINS, "brittle": BRITTLE, "miss_rate": 0.05}],  # which nine cannot promise
        answer=lambda s, b, r: -conformal_threshold(-s[b], r) if conformal_rank(b.sum(), r) else np.inf,
        mistakes={
            "all images were ranked; the promise is about the brittle ones, so rank only those": lambda s, b, r: (
                np.sort(s)[::-1][int(r * (len(s) + 1)) - 1]
            ),
            "this is one rank too far: of k = floor(rate (m + 1)), the k-th largest is flagged too": lambda s, b, r: (
                falling(s, b)[int(r * (b.sum() + 1))]
            ),
            "this flags the smallest margins only; a miss is a brittle image whose margin is large": lambda s, b, r: (
                falling(s, b)[::-1][int(r * (b.sum() + 1)) - 1]
            ),
            "a quantile of the calibration images forgets the new image, which makes m + 1 of them": lambda s, b, r: (
                np.quantile(s[b], 1 - r)
            ),
            "a quantile of the calibration images, at whichever end, forgets the new image": lambda s, b, r: (
                np.quantile(s[b], r)
            ),
            "where there are too few brittle images to promise that rate, all must be flagged": lambda s, b, r: falling(
                s, b
            )[int(r * (b.sum() + 1) + 1e-9) - 1],
            "the robust images were ranked": lambda s, b, r: np.sort(s[~b])[::-1][0],
        },
    )


def check_confident_rank(student: Function) -> None:
    """Check ``student(m, miss_rate, confidence)``, a rank, of page `detector`."""

    def largest(m: int, rate: float, keeps: Function) -> int:
        return max([k for k in range(1, m + 1) if keeps(k, m, rate)], default=0)

    def rank(keeps: Function) -> Function:
        return lambda m, rate, confidence: largest(m, rate, lambda k, m, r: keeps(k, m, r, confidence))

    check(
        student,
        cases=[
            {"m": m, "miss_rate": rate, "confidence": 0.95}
            for m, rate in ((100, 0.1), (400, 0.1), (60, 0.2), (20, 0.1))
        ],
        answer=rank(lambda k, m, r, c: stats.beta(k, m + 1 - k).cdf(r) >= c),
        mistakes={
            "this is the rank whose mean miss rate is promised; about half of all calibrations miss more": (
                lambda m, r, c: conformal_rank(m, r)
            ),
            "this keeps the promise with the probability 1 - confidence": rank(
                lambda k, m, r, c: stats.beta(k, m + 1 - k).cdf(r) >= 1 - c
            ),
            "the second parameter of the Beta law is m + 1 - k": rank(
                lambda k, m, r, c: stats.beta(k, m + 1).cdf(r) >= c
            ),
            "the parameters of the Beta law are exchanged: the k smallest of m + 1 are few": rank(
                lambda k, m, r, c: stats.beta(m + 1 - k, k).cdf(r) >= c
            ),
        },
    )
