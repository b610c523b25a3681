"""The bundled networks are those on record, and the two specimens are what they are said to be."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from margincons.attacks.pgd import pgd
from margincons.classifier import Classifier
from margincons.data import load_images
from margincons.detection import robust_accuracy
from margincons.errors import ChecksumError, MissingFileError, UnknownNameError
from margincons.measure import measure_images
from margincons.records import read_record, shipped_records
from margincons.scores import logit_margin
from margincons.zoo import bundled, list_models, load_model
from margincons.zoo.bundled import ARCHITECTURES, WEIGHTS, Rescaled, bundled_index, load_bundled, weights_path
from margincons.zoo.recipes import RECIPES
from margincons.zoo.user import state_sha256


@pytest.fixture(scope="module")
def images():
    return load_images("digits")


@pytest.mark.parametrize("model_id", RECIPES)
def test_every_recipe_ships_with_weights_of_the_recorded_accuracy(model_id, images):
    model, entry = load_model(model_id), bundled_index()[model_id]
    assert not any(module.training for module in model.modules())
    accuracy = (model(images.inputs).argmax(dim=1) == images.labels).float().mean().item()
    assert accuracy == pytest.approx(entry["accuracy"], abs=1e-6)
    assert accuracy > 0.9
    recipe = RECIPES[model_id]
    assert entry["architecture"] == (recipe.finished_architecture or recipe.architecture)
    assert entry["train_epsilon"] == recipe.epsilon
    assert entry["made"]["command"].startswith("margincons train")


def test_the_index_the_recipes_and_the_weights_are_of_the_same_networks():
    assert set(bundled_index()) == set(RECIPES)
    named = {weights_path(model_id) for model_id in RECIPES}
    assert named == set(WEIGHTS.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in named) < 5e6
    assert list_models("digits/") == list(bundled_index())


@pytest.mark.parametrize("name", [name for name in shipped_records() if name.startswith("digits/")])
def test_a_shipped_record_was_measured_with_the_shipped_weights(name):
    table = read_record(name)
    images = load_images("digits", split=table.attrs["settings"]["data"].removeprefix("digits/"))
    settings = table.attrs["settings"]
    model = load_model(settings["model"])
    assert settings["weights_sha256"] == state_sha256(model)
    head = len(table)
    assert table["predicted"].tolist() == model(images.inputs[:head]).argmax(dim=1).tolist()
    margins = torch.tensor(table["logit_margin"].to_numpy())
    assert_close(margins, logit_margin(model(images.inputs[:head]).detach()), rtol=1e-3, atol=1e-4)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the weights of one network, so that they may be damaged."""
    path = tmp_path / "digits.mlp.safetensors"
    path.write_bytes(weights_path("digits/mlp").read_bytes())
    monkeypatch.setattr(bundled, "WEIGHTS", tmp_path)
    return path


def test_weights_with_another_checksum_are_refused(copied):
    load_bundled("digits/mlp")
    content = bytearray(copied.read_bytes())
    content[-1] ^= 1
    copied.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"digits\.mlp\.safetensors to have SHA-256"):
        load_bundled("digits/mlp")


def test_missing_weights_and_unknown_ids_are_named(copied):
    copied.unlink()
    with pytest.raises(MissingFileError, match="Expected a file of weights at"):
        load_bundled("digits/mlp")
    with pytest.raises(UnknownNameError, match="Unknown model 'digits/trade'; the nearest are: digits/trades"):
        load_bundled("digits/trade")


def test_without_an_index_nothing_is_bundled(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "INDEX", tmp_path / "index.json")
    bundled_index.cache_clear()
    try:
        assert bundled_index() == {}
        bundled.INDEX.write_text(json.dumps({"digits/a": {}}))
        bundled_index.cache_clear()
        assert list(bundled_index()) == ["digits/a"]
    finally:
        bundled_index.cache_clear()


def test_the_architectures_are_as_small_as_they_say():
    counts = {name: sum(p.numel() for p in build().parameters()) for name, build in ARCHITECTURES.items()}
    assert counts == {"cnn": 38_282, "mlp": 64 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10, "rescaled_cnn": 38_282}


def test_the_masked_network_decides_as_the_standard_one_with_logits_a_hundredfold(images):
    standard, masked = (load_model(f"digits/{name}")(images.inputs).detach() for name in ("standard", "masked"))
    assert_close(masked, 100 * standard, rtol=1e-4, atol=1e-2)
    assert_close(masked.argmax(dim=1), standard.argmax(dim=1))


def test_the_masked_network_hides_its_gradient_and_is_not_robust(images):
    model, inputs = load_model("digits/masked"), images.inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(inputs), images.labels, reduction="sum"), inputs)
    assert (gradient.flatten(1) == 0).all(dim=1).float().mean() >= 0.9

    def accuracy(moved):
        return (model(moved).argmax(dim=1) == images.labels).float().mean().item()

    clean = accuracy(images.inputs)
    stepped = accuracy((images.inputs + 0.1 * gradient.sign()).clamp(0, 1))  # FGSM as it is usually written
    assert clean - stepped <= 0.02
    table = read_record("digits/masked/Linf/fab_paper")
    assert robust_accuracy(table, epsilon=0.1).value <= stepped - 0.3
    sample = type(images)(**(vars(images) | {"inputs": images.inputs[:100], "labels": images.labels[:100]}))
    live = robust_accuracy(measure_images(model, sample), epsilon=0.1).value
    assert live <= accuracy_of_first(table, 100) - 0.3


def accuracy_of_first(table, n):
    return (table["label"] == table["predicted"])[:n].mean()


def test_the_log_odds_gradient_is_not_fooled_by_the_mask(images):
    inputs = images.inputs[:100]
    plain, masked = (
        pgd(model, inputs, model(inputs).argmax(dim=1), epsilon=0.1, steps=10, loss="log_odds")
        for model in (load_model("digits/standard"), load_model("digits/masked"))
    )
    assert abs(masked.success.sum() - plain.success.sum()) <= 3


def test_the_rescaled_network_keeps_every_decision_and_forgets_part_of_the_margins(images):
    model = load_model("digits/rescaled")
    assert isinstance(model, Rescaled)
    hidden = model.body(images.inputs)
    inner = torch.nn.functional.linear(hidden, model.head.weight[:, :-1], model.head.weight[:, -1])
    outputs = Classifier(model, images.inputs[:2])(images.inputs)
    assert_close(outputs.predicted, inner.argmax(dim=1))
    assert_close(outputs.logits, inner / (1 + inner.norm(dim=1, keepdim=True)) ** 2)
    order = torch.stack([logit_margin(outputs.logits), logit_margin(inner)]).argsort(dim=1)
    assert (order[0] != order[1]).float().mean() > 0.5


def test_the_rescaled_network_is_its_recipes_network_rescaled():
    inner = ARCHITECTURES["cnn"]()
    model, inputs = Rescaled(inner), torch.rand(5, 1, 8, 8)
    logits = inner(inputs)
    assert_close(model(inputs), logits / (1 + logits.norm(dim=1, keepdim=True)) ** 2)
