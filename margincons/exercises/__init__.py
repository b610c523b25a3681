"""Checks for students, one for each exercise of the book that asks for code.

A page leaves a function that returns None; the check prints "not written yet". The page's folded solution passes
through the same check.
"""

from margincons.exercises.attacks import check_fgsm, check_is_adversarial, check_pgd
from margincons.exercises.paper import check_kendall_tau

__all__ = ["check_fgsm", "check_is_adversarial", "check_kendall_tau", "check_pgd"]
