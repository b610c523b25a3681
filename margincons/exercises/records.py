"""Exercises on records: what tables of margins are joined, thresholded and averaged into."""

import numpy as np
import pandas as pd
import torch
from scipy.stats import pearsonr

from margincons.errors import WrongAnswerError
from margincons.exercises.checking import Function, array, check
from margincons.exercises.fixtures import digits, network
from margincons.statistics.metrics import kendall_tau


def check_corrected_share(student: Function) -> None:
    """Check ``student(robust_few, guess_few, guess_all)``, a corrected share, of page `robust_accuracy`."""
    draw = np.random.default_rng(0)
    guess_all = draw.random(300) < 0.7
    robust_few = guess_all[:40] & (draw.random(40) < 0.8)
    check(
        student,
        cases=[{"robust_few": robust_few, "guess_few": guess_all[:40], "guess_all": guess_all}],
        answer=lambda few, guess, every: every.mean() + few.mean() - guess.mean(),
        mistakes={
            "the guesses are believed: nothing corrects them": lambda few, guess, every: every.mean(),
            "only the attacked images are counted; the guesses about the others are unused": lambda few, guess, every: (
                few.mean()
            ),
            "the correction has the wrong sign": lambda few, guess, every: every.mean() - few.mean() + guess.mean(),
            "the correction is a mean over the attacked images, not over all": lambda few, guess, every: (
                every.mean() + (few.sum() - guess.sum()) / len(every)
            ),
        },
    )


def check_disagreements(student: Function) -> None:
    """Check ``student(upper, correct, standing, epsilon)``, two counts of disagreements, of page `sanity`."""
    upper = np.array([0.05, 0.1, 0.15, 0.2, 0.04, 0.3, 0.12, 0.07, 0.1, 0.25, 0.11])
    correct = np.array([1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1], dtype=bool)
    standing = np.array([0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0], dtype=bool)

    def counts(upper: np.ndarray, correct: np.ndarray, standing: np.ndarray, epsilon: float) -> list[int]:
        return [int((correct & (upper > epsilon) & ~standing).sum()), int((standing & (upper <= epsilon)).sum())]

    check(
        student,
        cases=[{"upper": upper, "correct": correct, "standing": standing, "epsilon": 0.1}],
        answer=counts,
        mistakes={
            "the two counts are swapped": lambda u, c, s, e: counts(u, c, s, e)[::-1],
            "wrong decisions are counted as robust: no attack was needed on them": lambda u, c, s, e: counts(
                u, np.ones_like(c), s, e
            ),
            "a margin of exactly epsilon is reached within the ball": lambda u, c, s, e: counts(u, c, s, e - 1e-9),
            "these are the agreements": lambda u, c, s, e: counts(u, c, ~s, e),
        },
    )


def check_reordering(student: Function) -> None:
    """Check ``student(logits)``, which keeps each row's order and not that of margins, of page `doubts`."""
    logits = network("digits/pgd_at")(digits(100)[0])
    came = student(logits.clone())
    if came is None:
        print("not written yet")
        return
    came, again = array(came), array(student(logits[1::2].clone()))
    if came is None or came.shape != logits.shape:
        got = "something else" if came is None else came.shape
        raise WrongAnswerError(f"expected logits of the shape {tuple(logits.shape)}, got {got}")
    if again is None or again.shape != came[1::2].shape or not np.allclose(again, came[1::2], equal_nan=True):
        raise WrongAnswerError("an image's new logits depend on the rest of the batch, or on chance")
    logits, came = logits.double(), torch.from_numpy(came)
    if (came.sort(dim=1).values.diff(dim=1) == 0).any():
        raise WrongAnswerError("logits tie that did not before: the map saturates, or is not strictly increasing")
    if (came.argmax(dim=1) != logits.argmax(dim=1)).any():
        raise WrongAnswerError("decisions change: the largest logit must stay the largest")
    if (came.argsort(dim=1) != logits.argsort(dim=1)).any():
        raise WrongAnswerError("decisions stay, but the order of the other classes changes")
    before, after = (table.topk(2, dim=1).values.diff(dim=1)[:, 0] for table in (logits, came))
    if (before.argsort() == after.argsort()).all():
        raise WrongAnswerError("the images' margins are ordered as before, so tau is the same")
    print("Right.")


def check_tau_of_records(student: Function) -> None:
    """Check ``student(first, second)``, the tau of two records' margins, of page `cifar10`."""
    draw = np.random.default_rng(0)
    margins = draw.gamma(3.0, 0.05, 30)
    first = pd.DataFrame({"index": np.arange(30), "upper": margins})
    second = pd.DataFrame({"index": np.arange(5, 30), "upper": 3 * margins[5:] + draw.normal(0, 0.2, 25)})
    second = second.sample(frac=1, random_state=0).reset_index(drop=True)
    first.loc[[7, 20, 22], "upper"] = np.inf

    def joined(first: pd.DataFrame, second: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        both = first.merge(second, on="index")
        return both["upper_x"].to_numpy(), both["upper_y"].to_numpy()

    def finite(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = np.isfinite(one) & np.isfinite(other)
        return one[kept], other[kept]

    def by_position(first: pd.DataFrame, second: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        length = min(len(first), len(second))
        return first["upper"].to_numpy()[:length], second["upper"].to_numpy()[:length]

    check(
        student,
        cases=[{"first": first, "second": second}],
        answer=lambda first, second: kendall_tau(*finite(*joined(first, second))),
        mistakes={
            "images without a bound are ranked; leave out what has no finite margin in both": lambda a, b: kendall_tau(
                *joined(a, b)
            ),
            "rows are paired by position; records may hold other images in another order": lambda a, b: kendall_tau(
                *finite(*by_position(a, b))
            ),
            "rows are paired by position, and images without a bound are ranked": lambda a, b: kendall_tau(
                *by_position(a, b)
            ),
            "this is Pearson's correlation; the two norms have different units and shapes": lambda a, b: pearsonr(
                *finite(*joined(a, b))
            )[0],
        },
    )


def check_class_thresholds(student: Function) -> None:
    """Check ``student(score, brittle, predicted, tpr)``, a threshold for each class, of page `per_class`."""
    draw = np.random.default_rng(0)
    predicted = np.arange(120) % 3
    score = draw.gamma(2.0, 1 + predicted)
    brittle = score + draw.normal(0, 1, 120) < 1.5 + predicted

    def lowest(values: np.ndarray, tpr: float) -> float:
        return np.sort(values)[int(np.ceil(tpr * len(values) - 1e-9)) - 1]

    def thresholds(score: np.ndarray, chosen: np.ndarray, predicted: np.ndarray, tpr: float) -> np.ndarray:
        return np.array([lowest(score[chosen & (predicted == c)], tpr) for c in np.unique(predicted)])

    check(
        student,
        cases=[{"score": score, "brittle": brittle, "predicted": predicted, "tpr": tpr} for tpr in (0.95, 0.6)],
        answer=thresholds,
        mistakes={
            "this is one threshold for all classes": lambda s, b, p, t: np.full(3, lowest(s[b], t)),
            "robust images count too; the share to find is of the brittle ones": lambda s, b, p, t: thresholds(
                s, np.ones_like(b), p, t
            ),
            "the promise is made to the robust images": lambda s, b, p, t: thresholds(s, ~b, p, t),
            "small logit margins are flagged; this threshold finds the other end": lambda s, b, p, t: (
                -thresholds(-s, b, p, t)
            ),
            "interpolated between two images, it may find fewer than promised": lambda s, b, p, t: np.array(
                [np.quantile(s[b & (p == c)], t) for c in range(3)]
            ),
        },
    )


def check_to_distance(student: Function) -> None:
    """Check ``student(scores, margins, new_scores)``, distances for scores, of page `pseudo_margin`."""
    draw = np.random.default_rng(0)
    margins = draw.gamma(3.0, 0.05, 40)
    scores = np.log(margins) + draw.normal(0, 0.3, 40)
    new_scores = np.concatenate([draw.choice(scores, 5), draw.uniform(-5, 1, 20)])
    order = np.argsort(scores)
    check(
        student,
        cases=[{"scores": scores, "margins": margins, "new_scores": new_scores}],
        answer=lambda s, m, new: np.interp(new, np.sort(s), np.sort(m)),
        mistakes={
            "the scores are not in order, and interpolation wants a rising axis": lambda s, m, new: np.interp(
                new, s, np.sort(m)
            ),
            "neither scores nor margins are in order": lambda s, m, new: np.interp(new, s, m),
            "each score got its own image's margin, so a higher score may get a smaller distance": lambda s, m, new: (
                np.interp(new, s[order], m[order])
            ),
            "a straight line: the score has no unit, only its order is known": lambda s, m, new: np.polyval(
                np.polyfit(s, m, 1), new
            ),
            "the larger the score, the larger the distance; this one falls": lambda s, m, new: np.interp(
                new, np.sort(s), np.sort(m)[::-1]
            ),
        },
    )
