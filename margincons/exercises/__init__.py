"""Checks for students, one for each exercise of the book that asks for code.

A page leaves a function that returns None; the check prints "not written yet". The page's folded solution passes
through the same check.
"""

from margincons.exercises.attacks import check_fgsm, check_is_adversarial, check_pgd
from margincons.exercises.paper import check_kendall_tau
from margincons.exercises.pitfalls import (
    check_images_needed,
    check_linear_bounds,
    check_median_size,
    check_straight_through,
)
from margincons.exercises.records import (
    check_class_thresholds,
    check_corrected_share,
    check_disagreements,
    check_reordering,
    check_tau_of_records,
    check_to_distance,
)

__all__ = [
    "check_class_thresholds",
    "check_corrected_share",
    "check_disagreements",
    "check_fgsm",
    "check_images_needed",
    "check_is_adversarial",
    "check_kendall_tau",
    "check_linear_bounds",
    "check_median_size",
    "check_pgd",
    "check_reordering",
    "check_straight_through",
    "check_tau_of_records",
    "check_to_distance",
]
