"""Every solution of the book passes its check, and the usual wrong answers, made from the solution, do not."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from margincons import exercises
from margincons.errors import WrongAnswerError
from margincons.exercises.checking import check

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CALL = re.compile(r"exercises\.(check_\w+)\((\w+)\)")

# For every check, edits of the solution that make a plausible wrong answer, and what the student is told.
WRONG = {
    "check_fgsm": [
        (".sign()", "", "sign of the gradient is missing"),
        ("inputs + epsilon", "inputs - epsilon", "down, not up"),
        (".clamp(0, 1)", "", r"leave \[0, 1\]"),
        ("epsilon * gradient", "epsilon / 255 * gradient", "needs no division"),
        (
            'cross_entropy(model(moved), labels, reduction="sum")',
            "-model(moved).gather(1, labels[:, None]).sum()",
            "set it against",
        ),
        (".clamp(0, 1)", ".clamp(0, 1) - inputs", "the images are asked for"),
    ],
    "check_is_adversarial": [
        ("near & is_image", "is_image", "mind the budget"),
        ("near & is_image", "near", "no images"),
        (" & misclassified", "", "still right"),
        ("!= labels", "!= model(inputs).argmax(dim=1)", "not with the label"),
        ("amax(dim=1)", "mean(dim=1)", "not the mean one"),
    ],
    "check_pgd": [
        ("point = adversarial", "point = inputs", "at the clean image in every step"),
        ("inputs - epsilon, inputs + epsilon", "adversarial - epsilon, adversarial + epsilon", "leave the ball"),
        ("adversarial.clamp(0, 1)", "adversarial", r"pixels leave"),
        (".sign()", "", "sign of the gradient is missing"),
        ("+ step_size", "- step_size", "down, not up"),
        ("adversarial = adversarial +", "adversarial = inputs +", "starts anew"),
        ("range(steps)", "range(steps - 2)", "of 768 values are wrong"),
    ],
    "check_project_l2": [
        (".clamp(max=1)", "", "were made longer"),
        ("deltas.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)", "deltas.norm()", "over the whole batch"),
        ("deltas * factor", "deltas.clamp(-epsilon, epsilon)", "l_inf ball"),
        ("epsilon / length", "epsilon / length**2", "root is missing"),
        (
            "deltas.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)",
            "deltas.norm(dim=-1, keepdim=True).clamp_min(1e-12)",
            "flatten the image",
        ),
    ],
    "check_transfer_rate": [
        ("fooled[right]", "fooled", "had wrong before any attack"),
        ("fooled[right]", "(fooled & right)", "leave them out below it too"),
        ("fooled[right]", "(~fooled[right])", "still right"),
    ],
    "check_robust_accuracies": [
        ("correct & holds", "holds", "misclassified images count as robust"),
        ("correct & holds", "correct & holds & np.isfinite(margins)", "failed were dropped"),
        ("(correct & holds)", "holds[:, correct]", "missing below the line"),
        ("margins >", "margins >=", "contains its edge"),
        ("return (", "return 1 - (", "that are lost"),
    ],
    "check_robustness_margin": [
        ("np.where(correct, margins, 0.0)", "margins", "hold at no radius"),
        ("np.where(correct, margins, 0.0)", "margins[correct]", "not of all"),
        ("[needed - 1]", "[needed]", "one image too few"),
        ("[::-1]", "", "lost, not kept"),
    ],
    "check_least_budget": [
        ("np.where(success.any(axis=0), first, np.inf)", "first", "argmax of nothing"),
        ("np.inf)", "0)", "has distance 0"),
        ("success.argmax(axis=0)]", "len(epsilons) - 1 - success[::-1].argmax(axis=0)]", "the largest budget"),
        ("return np.where", "return np.append(epsilons, np.inf)[(~success).sum(axis=0)]  #", "failures were counted"),
        ("epsilons[success", "np.append(0, epsilons)[success", "last budget that failed"),
    ],
    "check_false_alarms": [
        ("scores <= threshold", "scores < threshold", "just the threshold"),
        ("~brittle & (scores <= threshold)", "(scores <= threshold)", "no false alarms"),
        ("max(initial=-np.inf)", "min(initial=np.inf)", "misses some"),
        ("scores <= threshold", "scores > threshold", "left alone"),
    ],
    "check_auroc": [
        ("difference > 0", "difference < 0", "sign is turned"),
        (" + 0.5 * (difference == 0)", "", "not nothing"),
        ("0.5 * (difference", "1.0 * (difference", "not fully"),
        (".mean()", ".sum() / (len(brittle) * (len(brittle) - 1) / 2)", "not by all pairs"),
        ("((difference > 0) + 0.5 * (difference == 0))", "np.sign(difference)", "between 0 and 1"),
    ],
    "check_average_precision": [
        ("precision[found]", "precision", "over all ranks"),
        ("argsort(-score)", "argsort(score)", "highest come first"),
        ("precision[found].mean()", "brittle.mean()", "share of brittle"),
        ("precision[found].mean()", "precision[found].sum() / len(found)", "that of the brittle ones"),
    ],
    "check_stretch_spread": [
        ("np.log", "", "logarithm is missing"),
        ("feature_distances / input_margins", "feature_distances", "divide them"),
        ("feature_distances / input_margins", "input_margins", "of the margins"),
        ("np.log", "np.log10", "base 10"),
        (".std()", ".mean()", "not their spread"),
        (".std()", ".var()", "root is missing"),
    ],
    "check_feature_margin": [
        ("p=1", "p=2", "dual of l_inf is l_1"),
        ("p=1", "p=torch.inf", "its dual is needed"),
        ("gap / apart", "gap", "nothing is divided"),
        ("= torch.inf", "= 0", "its own rival"),
        (
            "ratio.amin(dim=1)",
            "ratio.gather(1, logits.topk(2, dim=1).indices[:, 1:])[:, 0]",
            "only the runner-up",
        ),
    ],
    "check_kendall_tau": [
        ("(concordant - discordant)", "concordant", "share of concordant pairs"),
        ("(concordant - discordant)", "2 * (concordant - discordant)", "counted twice"),
        ("/ pairs", "/ (len(margins) ** 2 / 2)", "compared with itself"),
        ("(concordant - discordant) / pairs", "np.corrcoef(margins, scores)[0, 1]", "Pearson"),
    ],
}
WRONG |= {  # of evaluations that go wrong, and of records
    "check_class_thresholds": [
        ("brittle & (predicted == c)", "brittle", "one threshold for all"),
        ("brittle & (predicted == c)", "predicted == c", "robust images count too"),
        ("brittle & (predicted == c)", "~brittle & (predicted == c)", "made to the robust images"),
        ("own[needed - 1]", "own[::-1][needed - 1]", "the other end"),
        ("own[needed - 1]", "np.quantile(own, tpr)", "interpolated"),
    ],
    "check_corrected_share": [
        ("guess_all.mean() + correction", "guess_all.mean()", "nothing corrects"),
        ("guess_all.mean() + correction", "robust_few.mean()", "the others are unused"),
        ("+ correction", "- correction", "wrong sign"),
        ("+ correction", "+ correction * len(robust_few) / len(guess_all)", "not over all"),
    ],
    "check_disagreements": [
        ("int(missed.sum()), int(found.sum())", "int(found.sum()), int(missed.sum())", "swapped"),
        ("correct & (upper", "(upper", "no attack was needed"),
        ("> epsilon", ">= epsilon", "exactly epsilon"),
        ("robust & ~standing", "robust & standing", "values are wrong"),
    ],
    "check_images_needed": [
        ("/ 1.96", "", "covers 68%"),
        ("/ standard_error**2", "/ standard_error * 1.96", "square root of n"),
        ("half_width / 1.96", "half_width / 2 / 1.96", "whole width"),
        ("* (1 - accuracy)", "", "not p"),
    ],
    "check_linear_bounds": [
        ("[centre - radius, centre + radius]", "[weight @ low + bias, weight @ high + bias]", "swaps them"),
        (" + bias", "", "bias was forgotten"),
        ("(high - low) / 2", "(high - low) / 2 + bias", "not uncertain"),
        ("@ (high - low) / 2", "@ (high - low)", "twice the radius"),
        ("weight.abs()", "weight", "swaps them"),
    ],
    "check_median_size": [
        ("np.inf", "0", "most brittle of all"),
        ("np.where(success, sizes, np.inf)", "sizes[success]", "the easy images"),
        ("np.median(counted)", "sizes[success].mean()", "a mean"),
        ("np.median", "np.mean", "infinite as soon as"),
    ],
    "check_reordering": [
        ("logits / (1 + length) ** 2", "2 * logits - 3", "ordered as before"),
        ("logits / (1 + length) ** 2", "-logits", "decisions change"),
        ("logits / (1 + length) ** 2", "logits.clamp(min=0)", "logits tie"),
        ("logits / (1 + length) ** 2", "logits.where(logits == logits.amax(dim=1, keepdim=True), -logits)", "change"),
        ("logits / (1 + length) ** 2", "logits.amax(dim=1)", "expected logits of the shape"),
    ],
    "check_straight_through": [
        ("inputs + (rounded - inputs).detach()", "rounded", "the gradient is zero"),
        ("inputs + (rounded - inputs).detach()", "inputs", "nothing is rounded"),
        (".round()", ".floor()", "cut, not rounded"),
        (
            "(rounded - inputs).detach()",
            "(rounded - inputs).detach() + (levels - 2) * (inputs - inputs.detach())",
            "scaled",
        ),
        ("(inputs * (levels - 1)).round() / (levels - 1)", "(inputs * levels).round() / levels", "k - 1 steps"),
    ],
    "check_tau_of_records": [
        ('both = both[np.isfinite(both["upper_first"]) & np.isfinite(both["upper_second"])]', "", "are ranked"),
        ("kendalltau", "pearsonr", "Pearson"),
        (
            'first.merge(second, on="index", suffixes=("_first", "_second"))',
            'first.assign(upper_first=first["upper"], upper_second=second["upper"]).dropna()',
            "paired by position",
        ),
    ],
    "check_to_distance": [
        ("np.sort(scores)", "scores", "not in order"),
        ("np.sort(margins)", "margins[np.argsort(scores)]", "its own image's margin"),
        ("np.sort(margins)", "np.sort(margins)[::-1]", "this one falls"),
        (
            "np.interp(new_scores, np.sort(scores), np.sort(margins))",
            "np.poly1d(np.polyfit(scores, margins, 1))(new_scores)",
            "a straight line",
        ),
    ],
}

WRONG["check_radius_of_votes"] = [
    ("stats.beta.ppf(alpha, votes, samples - votes + 1)", "votes / samples", "not a lower bound"),
    ("ppf(alpha, votes", "ppf(alpha / 2, votes", "two-sided"),
    ("alpha, votes, samples - votes + 1", "1 - alpha, votes + 1, samples - votes", "upper bound"),
    ("sigma * stats.norm", "stats.norm", "sigma is missing"),
    ("sigma * stats.norm.ppf(share)", "share", "bound on the share"),
    (
        "share = stats.beta.ppf(alpha, votes, samples - votes + 1)",
        "p = votes / samples; share = p - stats.norm.ppf(1 - alpha) * (p * (1 - p) / samples) ** 0.5",
        "near 1",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Task:
    """An exercise as a page states it."""

    page: str
    imports: str
    blank: str  # the student's cell
    solution: str  # the folded cell


def tasks():
    """Exercises of all pages, by the name of their check: first the blank, then the solution."""
    found = {}
    for source in sorted(NOTEBOOKS.glob("*.md")):
        cells = [cell for cell in jupytext.read(source, fmt="md:myst").cells if cell.cell_type == "code"]
        lines = ast.parse("\n".join(cell.source for cell in cells)).body
        imports = "\n".join(ast.unparse(line) for line in lines if isinstance(line, ast.Import | ast.ImportFrom))
        for cell in cells:
            if called := CALL.search(cell.source):
                found.setdefault(called[1], []).append((source.stem, imports, cell))
    return {
        name: Task(page=first[0], imports=first[1], blank=first[2].source, solution=second[2].source)
        for name, (first, second) in found.items()
        if "hide-cell" in second[2].metadata.get("tags", [])
    }


TASKS = tasks()


def run(task, cell):
    names = {}
    exec(compile(task.imports, task.page, "exec"), names)
    exec(compile(cell, task.page, "exec"), names)


def test_every_check_has_a_page_with_a_blank_and_a_folded_solution_and_wrong_answers():
    assert set(TASKS) == set(exercises.__all__) == set(WRONG)
    assert min(map(len, WRONG.values())) >= 3


@pytest.mark.parametrize("name", TASKS)
def test_a_check_takes_the_solution_and_waits_for_the_blank(name, capsys):
    run(TASKS[name], TASKS[name].solution)
    assert capsys.readouterr().out == "Right.\n"
    run(TASKS[name], TASKS[name].blank)
    assert capsys.readouterr().out == "not written yet\n"


@pytest.mark.parametrize(
    ("name", "right", "wrong", "told"), [(n, *edit) for n, edits in WRONG.items() for edit in edits]
)
def test_a_check_rejects_a_usual_mistake_and_says_what_it_is(name, right, wrong, told):
    task = TASKS[name]
    assert right in task.solution
    with pytest.raises(WrongAnswerError, match=told):
        run(task, task.solution.replace(right, wrong))


CASE = {"first": torch.tensor([1.0, 2.0]), "second": 3.0}


def product(first, second):
    return first * second


def test_a_result_that_no_usual_mistake_explains_is_described(capsys):
    check(lambda first, second: np.array([3, 6]), cases=[CASE], answer=product, mistakes={})
    assert capsys.readouterr().out == "Right.\n"
    for wrong, told in {
        "a text": "expected numbers, a tensor or an array",
        (3.0, 6.0, 9.0): r"expected the shape \(2,\), got \(3,\)",
        (3.0, np.nan): "1 of 2 values are NaN",
        (3.0, 6.5): "1 of 2 values are wrong, by 0.5 at most",
    }.items():
        with pytest.raises(WrongAnswerError, match=told):
            check(lambda first, second, wrong=wrong: wrong, cases=[CASE], answer=product, mistakes={})


def test_a_function_that_writes_into_its_arguments_is_told_so_and_spoils_nothing():
    with pytest.raises(WrongAnswerError, match="changes its argument first in place"):
        check(lambda first, second: first.mul_(second), cases=[CASE], answer=product, mistakes={})
    assert_close(CASE["first"], torch.tensor([1.0, 2.0]), rtol=0, atol=0)


def test_equal_infinities_are_equal_and_others_are_not():
    far = {"answer": lambda first, second: np.array([np.inf, 1]), "cases": [CASE], "mistakes": {}}
    check(lambda first, second: np.array([np.inf, 1]), **far)
    with pytest.raises(WrongAnswerError, match="1 of 2 values are wrong, by inf"):
        check(lambda first, second: np.array([-np.inf, 1]), **far)


def test_a_notebook_shows_the_one_line_and_no_traceback():
    assert WrongAnswerError("mind the sign")._render_traceback_() == ["Not yet: mind the sign."]
