"""Checks for students, one for each exercise of the book that asks for code.

A page leaves a function that returns None; the check prints "not written yet". The page's folded solution passes
through the same check.
"""

from margincons.exercises.attacks import (
    check_fgsm,
    check_is_adversarial,
    check_pgd,
    check_project_l2,
    check_transfer_rate,
)
from margincons.exercises.deployment import check_confident_rank, check_flag_threshold
from margincons.exercises.evaluation import check_least_budget, check_robust_accuracies, check_robustness_margin
from margincons.exercises.measuring import (
    check_mean_excess,
    check_nearest_on_segment,
    check_seconds,
    check_verdicts,
)
from margincons.exercises.paper import (
    check_auroc,
    check_average_precision,
    check_false_alarms,
    check_feature_margin,
    check_kendall_tau,
    check_stretch_spread,
)
from margincons.exercises.pitfalls import (
    check_images_needed,
    check_linear_bounds,
    check_median_size,
    check_straight_through,
)
from margincons.exercises.practice import (
    check_tail_exponent,
    check_worst_threshold,
    check_wrong_class_margin,
)
from margincons.exercises.records import (
    check_class_thresholds,
    check_corrected_share,
    check_disagreements,
    check_reordering,
    check_tau_of_records,
    check_to_distance,
)
from margincons.exercises.scores import check_radius_of_votes
from margincons.exercises.training import check_crossings, check_variability

__all__ = [
    "check_auroc",
    "check_average_precision",
    "check_class_thresholds",
    "check_confident_rank",
    "check_corrected_share",
    "check_crossings",
    "check_disagreements",
    "check_false_alarms",
    "check_feature_margin",
    "check_fgsm",
    "check_flag_threshold",
    "check_images_needed",
    "check_is_adversarial",
    "check_kendall_tau",
    "check_least_budget",
    "check_linear_bounds",
    "check_mean_excess",
    "check_median_size",
    "check_nearest_on_segment",
    "check_pgd",
    "check_project_l2",
    "check_radius_of_votes",
    "check_reordering",
    "check_robust_accuracies",
    "check_robustness_margin",
    "check_seconds",
    "check_straight_through",
    "check_stretch_spread",
    "check_tail_exponent",
    "check_tau_of_records",
    "check_to_distance",
    "check_transfer_rate",
    "check_variability",
    "check_verdicts",
    "check_worst_threshold",
    "check_wrong_class_margin",
]
