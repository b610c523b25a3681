"""The public face: names and signatures that later work adds to and never renames."""

import inspect
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import margincons
from margincons.data import Images

EMPTY = inspect.Parameter.empty
SIGNATURES = {  # name: positional parameters, then keywords with their defaults
    "load_model": (["model_id"], {}),
    "load_images": (["dataset"], {"split": "test", "n": None}),
    "logit_margin": (["logits"], {}),
    "input_margins": (
        ["model", "inputs"],
        {"norm": "Linf", "attack": "minimum_norm", "effort": "standard", "seed": 0},
    ),
    "measure": (
        ["model_id", "data"],
        {"norm": "Linf", "attack": "minimum_norm", "effort": "standard", "out": EMPTY},
    ),
    "read_record": (["path_or_name"], {}),
    "consistency": (["table"], {"score": "logit_margin", "margin": "upper"}),
    "detection": (["table"], {"epsilon": EMPTY, "score": "logit_margin", "margin": "upper"}),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_public_function_takes_what_was_promised(name):
    positional, keywords = SIGNATURES[name]
    parameters = inspect.signature(getattr(margincons, name)).parameters
    assert [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
    assert all(parameters[one].default is EMPTY for one in positional)
    for keyword, default in keywords.items():
        assert parameters[keyword].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[keyword].default == default
    added = [p for p in parameters.values() if p.name not in {*positional, *keywords}]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not EMPTY for p in added)  # additions are options


def test_results_are_frozen_dataclasses_with_the_promised_fields():
    promised = [
        "upper",
        "adversarial",
        "predicted",
        "adversarial_label",
        "success",
        "forward_passes",
        "backward_passes",
    ]  # all per image
    assert [field.name for field in fields(margincons.MarginBounds)][:7] == promised
    assert {"inputs", "labels"} <= {field.name for field in fields(Images)}
    assert {"norm", "epsilon"} == {field.name for field in fields(margincons.ThreatModel)}
    threat = margincons.ThreatModel(norm="L2", epsilon=0.5)
    with pytest.raises(AttributeError):
        threat.epsilon = 1.0


def test_a_type_checker_is_told_that_the_package_is_annotated():
    root = Path(margincons.__file__).parent
    packaged = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert (root / "py.typed").is_file()
    assert "py.typed" in packaged["margincons"]


def test_what_holds_tensors_shows_itself_in_one_short_line():
    model, images = margincons.load_model("digits/mlp"), margincons.load_images("digits", n=8)
    classifier = margincons.Classifier(model, images.inputs)
    bounds = margincons.input_margins(model, images.inputs, effort="fast")
    result = margincons.AttackResult.judge(model, images.inputs, images.inputs, images.labels, norm="L2")
    for held in (images, bounds, result, classifier(images.inputs), classifier.head):
        assert len(repr(held).splitlines()) == 1
        assert len(repr(held)) < 500
    assert repr(images).startswith("Images(inputs=(8, 1, 8, 8) float32, labels=(8,) int64, name='digits/test'")
    assert repr(classifier.head) == "Head(weight=(10, 32) float32, bias=(10,) float32)"


def test_every_public_name_exists_and_is_documented():
    promised = {*SIGNATURES, "Classifier", "ThreatModel", "MarginBounds"}
    assert promised <= set(margincons.__all__)
    assert sorted(margincons.__all__) == margincons.__all__
    assert all(inspect.getdoc(getattr(margincons, name)) for name in margincons.__all__)


def test_the_public_names_work_together(tmp_path):
    model, images = margincons.load_model("digits/mlp"), margincons.load_images("digits", split="test", n=8)
    classifier = margincons.Classifier(model, images.inputs)
    scores = margincons.logit_margin(classifier.logits(images.inputs))
    bounds = margincons.input_margins(model, images.inputs, effort="fast")
    assert scores.shape == bounds.upper.shape == (8,)
    assert (classifier.head(classifier.features(images.inputs)).argmax(dim=1) == bounds.predicted).all()
    table = margincons.measure("digits/mlp", "digits", effort="fast", out=tmp_path, limit=8, progress=False)
    assert torch.allclose(torch.tensor(table["upper"].to_numpy()), bounds.upper, rtol=1e-3)
    whole = margincons.read_record("digits/mlp/Linf/fab_paper")
    assert margincons.consistency(whole).tau.value > 0
    assert margincons.detection(whole, epsilon=0.1).auroc.value > 0.5
