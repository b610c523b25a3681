"""What somebody who attacks a detector differentiates: a network and the score that the detector reads."""

import torch
from torch import Tensor, nn

from margincons.classifier import Classifier
from margincons.detector.scorer import make_scorer
from margincons.pseudo_margin import PseudoMargin
from margincons.scores import linearised_distance

FIRST_ORDER = "first_order_margin"  # no function of the outputs alone, so no name of `margincons.scores.SCORES`


class ScoredNetwork:
    """Images in; logits and a score out that rises with robustness, both differentiable.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        example: A few images, to look for the last linear layer with.
        score: A name of `margincons.scores.SCORES`, "first_order_margin", or a fitted pseudo-margin.
        norm: Norm of the margins that the score stands for.

    Raises:
        UnknownNameError: If no score has that name.
        NoHeadError: If the score needs the last linear layer and the network has none.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, *, score: str | PseudoMargin = "logit_margin", norm: str = "Linf"
    ) -> None:
        self.model, self.norm = model, norm
        self._classifier = Classifier(model, example)
        self._scorer = None if score == FIRST_ORDER else make_scorer(score, self._classifier, norm=norm)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, k) and scores (n,), in the score's unit, of images (n, c, h, w)."""
        if self._scorer is None:
            return self._first_order(points)
        outputs = self._classifier.pass_through(points, features=self._scorer.needs_features)
        return outputs.logits, self._scorer.sign * self._scorer(outputs)

    def _first_order(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """A backward pass for each rival comes with every look at this score."""
        with torch.enable_grad():
            points = points if points.requires_grad else points.detach().requires_grad_()
            logits = self.model(points)
            return logits, linearised_distance(logits, points, norm=self.norm)
