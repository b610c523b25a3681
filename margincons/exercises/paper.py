"""Exercises of the paper's part: separation, correlation, detection, features."""

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from margincons.classifier import Head
from margincons.exercises.checking import Function, check
from margincons.scores import feature_margin
from margincons.statistics.metrics import aupr_trapezoid, auroc, average_precision, kendall_tau, log_spread

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


def check_false_alarms(student: Function) -> None:
    """Check ``student(margins, scores, epsilon)``, a count of robust images flagged, of page `theorem`."""
    tied = np.array([0.9, 0.4, 1.8, 1.8, 3.5, 2.2, 1.1, 3.1])  # a robust image has the largest score of a brittle one

    def alarms(margins: np.ndarray, scores: np.ndarray, epsilon: float) -> int:
        threshold = scores[margins <= epsilon].max(initial=-np.inf)
        return ((margins > epsilon) & (scores <= threshold)).sum()

    check(
        student,
        cases=[{"margins": MARGINS, "scores": tied, "epsilon": epsilon} for epsilon in (0.08, 0.12, 0.01)],
        answer=alarms,
        mistakes={
            "a robust image whose score is just the threshold is flagged too": lambda m, s, e: (
                (m > e) & (s < s[m <= e].max(initial=-np.inf))
            ).sum(),
            "brittle images are no false alarms, yet they are counted": lambda m, s, e: (
                s <= s[m <= e].max(initial=-np.inf)
            ).sum(),
            "the threshold is the largest score of a brittle image: a smaller one misses some": lambda m, s, e: (
                (m > e) & (s <= s[m <= e].min(initial=np.inf))
            ).sum(),
            "this counts the robust images that are left alone": lambda m, s, e: (m > e).sum() - alarms(m, s, e),
        },
    )


def check_auroc(student: Function) -> None:
    """Check ``student(brittle, logit_margins)``, the AUROC of the score minus logit margin, of page `detection`."""
    brittle, tied = np.array([1, 1, 0, 1, 0, 0, 0, 0], dtype=bool), np.array([0.9, 0.4, 1.8, 1.1, 0.4, 1.1, 9, 0.2])

    def pairs(brittle: np.ndarray, logit_margins: np.ndarray) -> np.ndarray:
        return np.subtract.outer(logit_margins[~brittle], logit_margins[brittle])  # above 0: ordered rightly

    check(
        student,
        cases=[{"brittle": brittle, "logit_margins": tied}],
        answer=lambda brittle, margins: auroc(brittle, -margins),
        mistakes={
            "the sign is turned: small logit margins mean brittle": auroc,
            "a pair of equal logit margins counts one half, not nothing": lambda b, m: (pairs(b, m) > 0).mean(),
            "a pair of equal logit margins counts one half, not fully": lambda b, m: (pairs(b, m) >= 0).mean(),
            "divide by the pairs of a brittle and a robust image, not by all pairs": lambda b, m: (
                auroc(b, -m) * b.sum() * (~b).sum() / (len(b) * (len(b) - 1) / 2)
            ),
            "this is the share of rightly ordered pairs less that of the others; AUROC is between 0 and 1": (
                lambda b, m: 2 * auroc(b, -m) - 1
            ),
        },
    )


def check_average_precision(student: Function) -> None:
    """Check ``student(brittle, score)``, precision averaged over the brittle images found, of page `epsilon_sweep`."""
    brittle, score = np.array([0, 1, 1, 0, 1, 0, 0, 1], dtype=bool), np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1])

    def precisions(brittle: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = brittle[np.argsort(-score)]
        return found, found.cumsum() / np.arange(1, len(found) + 1)

    shuffled = np.random.default_rng(0).permutation(len(score))
    check(
        student,
        cases=[{"brittle": brittle[shuffled], "score": score[shuffled]}],
        answer=average_precision,
        mistakes={
            "this averages precision over all ranks; only those at which a brittle image is found count": lambda b, s: (
                precisions(b, s)[1].mean()
            ),
            "the images are taken from the least score upwards; the highest come first": lambda b, s: average_precision(
                b, -s
            ),
            "these are trapezoids under the curve, which joins points that no threshold reaches": aupr_trapezoid,
            "this is the share of brittle images": lambda b, s: b.mean(),
            "the sum is divided by the number of all images; divide by that of the brittle ones": lambda b, s: (
                average_precision(b, s) * b.mean()
            ),
        },
    )


def check_stretch_spread(student: Function) -> None:
    """Check ``student(input_margins, feature_distances)``, the spread of the log stretch, of page `isometry`."""
    distances = np.array([0.2, 0.4, 0.5, 0.9, 0.8, 1.6, 1.2, 2.4])
    check(
        student,
        cases=[{"input_margins": MARGINS, "feature_distances": distances}],
        answer=lambda margins, distances: log_spread(distances / margins),
        mistakes={
            "the logarithm is missing, so the number changes when all features are multiplied": lambda m, d: np.std(
                d / m
            ),
            "this is the spread of the feature distances; divide them by the input margins first": lambda m, d: (
                log_spread(d)
            ),
            "this is the spread of the margins, not of the stretch": lambda m, d: log_spread(m),
            "the logarithm is to the base 10; use the natural one, so that 0.1 means ten percent": lambda m, d: np.std(
                np.log10(d / m)
            ),
            "this is the mean of the logarithms, not their spread": lambda m, d: np.log(d / m).mean(),
            "this is the variance; the root is missing": lambda m, d: np.log(d / m).var(),
        },
    )


def check_feature_margin(student: Function) -> None:
    """Check ``student(logits, weight)``, exact margins (n,) in l_inf of features, of page `classifier_distances`."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 6, generator=draw, dtype=torch.float64) * torch.arange(1, 6).view(5, 1)
    logits = torch.randn(40, 6, generator=draw, dtype=torch.float64) @ weight.T

    def ratios(logits: Tensor, weight: Tensor, order: float) -> tuple[Tensor, Tensor]:
        """Gap to every class and distance between the rows, both (n, k), infinite and 1 for the class decided for."""
        decided = logits.argmax(dim=1, keepdim=True)
        gaps = (logits.gather(1, decided) - logits).scatter(1, decided, torch.inf)
        apart = (weight[decided[:, 0]][:, None] - weight[None]).norm(p=order, dim=2).scatter(1, decided, 1.0)
        return gaps, apart

    def runner_up(logits: Tensor, weight: Tensor) -> Tensor:
        gaps, apart = ratios(logits, weight, 1)
        second = gaps.argmin(dim=1, keepdim=True)
        return (gaps.gather(1, second) / apart.gather(1, second))[:, 0]

    def least(order: float) -> Function:
        return lambda logits, weight: torch.div(*ratios(logits, weight, order)).amin(dim=1)

    check(
        student,
        cases=[{"logits": logits, "weight": weight}],
        answer=lambda f, w: feature_margin(f, Head(weight=w, bias=torch.zeros(len(w))), norm="Linf"),
        mistakes={
            "distances between rows are Euclidean here; the dual of l_inf is l_1": least(2),
            "distances between rows are in l_inf itself; its dual is needed": least(torch.inf),
            "only the runner-up was looked at; a rival further behind may be nearer": runner_up,
            "this is the logit margin: nothing is divided": lambda f, w: ratios(f, w, 1)[0].amin(dim=1),
            "the class decided for is its own rival: leave it out of the minimum": lambda f, w: torch.zeros(len(f)),
        },
    )
