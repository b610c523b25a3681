"""The detector on a network whose margins are exact, and on the bundled ones."""

import pytest
import torch
from torch import nn

from margincons import load_images, load_model
from margincons.classifier import Classifier
from margincons.detection import is_brittle
from margincons.detector import Decisions, Detector
from margincons.errors import (
    NoHeadError,
    PixelRangeError,
    ShapeError,
    TooFewImagesError,
    UnknownNameError,
    UsageError,
)
from margincons.labelled_margins import labelled_margins
from margincons.pseudo_margin import fit_pseudo_margin
from margincons.records import read_record
from margincons.scores import SCORES, all_scores, robustness_sign

EPSILON = 0.1


class Halfspace(nn.Module):
    """Logits (x - 1/2, 1/2 - x) of the mean pixel x: the Linf margin is |x - 1/2|, half the logit margin."""

    def forward(self, inputs):
        offset = inputs.flatten(1).mean(dim=1) - 0.5
        return torch.stack([offset, -offset], dim=1)


def flat_images(means):
    return torch.as_tensor(means, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


@pytest.fixture(scope="module")
def digits():
    table = read_record("digits/trades/Linf/minimum_norm")
    return load_model("digits/trades"), load_images("digits"), table


def calibrated(digits, n=400, **options):
    model, images, table = digits
    margins = torch.tensor(table["upper"].to_numpy()[:n])
    return Detector.calibrate(model, images.inputs[:n], margins=margins, epsilon=EPSILON, **options)


def test_where_the_score_is_the_margin_the_detector_finds_just_the_brittle_up_to_the_rank():
    means = torch.linspace(0, 1, 401)
    margins = (means - 0.5).abs()
    detector = Detector.calibrate(
        Halfspace(), flat_images(means), margins=margins, epsilon=0.2, miss_rate=0.02, false_alarm_rate=0.02
    )
    new = torch.tensor([0.5, 0.4, 0.35, 0.65, 0.71, 0.25, 0.1])
    found = detector.decide(flat_images(new))
    assert found.flagged.tolist() == [True, True, True, True, False, False, False]
    assert found.names == ["brittle"] * 4 + ["robust"] * 3
    assert torch.allclose(found.scores, 2 * (new - 0.5).abs(), atol=1e-6)
    assert detector.thresholds.n_brittle == 161
    assert detector.thresholds.flag == pytest.approx(2 * 0.2 - 2 * 0.005, abs=0.006)  # k = 3 of 162: the third largest


@pytest.mark.parametrize("name", SCORES)
def test_a_detector_flags_by_the_score_it_names(digits, name):
    model, images, table = digits
    detector = calibrated(digits, score=name, norm="L2")
    outputs = Classifier(model, images.inputs[:2])(images.inputs)
    scores = all_scores(outputs, Classifier(model, images.inputs[:2]).head, norm="L2")[name]
    found = detector.decide(images.inputs)
    assert torch.allclose(found.scores, scores, atol=1e-5)
    assert torch.equal(found.predicted, outputs.predicted)
    robust = robustness_sign(name) * found.scores > robustness_sign(name) * detector.thresholds.flag
    assert torch.equal(found.robust, robust)
    brittle = is_brittle(table, EPSILON)[:400]
    assert found.flagged[:400].numpy()[brittle].mean() >= 0.9


@pytest.mark.parametrize("inputs", ["features", "logits"])
def test_a_pseudo_margin_that_was_fitted_on_other_images_makes_a_detector(digits, inputs):
    model, images, _ = digits
    classifier = Classifier(model, images.inputs[:2])
    fit = labelled_margins(
        classifier, read_record("digits/trades/Linf/minimum_norm-train"), load_images("digits", split="train")
    )
    score = fit_pseudo_margin(fit, inputs=inputs, epochs=5)
    detector = calibrated(digits, score=score)
    assert torch.allclose(detector.scores(images.inputs), score(classifier(images.inputs)), atol=1e-5)


def test_batches_and_single_images_decide_alike(digits):
    _, images, _ = digits
    detector = calibrated(digits, false_alarm_rate=0.1)
    whole = detector.decide(images.inputs[:50])
    parts = detector.decide(images.inputs[:50], batch_size=7)
    assert torch.equal(whole.flagged, parts.flagged)
    assert torch.equal(whole.brittle, parts.brittle)
    assert torch.allclose(whole.scores, parts.scores, atol=1e-5)
    for row in range(10):
        one = detector.decide(images.inputs[row])
        assert one.flagged.shape == one.scores.shape == one.predicted.shape == ()
        assert bool(detector(images.inputs[row])) == bool(whole.flagged[row])
        assert one.names == [whole.names[row]]


def test_every_image_gets_just_one_decision(digits):
    found = calibrated(digits, false_alarm_rate=0.1).decide(digits[1].inputs)
    assert ((found.robust.int() + found.brittle.int() + found.undecided.int()) == 1).all()
    assert {*found.names} == {"robust", "brittle", "undecided"}
    assert [name == "undecided" for name in found.names] == found.undecided.tolist()


def test_nothing_is_undecided_where_no_false_alarm_rate_is_promised(digits):
    found = calibrated(digits).decide(digits[1].inputs)
    assert torch.equal(found.brittle, found.flagged)
    assert not found.undecided.any()


def test_an_image_whose_logits_are_nan_is_flagged():
    class Dark(Halfspace):
        def forward(self, inputs):
            return super().forward(inputs).where(inputs.flatten(1).mean(dim=1)[:, None] > 0.1, torch.nan)

    means = torch.linspace(0.2, 0.9, 101)
    margins = (means - 0.5).abs()
    detector = Detector.calibrate(
        Dark(), flat_images(means), margins=margins, epsilon=0.2, false_alarm_rate=0.1, miss_rate=0.1
    )
    found = detector.decide(flat_images([0.0, 0.9]))
    assert found.names == ["undecided", "robust"]


def test_no_gradient_is_kept_and_a_network_in_training_mode_is_put_into_eval_mode(digits):
    detector = calibrated(digits)
    detector.classifier.model.train()
    assert not detector.decide(digits[1].inputs[:3]).scores.requires_grad
    assert not detector.classifier.model.training


def test_only_a_score_that_reads_features_hooks_the_network(digits, monkeypatch):
    detector = calibrated(digits)
    monkeypatch.setattr(detector.classifier, "_watch_head", pytest.fail)
    detector(digits[1].inputs[:3])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("score", ["logit_margin", "feature_margin"])
def test_a_detector_runs_where_its_network_is(score, tmp_path):
    model, images = load_model("digits/trades").cuda(), load_images("digits").inputs
    margins = torch.tensor(read_record("digits/trades/Linf/minimum_norm")["upper"].to_numpy())
    detector = Detector.calibrate(model, images, margins=margins.cuda(), epsilon=EPSILON, score=score)
    assert detector(images).device.type == "cuda"
    detector.save(tmp_path / "d.safetensors")
    there = Detector.load(tmp_path / "d.safetensors", load_model("digits/trades"))
    near = (there.scores(images) - there.thresholds.flag).abs() < 1e-3
    assert (detector(images).cpu() == there(images))[~near].all()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"epsilon": 8}, UsageError, "did you mean 8/255?"),
        ({"norm": "Linff"}, UnknownNameError, "Unknown norm 'Linff'"),
        ({"score": "margin"}, UnknownNameError, "Unknown score 'margin'"),
        ({"score": "feature_margin"}, NoHeadError, "Expected a network that ends in a linear layer"),
        ({"margins": torch.rand(5)}, ShapeError, "Expected margins to be one per calibration image, (101,), got (5,)."),
        (
            {"epsilon": 0.01},
            TooFewImagesError,
            "Expected at least 9 brittle calibration images",
        ),
        ({"inputs": flat_images(torch.full((101,), 255.0))}, PixelRangeError, "divide by 255"),
        ({"miss_rate": 5}, UsageError, "Expected a rate between 0 and 1"),
    ],
)
def test_a_calibration_that_promises_nothing_is_refused(options, error, text):
    means = torch.linspace(0, 1, 101)
    inputs = options.pop("inputs", flat_images(means))
    with pytest.raises(error) as caught:
        Detector.calibrate(Halfspace(), inputs, **{"margins": (means - 0.5).abs(), "epsilon": 0.2} | options)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (torch.full((2, 1, 8, 8), 255.0), PixelRangeError, "divide by 255"),
        (torch.zeros(2, 3, 8, 8), ShapeError, "to be (n, 1, 8, 8), as in the calibration, got (2, 3, 8, 8)."),
        (torch.zeros(8, 8), ShapeError, "images"),
        ("cat.png", ShapeError, "got str"),
    ],
)
def test_images_that_the_detector_was_not_made_for_are_refused(digits, images, error, text):
    with pytest.raises(error) as caught:
        calibrated(digits)(images)
    assert text in str(caught.value)


def test_decisions_of_no_images_are_none():
    none = torch.zeros(0, dtype=torch.bool)
    assert Decisions(predicted=none, scores=none, flagged=none, brittle=none).names == []
