"""The detector: a network, a score and calibrated thresholds; images in, one decision per image out."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from margincons.brief import Brief
from margincons.checks import CHECKED, check_passes
from margincons.classifier import Classifier, Outputs, as_taken
from margincons.data.decoding import Decoded
from margincons.detector.files import read_detector, write_detector
from margincons.detector.onnx_export import export_onnx
from margincons.detector.scorer import Scorer, make_scorer
from margincons.detector.thresholds import Thresholds, calibrate, doubts
from margincons.errors import ShapeError
from margincons.passes import check_batch_size, evaluating
from margincons.pseudo_margin import PseudoMargin
from margincons.threat import ThreatModel, check_images
from margincons.zoo.user import state_sha256


@dataclass(frozen=True, kw_only=True, repr=False)
class Decisions(Brief):
    """What a detector says of images, one entry each, from one forward pass."""

    predicted: Tensor  # (n,), class
    scores: Tensor  # (n,), in the score's own units
    flagged: Tensor  # (n,), bool: not vouched for
    brittle: Tensor  # (n,), bool: called brittle; all that are flagged where no false-alarm rate is promised

    @property
    def robust(self) -> Tensor:
        """Not flagged (n,)."""
        return ~self.flagged

    @property
    def undecided(self) -> Tensor:
        """Flagged, and not called brittle (n,)."""
        return self.flagged & ~self.brittle

    @property
    def names(self) -> list[str]:
        """The decision on each image: "brittle", "robust" or "undecided"."""
        codes = torch.stack([self.robust, self.brittle, self.undecided]).int().argmax(dim=0)
        return [("robust", "brittle", "undecided")[code] for code in codes.reshape(-1).tolist()]


@dataclass(frozen=True, kw_only=True, repr=False)
class Detector:
    """Flags images whose decision is brittle, that is whose input margin is at most epsilon.

    Made by `Detector.calibrate`. A brittle image that is exchangeable with those of the calibration goes unflagged with
    probability at most the miss rate. Brittle is meant as it was measured: where calibration margins are an attack's
    upper bounds, the promise is about images that this attack would turn.

    The network is passed through in eval mode, and each of its modules is in its own mode again afterwards. Where
    several threads share a network, put it into eval mode before.
    """

    classifier: Classifier
    scorer: Scorer
    thresholds: Thresholds
    norm: str  # of the margins, and of the feature margin
    image_shape: tuple[int, int, int]

    @classmethod
    def calibrate(
        cls,
        model: nn.Module,
        inputs: Tensor | Decoded,
        *,
        margins: Tensor | np.ndarray,
        epsilon: float,
        miss_rate: float = 0.1,
        false_alarm_rate: float | None = None,
        score: str | PseudoMargin = "logit_margin",
        norm: str = "Linf",
        batch_size: int = 256,
    ) -> "Detector":
        """Choose thresholds on images whose margins are known, so that rates are promised on new ones.

        Warns (`margincons.cautions`) where two passes differ, parts of the network stay in training mode, it returns
        probabilities, no calibration image is robust, or all robust ones are flagged.

        Source: Ngnawe et al., 2024, arXiv:2406.18451, for the score; `margincons.statistics.conformal` for the promise.

        Args:
            model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
            inputs: Calibration images (n, c, h, w): neither trained on nor used to fit the score.
            margins: Their input margins (n,): exact, or an attack's upper bounds, infinite where it found nothing.
            epsilon: Brittle means a margin <= epsilon, on the [0, 1] pixel scale.
            miss_rate: Promised share of brittle images that go unflagged; m brittle images can promise 1 / (m + 1).
            false_alarm_rate: Promised share of robust images that `decide` calls brittle; None promises none, and
                calls brittle whatever is flagged.
            score: A name of `margincons.scores.SCORES`, or a fitted pseudo-margin.
            norm: Norm of the margins: "Linf", "L2" or "L1".
            batch_size: Images per forward pass.

        Raises:
            PixelRangeError: If a pixel of any image is NaN or leaves [0, 1].
            ShapeError: If the images are no batch, or there is not one margin per image.
            UsageError: If a rate, epsilon or batch size cannot be meant, a margin is negative, or the model no network.
            DegenerateError: If a margin or a calibration score is NaN.
            TooFewImagesError: If there are too few brittle, or robust, images for their rate.
            UnknownNameError: If a norm or a score does not exist.
            NoHeadError: If the score needs the last linear layer and the network has none.
        """
        ThreatModel(norm=norm, epsilon=epsilon)  # refuses 8 for 8/255
        check_batch_size(batch_size)
        if not isinstance(inputs, Decoded):  # which checks what it decodes
            check_images(inputs)
        with evaluating(model):
            classifier = Classifier(model, as_taken(inputs[:8], model))
            scorer = make_scorer(score, classifier, norm=norm)
            found = check_passes(model, as_taken(inputs[: min(CHECKED, batch_size)], model))
            scores = scorer(_pass(classifier, scorer, inputs, batch_size)).double().cpu().numpy()
        margins = margins.detach().cpu().numpy() if isinstance(margins, Tensor) else np.asarray(margins)
        thresholds = calibrate(
            scores,
            margins,
            sign=scorer.sign,
            epsilon=epsilon,
            miss_rate=miss_rate,
            false_alarm_rate=false_alarm_rate,
        )
        for caution in found + doubts(thresholds, scores, margins):
            warnings.warn(caution, stacklevel=2)
        shape = tuple(inputs[:1].shape[1:])
        return cls(classifier=classifier, scorer=scorer, thresholds=thresholds, norm=norm, image_shape=shape)

    def __repr__(self) -> str:
        """One line: network, score and flag, what is brittle, what is promised, and from how many images."""
        network, rule = self.classifier.model, self.thresholds
        rates = f"miss rate {rule.miss_rate:g}"
        if rule.false_alarm_rate is not None:
            rates += f", false-alarm rate {rule.false_alarm_rate:g}"
        name = f"{type(network).__name__} {state_sha256(network)[:8]}"
        flags = f"flags {self.scorer.name} {rule.beyond} {rule.flag:.4g} for {self.norm} margin <= {rule.epsilon:.4g}"
        return f"<Detector of {name}: {flags}, {rates}, {rule.n_brittle + rule.n_robust} images>"

    def __call__(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Flag images (n, c, h, w), bool (n,); or one image (c, h, w), one bool.

        Images come in any floating-point format: they are passed in the network's own.
        An image whose score is NaN is flagged: nothing vouches for its decision.

        Raises:
            PixelRangeError: If a pixel leaves [0, 1].
            ShapeError: If the images are not shaped as those of the calibration.
            UsageError: If the batch size cannot be meant.
        """
        return self.thresholds.flagged(self.scores(images, batch_size=batch_size))

    @torch.no_grad()
    def scores(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Scores (n,) in their own units; images and errors as in a call."""
        scores = self.scorer(self._passed(images, batch_size))
        return scores[0] if images.dim() == 3 else scores

    @torch.no_grad()
    def decide(self, images: Tensor, *, batch_size: int = 256) -> Decisions:
        """Call images "robust", "brittle" or "undecided"; images and errors as in a call.

        Robust are those that are not flagged; brittle are flagged ones beyond the second threshold, too. Where the two
        thresholds cross, because the score separates better than was asked for, nothing is undecided, and both
        promises hold.
        """
        outputs = self._passed(images, batch_size)
        scores = self.scorer(outputs)
        columns = outputs.predicted, scores, self.thresholds.flagged(scores), self.thresholds.brittle(scores)
        predicted, scores, flagged, brittle = (column[0] if images.dim() == 3 else column for column in columns)
        return Decisions(predicted=predicted, scores=scores, flagged=flagged, brittle=brittle)

    def save(self, path: str | Path) -> None:
        """Write the detector, without its network, as one safetensors file bound to the network's weights and logits.

        Raises:
            UsageError: If no file can be written there, or the network is randomised: it would not be known again.
        """
        parts = self.classifier, self.scorer, self.thresholds
        with evaluating(self.classifier.model):
            write_detector(path, *parts, norm=self.norm, image_shape=self.image_shape)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> "Detector":
        """Read a detector and bind it to its network; nothing in the file is executed.

        Args:
            path: Of the file that `save` wrote.
            model: The network that was calibrated: the same weights, and the same logits on a probe.

        Raises:
            OtherNetworkError: If the weights or the logits are others.
            MissingFileError: If there is no such file.
            FileFormatError: If it holds something else, or was written by a version that is not known.
            ChecksumError: If its content has changed.
            UsageError: If the model is no network, but its name, say.
        """
        with evaluating(model):
            return cls(**read_detector(path, model))

    def export_onnx(self, path: str | Path) -> None:
        """Write network and detector as one graph, images in, logits and decisions out; see `onnx_export`.

        Raises:
            MissingExtraError: If the extra ``onnx`` is not installed.
            ExportError: If the network cannot be exported.
            UsageError: If no file can be written there.
        """
        with evaluating(self.classifier.model):
            export_onnx(path, self.classifier, self.scorer, self.thresholds, image_shape=self.image_shape)

    def _passed(self, images: Tensor, batch_size: int) -> Outputs:
        check_batch_size(batch_size)
        batch = images[None] if isinstance(images, Tensor) and images.dim() == 3 else images
        check_images(batch)
        if tuple(batch.shape[1:]) != self.image_shape:
            expected = f"(n, {', '.join(map(str, self.image_shape))}), as in the calibration"
            raise ShapeError("images", expected, tuple(batch.shape))
        if not any(module.training for module in self._modules):
            return _pass(self.classifier, self.scorer, batch, batch_size)
        with evaluating(self.classifier.model):
            return _pass(self.classifier, self.scorer, batch, batch_size)

    @cached_property
    def _modules(self) -> list[nn.Module]:
        """Parts of the network, listed once: each call looks at the mode of all of them."""
        return list(self.classifier.model.modules())


@torch.no_grad()
def _pass(classifier: Classifier, scorer: Scorer, inputs: Tensor | Decoded, batch_size: int) -> Outputs:
    """Images through the network in batches, without hooks where the logits are all that the score reads."""
    starts = range(0, max(1, len(inputs)), batch_size)  # no images make one empty batch
    parts = (as_taken(inputs[start : start + batch_size], classifier.model) for start in starts)
    outputs = [classifier.pass_through(part, features=scorer.needs_features) for part in parts]
    if len(outputs) == 1:
        return outputs[0]
    features = torch.cat([one.features for one in outputs]) if scorer.needs_features else None
    return Outputs(logits=torch.cat([one.logits for one in outputs]), features=features)
