"""A score bound to one network: logits and features in, one number per image out, nothing else computed."""

from typing import Any

from torch import Tensor, nn

from margincons.classifier import Classifier, Outputs
from margincons.errors import NoHeadError, UnknownNameError
from margincons.pseudo_margin import PseudoMargin, standardised
from margincons.scores import LEARNED, SCORES, class_distances, nearest_boundary, robustness_sign


class Scorer(nn.Module):
    """A score of `margincons.scores.SCORES` that is a function of the logits alone.

    Args:
        name: Its name, which also fixes its sign.
    """

    needs_features = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.sign = robustness_sign(name)  # +1: low where brittle

    def forward(self, outputs: Outputs) -> Tensor:
        """Scores (n,), in their own units."""
        return SCORES[self.name].compute(outputs, None, "")


class FeatureMarginScorer(Scorer):
    """The exact feature margin; the head's distances are computed once, since they are the same for every image.

    Args:
        lengths: Distances between the classes' weights (k, k), from `margincons.scores.class_distances`.
    """

    def __init__(self, lengths: Tensor) -> None:
        super().__init__("feature_margin")
        self.register_buffer("lengths", lengths)

    def forward(self, outputs: Outputs) -> Tensor:
        """Distances (n,) in feature units."""
        return nearest_boundary(outputs.logits, self.lengths)


class PseudoMarginScorer(Scorer):
    """A fitted pseudo-margin.

    Args:
        network: Standardised inputs (n, d) to one number each.
        centre: Subtracted from the inputs (d,).
        scale: Divides them (d,).
        inputs: "features" or "logits".
    """

    def __init__(self, network: nn.Module, centre: Tensor, scale: Tensor, inputs: str) -> None:
        super().__init__("pseudo_margin")
        self.network, self.inputs, self.needs_features = network, inputs, inputs == "features"
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)

    def forward(self, outputs: Outputs) -> Tensor:
        """Scores (n,), in no unit."""
        return self.network(standardised(outputs, self.inputs, self.centre, self.scale))[:, 0]


def make_scorer(score: str | PseudoMargin, classifier: Classifier, *, norm: str) -> Scorer:
    """Bind a score to a network.

    Raises:
        UnknownNameError: If no score has that name.
        NoHeadError: If the score needs the last linear layer and the network has none.
    """
    if isinstance(score, PseudoMargin):
        scorer = PseudoMarginScorer(score.network, score.centre, score.scale, score.inputs)
    elif score not in SCORES:
        hint = " (give the fitted object itself)" if score in LEARNED else ""
        raise UnknownNameError(f"score{hint}", score, SCORES)
    elif not SCORES[score].needs_head:
        scorer = Scorer(score)
    elif classifier.head is None:
        raise NoHeadError(classifier.no_head_reason)
    else:
        scorer = FeatureMarginScorer(class_distances(classifier.head, norm=norm))
    return _ready(scorer, classifier)


def load_scorer(name: str, inputs: str, state: dict[str, Tensor], classifier: Classifier) -> Scorer:
    """Rebuild a scorer from its name, what it reads ("features" or "logits") and its tensors."""
    if name == "pseudo_margin":
        weights = [value for key, value in sorted(state.items(), key=_place) if key.endswith("weight")]
        hidden = [layer for weight in weights[:-1] for layer in (_linear(weight), nn.ReLU())]
        network = nn.Sequential(*hidden, _linear(weights[-1])).requires_grad_(requires_grad=False)
        scorer = PseudoMarginScorer(network, state["centre"], state["scale"], inputs)
    else:
        scorer = FeatureMarginScorer(state["lengths"]) if name == "feature_margin" else Scorer(name)
    scorer.load_state_dict(state)
    return _ready(scorer, classifier)


def _ready(scorer: Scorer, classifier: Classifier) -> Scorer:
    if scorer.needs_features and classifier.head is None:
        raise NoHeadError(classifier.no_head_reason)
    return scorer.to(classifier.device).eval()


def _place(entry: tuple[str, Any]) -> list[int]:
    """Order "network.10.weight" after "network.2.weight"."""
    return [int(part) for part in entry[0].split(".") if part.isdigit()]


def _linear(weight: Tensor) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
