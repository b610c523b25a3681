"""The detector on a network whose margins are exact, and on the bundled ones."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from margincons import load_images, load_model
from margincons.cautions import (
    BatchDependentWarning,
    Caution,
    FlagsAllWarning,
    NoRobustImagesWarning,
    ProbabilitiesWarning,
    RandomisedWarning,
    TrainingModeWarning,
)
from margincons.checks import check_passes
from margincons.classifier import Classifier
from margincons.detection import is_brittle
from margincons.detector import Decisions, Detector
from margincons.detector.thresholds import calibrate, doubts
from margincons.errors import (
    DegenerateError,
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
from margincons.scores import SCORES, all_scores, logit_margin, robustness_sign
from margincons.zoo import state_sha256

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


def test_no_gradient_is_kept(digits):
    assert not calibrated(digits).decide(digits[1].inputs[:3]).scores.requires_grad


class Moody(nn.Module):
    """A network whose dropout and batch statistics show in which mode it was passed through."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.inner = nn.BatchNorm2d(1), nn.Dropout(0.5), Halfspace()

    def forward(self, inputs):
        return self.inner(self.drop(self.norm(inputs)))


@pytest.mark.parametrize("training", [{"", "norm", "drop", "inner"}, {"drop"}, {"norm"}, set()])
def test_passes_are_made_in_eval_mode_and_every_module_keeps_its_own(training, tmp_path):
    images, network = flat_images(torch.linspace(0, 1, 101)), Moody().eval()
    for name, module in network.named_modules():
        module.training = name in training
    before = {name: value.clone() for name, value in network.state_dict().items()}
    detector = Detector.calibrate(network, images, margins=(images[:, 0, 0, 0] - 0.5).abs(), epsilon=0.2)
    detector.save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors", network)
    scores = [one.scores(images) for one in (detector, again)]
    assert {name for name, module in network.named_modules() if module.training} == training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        logits = network.eval()(images)
    for found in scores:
        assert torch.allclose(found, (logits[:, 0] - logits[:, 1]).abs(), atol=1e-6)


@pytest.mark.parametrize("given", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_in_another_number_format_is_given_images_in_its_own(dtype, given, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).to(dtype).requires_grad_(False)
    images = torch.rand(60, 1, 4, 4).to(dtype)
    made = Detector.calibrate(network, images.to(given), margins=torch.linspace(0, 1, 60), epsilon=0.5)
    made.save(tmp_path / "d.safetensors")
    for detector in (made, Detector.load(tmp_path / "d.safetensors", network)):
        expected = logit_margin(network(images))
        assert detector.scores(images).dtype == dtype
        assert torch.equal(detector.scores(images), expected)
        assert torch.allclose(detector.scores(images.float()), expected, atol=1e-6)
        assert torch.equal(detector(images[0]), detector(images)[0])


class Changed(Halfspace):
    """A sound network whose images, or logits, something is done to; kept in training mode if ``stubborn``."""

    def __init__(self, before=None, after=None, stubborn=False):
        super().__init__()
        self.before, self.after = before or nn.Identity(), after or nn.Identity()
        if stubborn:
            self.before.train = lambda mode=True: self.before

    def forward(self, inputs):
        return self.after(super().forward(self.before(inputs)))


class Noise(nn.Module):
    def forward(self, inputs):
        return inputs + 0.1 * torch.randn_like(inputs)


@pytest.mark.parametrize(
    ("network", "kinds", "text"),
    [
        (Changed(nn.Dropout(0.5), stubborn=True), {RandomisedWarning, TrainingModeWarning}, "first before (Dropout)"),
        (Changed(Noise()), {RandomisedWarning}, "each score is that of one draw"),
        (
            Changed(nn.BatchNorm2d(1, affine=False, track_running_stats=False)),
            {BatchDependentWarning},
            "Logits change with the batch",
        ),
        (Changed(after=nn.Softmax(dim=1)), {ProbabilitiesWarning}, "Outputs all lie in [0, 1] and sum to 1"),
    ],
)
def test_a_network_whose_scores_are_doubtful_is_named_when_it_is_calibrated(network, kinds, text):
    means, drawn = torch.linspace(0, 1, 101), torch.get_rng_state()
    with pytest.warns(Caution) as seen:
        Detector.calibrate(network, flat_images(means), margins=(means - 0.5).abs(), epsilon=0.2)
    assert {one.category for one in seen} == kinds
    assert any(text in str(one.message) for one in seen)
    assert seen[0].filename == __file__
    torch.set_rng_state(drawn)


def test_the_look_before_a_calibration_draws_no_numbers():
    means, scores = torch.linspace(0, 1, 8), []
    for looked_at in (True, False):
        torch.manual_seed(0)
        with pytest.warns(RandomisedWarning) if looked_at else nullcontext():
            if looked_at:
                check = check_passes(Changed(Noise()), flat_images(means))
                warnings.warn(check[0], stacklevel=1)
            scores.append(Changed(Noise())(flat_images(means)))
    assert torch.equal(*scores)


def test_a_calibration_without_a_robust_image_says_so_and_keeps_its_promise():
    means = torch.linspace(0.4, 0.6, 50)
    margins = (means - 0.5).abs()
    with pytest.warns(NoRobustImagesWarning) as seen:
        detector = Detector.calibrate(Halfspace(), flat_images(means), margins=margins, epsilon=0.2)
    (only,) = seen
    assert str(only.message) == (
        "All 50 calibration images have a margin of at most epsilon = 0.2, the largest of 0.1; nothing shows what may "
        "pass: is epsilon too large, or in another unit than the margins?"
    )
    assert (~detector(flat_images(means))).sum() <= 0.1 * 51  # the rank's: at most k - 1


@pytest.mark.parametrize("robust", [1, 30])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_threshold_that_lets_no_robust_image_pass_is_named_and_one_that_lets_one_pass_is_not(robust, sign):
    scores = sign * torch.arange(20.0 + robust)
    margins = torch.tensor([0.0] * 20 + [1.0] * robust)
    backwards = calibrate(-scores.numpy(), margins.numpy(), sign=sign, epsilon=0.1, miss_rate=0.1)
    (only,) = doubts(backwards, -scores.numpy(), margins.numpy())
    assert isinstance(only, FlagsAllWarning)
    assert backwards.flagged(-scores[20:]).all()
    assert f"and with them all {robust} robust calibration images; it vouches for nothing" in str(only)
    forwards = calibrate(scores.numpy(), margins.numpy(), sign=sign, epsilon=0.1, miss_rate=0.1)
    assert doubts(forwards, scores.numpy(), margins.numpy()) == []
    one = -scores
    one[-1] = sign * 1e3  # one robust image beyond all brittle ones
    kept = calibrate(one.numpy(), margins.numpy(), sign=sign, epsilon=0.1, miss_rate=0.1)
    assert (kept.flag, doubts(kept, one.numpy(), margins.numpy())) == (backwards.flag, [])


def test_a_constant_score_flags_everything_and_is_named():
    class Constant(Halfspace):
        def forward(self, inputs):
            return 0 * super().forward(inputs) + torch.tensor([2.0, 0.0])

    means = torch.linspace(0, 1, 101)
    with pytest.warns(
        FlagsAllWarning, match=r"Scores <= 2 are flagged, and with them all 60 robust calibration images"
    ):
        detector = Detector.calibrate(Constant(), flat_images(means), margins=(means - 0.5).abs(), epsilon=0.2)
    assert detector(flat_images(means)).all()


@pytest.mark.parametrize("false_alarm_rate", [None, 0.25])
def test_a_detector_prints_in_one_line_what_it_is(digits, false_alarm_rate):
    detector = calibrated(digits, score="entropy", false_alarm_rate=false_alarm_rate)
    text, rates = repr(detector), "miss rate 0.1" + (", false-alarm rate 0.25" if false_alarm_rate else "")
    network, flag = f"Sequential {state_sha256(digits[0])[:8]}", f"{detector.thresholds.flag:.4g}"
    assert text == f"<Detector of {network}: flags entropy >= {flag} for Linf margin <= 0.1, {rates}, 400 images>"
    assert str(detector) == text


def test_only_a_score_that_reads_features_hooks_the_network(digits, monkeypatch):
    detector = calibrated(digits)
    monkeypatch.setattr("margincons.classifier._on_call", pytest.fail)
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


def damaged(pixel):
    """Images of which all are fine but a robust one behind the first batch."""
    images = flat_images(torch.linspace(0, 1, 101)).clone()
    images[-1] = pixel
    return images


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
        (
            {"epsilon": 0.2, "margins": 255 * (torch.linspace(0, 1, 101) - 0.505).abs()},
            TooFewImagesError,
            "got 0; with fewer only a threshold that lets none of them pass would do: take more images; or is epsilon "
            "in another unit than the margins?",
        ),
        ({"inputs": flat_images(torch.full((101,), 255.0))}, PixelRangeError, "divide by 255"),
        ({"miss_rate": 5}, UsageError, "Expected a rate between 0 and 1"),
        ({"inputs": damaged(255)}, PixelRangeError, "divide by 255"),
        ({"inputs": damaged(torch.nan)}, PixelRangeError, "NaN came in"),
        ({"inputs": load_images("digits", n=101)}, ShapeError, "got Images; pass its .inputs."),
        ({"batch_size": 0}, UsageError, "Expected a batch size of one image or more, got 0."),
        ({"batch_size": -1}, UsageError, "got -1."),
    ],
)
def test_a_calibration_that_promises_nothing_is_refused(options, error, text):
    means = torch.linspace(0, 1, 101)
    inputs = options.pop("inputs", flat_images(means))
    with pytest.raises(error) as caught:
        Detector.calibrate(Halfspace(), inputs, **{"margins": (means - 0.5).abs(), "epsilon": 0.2} | options)
    assert text in str(caught.value)


@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_a_score_that_is_nan_on_one_image_robust_or_brittle_calibrates_nothing(mean):
    class Blind(Halfspace):
        def forward(self, inputs):
            return super().forward(inputs).where(inputs.flatten(1).mean(dim=1)[:, None] != mean, torch.nan)

    means = torch.cat([torch.linspace(0.2, 0.9, 100), torch.tensor([mean])])
    with pytest.raises(DegenerateError, match="1 of 101 calibration scores are NaN"):
        Detector.calibrate(Blind(), flat_images(means), margins=(means - 0.5).abs(), epsilon=0.2)


def test_a_batch_of_no_images_is_no_batch(digits):
    detector, inputs = calibrated(digits), digits[1].inputs[:2]
    for call in (detector, detector.scores, detector.decide):
        with pytest.raises(UsageError, match="Expected a batch size of one image or more, got 0"):
            call(inputs, batch_size=0)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (torch.full((2, 1, 8, 8), 255.0), PixelRangeError, "divide by 255"),
        (torch.zeros(2, 3, 8, 8), ShapeError, "to be (n, 1, 8, 8), as in the calibration, got (2, 3, 8, 8)."),
        (torch.zeros(8, 8), ShapeError, "images"),
        ("cat.png", ShapeError, "got str"),
        (load_images("digits", n=2), ShapeError, "got Images; pass its .inputs."),
    ],
)
def test_images_that_the_detector_was_not_made_for_are_refused(digits, images, error, text):
    with pytest.raises(error) as caught:
        calibrated(digits)(images)
    assert text in str(caught.value)


def test_decisions_of_no_images_are_none():
    none = torch.zeros(0, dtype=torch.bool)
    assert Decisions(predicted=none, scores=none, flagged=none, brittle=none).names == []
