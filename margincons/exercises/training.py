"""Exercises on what training does to features and to the bends of a network."""

import numpy as np

from margincons.exercises.checking import Function, check


def check_variability(student: Function) -> None:
    """Check ``student(features, labels)``, the first measure of neural collapse, of page `training`."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), (8, 12, 20))
    features = draw.normal(size=(40, 5)) + 3 * np.eye(3, 5)[labels] + 2

    def parts(h: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        means = np.array([h[y == c].mean(axis=0) for c in range(3)])
        inside = np.mean([np.cov(h[y == c].T, bias=True) for c in range(3)], axis=0)
        return means, inside, np.cov(means.T, bias=True)

    def measure(h: np.ndarray, y: np.ndarray) -> float:
        _, inside, between = parts(h, y)
        return np.trace(inside @ np.linalg.pinv(between, rcond=1e-10)) / 3

    def with_within(h: np.ndarray, y: np.ndarray, inside: np.ndarray) -> float:
        return np.trace(inside @ np.linalg.pinv(parts(h, y)[2], rcond=1e-10)) / 3

    def uncentred(h: np.ndarray, y: np.ndarray) -> float:
        means, inside, _ = parts(h, y)
        return np.trace(inside @ np.linalg.pinv(means.T @ means / 3, rcond=1e-10)) / 3

    check(
        student,
        cases=[{"features": features, "labels": labels}],
        answer=measure,
        mistakes={
            "the number of classes is not divided by": lambda h, y: 3 * measure(h, y),
            "this is the covariance of all features; that of each class, round its own mean, is meant": lambda h, y: (
                with_within(h, y, np.cov(h.T, bias=True))
            ),
            "images were averaged over at once; here classes weigh the same, large or small": lambda h, y: with_within(
                h, y, np.cov((h - parts(h, y)[0][y]).T, bias=True)
            ),
            "the class means were not centred: their spread is round their own mean": uncentred,
            "a ratio of traces weighs directions by their size; the inverse weighs them by what separates classes": (
                lambda h, y: np.trace(parts(h, y)[1]) / np.trace(parts(h, y)[2]) / 3
            ),
        },
    )


def check_crossings(student: Function) -> None:
    """Check ``student(weight, bias, point, frame, radius)``, a count of hyperplanes, of page `training`."""
    draw = np.random.default_rng(0)
    weight, bias, point = draw.normal(size=(200, 6)), draw.normal(size=200), draw.uniform(size=6)
    frame = np.linalg.qr(draw.normal(size=(6, 3)))[0].T

    def reach(w: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.abs(w @ v.T).max(axis=1)

    check(
        student,
        cases=[
            {"weight": weight, "bias": bias, "point": point, "frame": frame, "radius": radius} for radius in (0.3, 1.0)
        ],
        answer=lambda w, b, x, v, r: (np.abs(w @ x + b) < r * reach(w, v)).sum(),
        mistakes={
            "the hyperplanes that cut a ball were counted; the polytope is smaller": lambda w, b, x, v, r: (
                np.abs(w @ x + b) < r * np.linalg.norm(w, axis=1)
            ).sum(),
            "one vertex of a pair is not enough: both x + r v and x - r v are vertices": lambda w, b, x, v, r: (
                np.ptp(np.sign(w @ (x + r * v).T + b[:, None]), axis=1) > 0
            ).sum(),
            "the vertices' offsets were added up; each vertex moves along one direction": lambda w, b, x, v, r: (
                np.abs(w @ x + b) < r * np.abs(w @ v.T).sum(axis=1)
            ).sum(),
            "the bias is forgotten: the hyperplanes do not all pass through 0": lambda w, b, x, v, r: (
                np.abs(w @ x) < r * reach(w, v)
            ).sum(),
            "these are the ReLUs that are on at the image; asked for are those that change": lambda w, b, x, v, r: (
                w @ x + b > 0
            ).sum(),
            "these are the hyperplanes that miss the polytope": lambda w, b, x, v, r: (
                np.abs(w @ x + b) >= r * reach(w, v)
            ).sum(),
        },
    )
