"""How an exercise is checked: the student's function against an answer, and against the usual mistakes."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from margincons.errors import WrongAnswerError

Function = Callable[..., Any]


def check(
    student: Function,
    *,
    cases: Sequence[Mapping[str, Any]],
    answer: Function,
    mistakes: Mapping[str, Function],
    tolerance: float = 1e-6,
) -> None:
    """Run a student's function on fixed arguments and say whether it is right.

    What it returns is compared with the answer, then with what the usual mistakes return: a match is explained.
    The answer itself is never shown.

    Args:
        student: The student's function; one that returns None counts as not written yet.
        cases: Arguments by position, given as mappings so that messages can name them; every call gets copies.
        answer: Returns the right result for a case; arrays, tensors, numbers or a sequence of equal shapes.
        mistakes: A hint for each usual mistake, and the function that makes it.
        tolerance: Largest absolute difference that counts as equal.

    Raises:
        WrongAnswerError: If a result is not the answer; the message names the likely mistake, or how far off it is.
    """
    for case in cases:
        given = copy.deepcopy(dict(case))  # the arguments that a careless function may write into
        came = student(*given.values())
        if came is None:
            print("not written yet")
            return
        for name, value in case.items():
            if isinstance(value, Tensor | np.ndarray) and not _alike(given[name], value, 0):
                raise WrongAnswerError(f"the function changes its argument {name} in place; work on a copy")
        expected = answer(*copy.deepcopy(dict(case)).values())
        if _alike(came, expected, tolerance):
            continue
        for hint, mistake in mistakes.items():
            if _alike(came, mistake(*copy.deepcopy(dict(case)).values()), tolerance):
                raise WrongAnswerError(hint)
        raise WrongAnswerError(_difference(array(came), array(expected), tolerance))
    print("Right.")


def _alike(first: Any, second: Any, tolerance: float) -> bool:
    first, second = array(first), array(second)
    if first is None or second is None or first.shape != second.shape:
        return False
    return bool(np.allclose(first, second, rtol=0, atol=tolerance, equal_nan=True))


def array(value: Any) -> np.ndarray | None:
    """Numbers of any wrapping as float64; None for what holds no numbers."""
    value = value.detach().cpu() if isinstance(value, Tensor) else value
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return None


def _difference(came: np.ndarray | None, expected: np.ndarray, tolerance: float) -> str:
    if came is None:
        return "expected numbers, a tensor or an array, got something else"
    if came.shape != expected.shape:
        return f"expected the shape {expected.shape}, got {came.shape}; which axis was summed, kept or forgotten?"
    if np.isnan(came).any() and not np.isnan(expected).any():
        return f"{np.isnan(came).sum()} of {came.size} values are NaN; is something divided by zero?"
    with np.errstate(invalid="ignore"):
        off = np.abs(np.where(came == expected, 0, came - expected))  # equal infinities have no difference
    wrong = int((off > tolerance).sum())
    return f"{wrong} of {came.size} values are wrong, by {off.max():.3g} at most"
