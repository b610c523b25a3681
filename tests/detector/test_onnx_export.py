"""The graph against the detector: other code, the same numbers."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from margincons import load_images, load_model
from margincons.detector import Detector, onnx_export
from margincons.detector.scorer import make_scorer
from margincons.errors import ExportError, MissingExtraError
from margincons.records import read_record

ROWS = {1: slice(0, 1), 7: slice(0, 7), 800: slice(0, 800)}


def calibrated(score="logit_margin", model_id="digits/trades", model=None, **options):
    margins = read_record(f"{model_id}/Linf/minimum_norm")["upper"].to_numpy()
    model = model or load_model(model_id)
    return Detector.calibrate(
        model, load_images("digits").inputs, margins=margins, epsilon=0.1, score=score, false_alarm_rate=0.2, **options
    )


def in_onnx(path, inputs):
    runtime = pytest.importorskip("onnxruntime", reason='needs the extra onnx: pip install -e ".[onnx]"')
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "score", "flag", "brittle"]
    return session.run(None, {"images": inputs.numpy()})


@pytest.mark.parametrize(
    ("score", "model_id"),
    [
        ("logit_margin", "digits/trades"),
        ("feature_margin", "digits/trades"),
        ("entropy", "digits/trades"),
        ("logit_margin", "digits/mlp"),
        ("logit_margin", "digits/rescaled"),
    ],
)
def test_the_graph_gives_the_detectors_scores_and_flags_for_any_number_of_images(tmp_path, score, model_id):
    detector, path = calibrated(score, model_id), tmp_path / "detector.onnx"
    detector.export_onnx(path)
    for rows in ROWS.values():
        inputs = load_images("digits").inputs[rows]
        ours = detector.decide(inputs)
        logits, scores, flags, brittle = in_onnx(path, inputs)
        scale = max(1.0, float(ours.scores.abs().max()))  # absolute below 1, relative to the largest score above
        assert np.abs(scores - ours.scores.numpy()).max() <= 1e-5 * scale
        assert (logits.argmax(axis=1) == ours.predicted.numpy()).all()
        for given, mine, at in (
            (flags, ours.flagged, detector.thresholds.flag),
            (brittle, ours.brittle, detector.thresholds.alarm),
        ):
            away = (ours.scores - at).abs().numpy() > 1e-5 * scale
            assert (given == mine.numpy())[away].all()
            assert away.mean() > 0.99 or len(inputs) < 100


def test_a_pseudo_margin_on_features_is_exported_too(tmp_path):
    from margincons.classifier import Classifier
    from margincons.labelled_margins import labelled_margins
    from margincons.pseudo_margin import fit_pseudo_margin

    model, images = load_model("digits/trades"), load_images("digits", split="train")
    table = read_record("digits/trades/Linf/minimum_norm-train")
    score = fit_pseudo_margin(labelled_margins(Classifier(model, images.inputs[:2]), table, images), epochs=3)
    detector = calibrated(score)
    detector.export_onnx(tmp_path / "d.onnx")
    inputs = load_images("digits").inputs
    assert np.abs(in_onnx(tmp_path / "d.onnx", inputs)[1] - detector.scores(inputs).numpy()).max() < 1e-5


def test_nan_is_flagged_in_the_graph_as_well(tmp_path):
    detector = calibrated()
    detector.export_onnx(tmp_path / "d.onnx")
    logits, _, flags, brittle = in_onnx(tmp_path / "d.onnx", torch.full((2, 1, 8, 8), torch.nan))
    assert np.isnan(logits).all()
    assert flags.all()
    assert not brittle.any()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named_with_the_command_that_brings_it(tmp_path, monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else found(name))
    with pytest.raises(MissingExtraError) as caught:
        calibrated().export_onnx(tmp_path / "d.onnx")
    said = f"Expected the extra 'onnx' for an ONNX graph, {package} is missing: pip install -e \".[onnx]\"."
    assert str(caught.value) == said
    assert not list(tmp_path.iterdir())


class Around(nn.Module):
    """A bundled network whose images or logits take a way that a graph cannot follow."""

    def __init__(self, way):
        super().__init__()
        self.network, self.way = load_model("digits/trades"), way

    def forward(self, inputs):
        return self.way(self.network, inputs)


def branching(network, inputs):
    return network(inputs) if inputs.mean() < 0.5 else -network(inputs)


def outside(network, inputs):
    factor = 1 + float(np.asarray(inputs.detach().cpu().reshape(-1)[:1].tolist()).sum() > 2)
    return factor * network(inputs)


def one_size(network, inputs):
    return network(inputs) * (1 if inputs.shape[0] < 3 else 1.1)


@pytest.mark.parametrize("way", [branching, outside, one_size])
def test_a_network_that_cannot_be_exported_gets_one_line_and_no_file(tmp_path, capfd, way):
    with pytest.raises(ExportError) as caught:
        calibrated(model=Around(way)).export_onnx(tmp_path / "d.onnx")
    assert str(caught.value).startswith("Expected a network that torch can export to ONNX for any number of images")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_gives_other_numbers_than_the_network_is_not_written(tmp_path, monkeypatch):
    detector = calibrated()
    wrong = calibrated(model_id="digits/mart")
    made = onnx_export._exported
    all_flagged, none_called = (replace(detector.thresholds, **change) for change in ({"flag": 1e6}, {"alarm": -1e6}))
    for parts, what in (
        ((wrong.classifier, wrong.scorer, wrong.thresholds), "logits"),
        ((detector.classifier, make_scorer("entropy", detector.classifier, norm="Linf"), wrong.thresholds), "score"),
        ((detector.classifier, detector.scorer, all_flagged), "flag"),
        ((detector.classifier, detector.scorer, none_called), "brittle"),
    ):
        graph = onnx_export.Graph(*parts).eval()
        monkeypatch.setattr(onnx_export, "_exported", lambda _, example, graph=graph: made(graph, example))
        with pytest.raises(ExportError, match=f"the graph gives other values of {what} for 5 images than the network"):
            detector.export_onnx(tmp_path / "d.onnx")
        assert not list(tmp_path.iterdir())
