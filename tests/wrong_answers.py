"""Wrong answers to the exercises of the book, by the name of their check, for test_exercises."""

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
    "check_tail_exponent": [
        ("ordered[k] /", "ordered[k - 1] /", "margin after the k least"),
        ("k / np.log(ordered[k] / ordered[:k]).sum()", "np.log(ordered[k] / ordered[:k]).mean()", "one over it"),
        ("np.log(", "np.log10(", "base 10"),
        ("np.sort(margins)", "margins", "sort them first"),
    ],
    "check_worst_threshold": [
        ("return max(thresholds)", "return min(thresholds)", "flags least"),
        ("return max(thresholds)", "return np.mean(thresholds)", "average of thresholds"),
        ("scores[found]", "scores", "all images were ranked"),
        ("falling[rank - 1]", "falling[rank]", "one rank too far"),
        ("zip(logit_margins, brittle, strict=True)", "[(logit_margins, brittle)]", "pooled"),
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
WRONG |= {  # of measuring margins
    "check_nearest_on_segment": [
        ("image + high *", "image + low *", "still has the image's class"),
        ("image + high *", "image + (low + high) / 2 *", "either side"),
        ("range(steps)", "range(steps - 1)", "one halving too few"),
        ("return image + high * (witness - image)", "return witness", "as it was given"),
        ("!= decided", "== decided", "as it was given"),
    ],
    "check_mean_excess": [
        ("bounds[found] / reference[found] - 1", "bounds / reference - 1", "make the mean infinite"),
        ("excess.mean()", "excess.sum() / len(bounds)", "no excess at all"),
        ("bounds[found] / reference[found] - 1", "bounds[found] - reference[found]", "an excess is relative"),
        ("excess.mean()", "bounds[found].mean() / reference[found].mean() - 1", "average the ratios"),
        ("reference[found] - 1", "reference[found]", "exceeds 1 by"),
        ("1 - found.mean()", "found.mean()", "that have a bound"),
    ],
    "check_verdicts": [
        ("lower > epsilon", "lower >= epsilon", "would be brittle then|values are wrong"),
        ("upper <= epsilon", "upper < epsilon", "at exactly epsilon"),
        ("lower > epsilon", "upper > epsilon", "needs the lower bound"),
        ("upper <= epsilon", "lower <= epsilon", "not thereby brittle"),
        ("robust.sum(), brittle.sum()", "brittle.sum(), robust.sum()", "swapped"),
    ],
    "check_seconds": [
        ("(1000 * teraflop_per_second)", "teraflop_per_second", "a thousand GFLOP"),
        ("/ (1000 * teraflop_per_second)", "/ (teraflop_per_second / 1000)", "not a thousandth"),
        ("images * per_image", "per_image", "of one image"),
        ("passes[1] * gigaflop[1]", "passes[1] * gigaflop[0]", "operations of its own"),
        (
            "passes[0] * gigaflop[0] + passes[1] * gigaflop[1]",
            "passes[0] * gigaflop[1] + passes[1] * gigaflop[0]",
            "each other's",
        ),
        ("/ (1000 * teraflop_per_second)", "* teraflop_per_second / 1000", "divided by the rate"),
    ],
    "check_flag_threshold": [
        ("logit_margins[brittle]", "logit_margins", "rank only those"),
        ("[rank - 1]", "[rank]", "one rank too far"),
        ("[::-1]", "", "smallest margins only"),
        ("falling[rank - 1]", "np.quantile(falling, 1 - miss_rate)", "forgets the new image"),
        ("len(falling) + 1", "len(falling)", "forgets the new image|wrong|one rank"),
    ],
    "check_confident_rank": [
        (">= confidence", ">= 1 - confidence", "with the probability 1 - confidence"),
        ("m + 1 - k)", "m + 1)", "second parameter"),
        ("beta(k, m + 1 - k)", "beta(m + 1 - k, k)", "exchanged"),
        ("max(kept, default=0)", "int(miss_rate * (m + 1))", "half of all calibrations"),
    ],
    "check_crossings": [
        (
            "(apart < 0).any(axis=1) & (apart > 0).any(axis=1)",
            "(np.abs(weight @ point + bias) < radius * np.linalg.norm(weight, axis=1))",
            "cut a ball",
        ),
        ("np.concatenate([frame, -frame])", "frame", "not enough"),
        ("+ bias[:, None]", "", "bias is forgotten"),
        ("(apart < 0).any(axis=1) & (apart > 0).any(axis=1)", "weight @ point + bias > 0", "that are on"),
        (
            "(apart < 0).any(axis=1) & (apart > 0).any(axis=1)",
            "(apart < 0).all(axis=1) | (apart > 0).all(axis=1)",
            "miss the polytope",
        ),
    ],
    "check_variability": [
        ("/ len(means)", "", "not divided by"),
        (
            "np.mean([np.cov(features[labels == c].T, bias=True) for c in classes], axis=0)",
            "np.cov(features.T, bias=True)",
            "of all features",
        ),
        (
            "np.mean([np.cov(features[labels == c].T, bias=True) for c in classes], axis=0)",
            "np.cov((features - means[labels]).T, bias=True)",
            "weigh the same",
        ),
        ("np.cov(means.T, bias=True)", "means.T @ means / len(means)", "not centred"),
        (
            "np.trace(within @ np.linalg.pinv(between, rcond=1e-10))",
            "np.trace(within) / np.trace(between)",
            "ratio of traces",
        ),
    ],
}
WRONG |= {  # of paper to practice
    "check_wrong_class_margin": [
        (
            "torch.where(wrong, top.values[:, 0] - top.values[:, 1], rival - own)",
            "top.values[:, 0] - top.values[:, 1]",
            "whichever class leads",
        ),
        ("torch.where(wrong, top.values[:, 0] - top.values[:, 1], rival - own)", "rival - own", "over all others"),
        ("rival - own)", "own - rival)", "whichever class leads"),
        ("return torch.where", "return -torch.where", "sign is turned"),
        ("rival - own)", "0 * own)", "negative, not 0"),
    ],
}
