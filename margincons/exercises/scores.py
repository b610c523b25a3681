"""Exercises on scores and what they cost."""

import math

from scipy import stats

from margincons.exercises.checking import Function, check


def check_radius_of_votes(student: Function) -> None:
    """Check ``student(votes, samples, sigma, alpha)``, an L2 radius, of page `scores`."""

    def radius(lower: Function) -> Function:
        return lambda votes, samples, sigma, alpha: sigma * stats.norm.ppf(lower(votes, samples, alpha))

    def exact(votes: int, samples: int, alpha: float) -> float:
        return stats.beta.ppf(alpha, votes, samples - votes + 1)

    def normal(votes: int, samples: int, alpha: float) -> float:
        share = votes / samples
        return share - stats.norm.ppf(1 - alpha) * math.sqrt(share * (1 - share) / samples)

    check(
        student,
        cases=[
            {"votes": 90, "samples": 100, "sigma": 0.25, "alpha": 0.001},
            {"votes": 55, "samples": 100, "sigma": 0.5, "alpha": 0.01},
            {"votes": 100, "samples": 100, "sigma": 0.25, "alpha": 0.05},
        ],
        answer=radius(exact),
        mistakes={
            "the share that was counted is an estimate, not a lower bound": radius(lambda v, n, a: v / n),
            "one end of a two-sided interval; only a bound from below is needed, which alpha goes to whole": radius(
                lambda v, n, a: exact(v, n, a / 2)
            ),
            "the normal approximation of the share; it is wrong near 1, where the votes are": radius(normal),
            "this is the upper bound of the share": radius(lambda v, n, a: stats.beta.ppf(1 - a, v + 1, n - v)),
            "the normal quantile is there, sigma is missing": lambda v, n, s, a: stats.norm.ppf(exact(v, n, a)),
            "this is the bound on the share; the radius is sigma times its normal quantile": lambda v, n, s, a: exact(
                v, n, a
            ),
        },
    )
