import torch
from scipy.optimize import brentq

from margincons.certificates.roots import last_positive

FUNCTIONS = [
    lambda r: 1 - 3 * r,
    lambda r: 0.3 - r - 50 * r**4,
    lambda r: 2.0 ** (-8 * r) - 0.4,
    lambda r: 1e-6 - r**3,
    lambda r: 1.0 if r < 0.123 else -100.0,  # a jump
]


def evaluate(calls, radius, which):
    calls.append(which.tolist())
    return radius.new_tensor([FUNCTIONS[i](r) for i, r in zip(which.tolist(), radius.tolist(), strict=True)])


def solve(tolerance):
    calls, n = [], len(FUNCTIONS)
    low, high = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    everyone = torch.arange(n)
    ends = evaluate([], low, everyone), evaluate([], high, everyone)
    found = last_positive(lambda r, i: evaluate(calls, r, i), low, high, ends, tolerance=tolerance)
    return found, calls


def test_every_root_is_approached_from_its_positive_side():
    found, _ = solve(1e-6)
    for function, radius in zip(FUNCTIONS, found.tolist(), strict=True):
        root = brentq(function, 0, 1, xtol=1e-12)
        assert function(radius) > 0
        assert root * (1 - 2e-6) <= radius <= root * (1 + 1e-9)


def test_smooth_functions_take_far_fewer_evaluations_than_bisection():
    _, calls = solve(1e-9)
    assert sum(1 in which for which in calls) < 15  # bisection: 30
    assert len(calls[-1]) < len(FUNCTIONS)  # and those that are done are left alone
