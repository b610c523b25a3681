"""Losses against their formulas written out, inner attacks against their balls, and training against the record."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from margincons.data import load_images
from margincons.errors import UnknownNameError
from margincons.margins import attack_within
from margincons.zoo import load_model, recipes, training
from margincons.zoo.bundled import ARCHITECTURES, bundled_index, sha256
from margincons.zoo.recipes import RECIPES, Recipe, climb, hardest, train
from margincons.zoo.training import Outcome, clean_accuracy, retrain

EPSILON = 0.15


@pytest.fixture
def batch():
    images = load_images("digits", split="calibration", n=40)
    return images.inputs, images.labels


@pytest.fixture
def network():
    return load_model("digits/standard")


def pinned(monkeypatch, moved):
    """Replace the inner attacks by given images, so that a loss is a plain formula."""
    monkeypatch.setattr(recipes, "hardest", lambda *_, **__: moved)
    monkeypatch.setattr(recipes, "climb", lambda *_, **__: moved)


def test_climbing_ends_inside_ball_and_box_and_higher_than_it_began(network, batch):
    inputs, labels = batch
    for steps in (1, 10):
        moved = hardest(network, inputs, labels, EPSILON, steps)
        assert (moved - inputs).abs().max() <= EPSILON + 1e-6
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert cross_entropy(network(moved), labels) > cross_entropy(network(inputs), labels)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_climbing_a_linear_function_reaches_the_corner_of_the_ball():
    direction = torch.randn(1, 1, 8, 8)
    inputs = torch.full((3, 1, 8, 8), 0.5)
    moved = climb(lambda images: (direction * images).sum(), inputs, EPSILON)
    assert_close(moved, (inputs + EPSILON * direction.sign()).expand_as(moved))


def test_trades_is_its_formula(network, batch, monkeypatch):
    inputs, labels = batch
    moved = (inputs + 0.1).clamp(0, 1)
    pinned(monkeypatch, moved)
    clean, shifted = network(inputs).softmax(dim=1), network(moved).softmax(dim=1)
    divergence = (clean * (clean.log() - shifted.log())).sum(dim=1).mean()
    assert_close(
        recipes.trades(network, inputs, labels, EPSILON), cross_entropy(network(inputs), labels) + 6 * divergence
    )


def test_mart_is_its_formula(network, batch, monkeypatch):
    inputs, labels = batch
    moved = (inputs + 0.1).clamp(0, 1)
    pinned(monkeypatch, moved)
    total = 0.0
    for row, label in enumerate(labels.tolist()):
        clean, shifted = (network(x[row : row + 1]).softmax(dim=1)[0] for x in (inputs, moved))
        rivals = torch.cat([shifted[:label], shifted[label + 1 :]])
        boosted = -shifted[label].log() - (1 - rivals.max()).log()
        total += boosted + 5 * (clean * (clean.log() - shifted.log())).sum() * (1 - clean[label])
    assert_close(recipes.mart(network, inputs, labels, EPSILON), total / len(labels), rtol=1e-4, atol=1e-5)


def test_logit_pairing_is_its_formula(network, batch, monkeypatch):
    inputs, labels = batch
    moved = (inputs + 0.1).clamp(0, 1)
    pinned(monkeypatch, moved)
    pairing = 0.5 * ((network(moved) - network(inputs)) ** 2).mean()
    assert_close(recipes.alp(network, inputs, labels, EPSILON), cross_entropy(network(moved), labels) + pairing)
    assert_close(recipes.clp(network, inputs, labels, EPSILON), cross_entropy(network(inputs), labels) + pairing)


def test_mma_trains_right_images_just_across_their_boundary_and_wrong_ones_as_they_are(network, batch, monkeypatch):
    inputs, labels = batch
    labels = torch.cat([(labels[:5] + 1) % 10, labels[5:]])  # five wrong images
    far = hardest(network, inputs, labels, 2 * EPSILON)
    pinned(monkeypatch, far)
    seen = []
    seeing = nn.Sequential(network)
    seeing.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    recipes.mma(seeing, inputs, labels, EPSILON)
    boundary = seen[-1]
    right = network(inputs).argmax(dim=1) == labels
    assert not right[:5].any()
    assert_close(boundary[~right], inputs[~right])
    crossed = right & (network(far).argmax(dim=1) != labels)
    assert crossed.sum() > 20
    assert (network(boundary)[crossed].argmax(dim=1) != labels[crossed]).all()
    share = ((boundary - inputs).flatten(1).norm(dim=1) / (far - inputs).flatten(1).norm(dim=1))[crossed]
    nearer = inputs[crossed] + (share - 2**-7).view(-1, 1, 1, 1) * (far - inputs)[crossed]
    assert (network(nearer).argmax(dim=1) == labels[crossed]).all()


@pytest.mark.parametrize("model_id", ["digits/standard", "digits/ibp"])
def test_the_certified_loss_bounds_the_loss_at_every_point_of_the_ball(model_id, batch):
    model, (inputs, labels) = load_model(model_id), batch
    clean = cross_entropy(model(inputs), labels)
    for epsilon in (0.0, 0.02, 0.1):
        bound = 2 * recipes.ibp(model, inputs, labels, epsilon) - clean
        assert bound >= cross_entropy(model(hardest(model, inputs, labels, epsilon)), labels) - 1e-5
        for _ in range(5):
            moved = (inputs + epsilon * (2 * torch.rand_like(inputs) - 1)).clamp(0, 1)
            assert bound >= cross_entropy(model(moved), labels) - 1e-5
    assert_close(recipes.ibp(model, inputs, labels, 0.0), clean)


@pytest.mark.parametrize("model_id", RECIPES)
def test_every_loss_falls_when_its_recipe_follows_it(model_id, batch):
    recipe, (inputs, labels) = RECIPES[model_id], batch
    model = ARCHITECTURES[recipe.architecture]()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss = recipe.loss(model, inputs, labels, 0.005)  # training begins with small balls as well
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_training_for_robustness_leaves_fewer_images_to_an_attack_than_standard_training():
    images = load_images("digits", n=200)
    left = {}
    for model_id in bundled_index():
        bounds = attack_within(load_model(model_id), images.inputs, epsilon=0.1, attack="pgd", effort="fast")
        left[model_id] = (~bounds.success & (bounds.predicted == images.labels)).float().mean().item()
    for recipe in ("fgsm_at", "pgd_at", "trades", "mart", "alp", "clp", "mma", "ibp", "gaussian"):
        assert left[f"digits/{recipe}"] > left["digits/standard"] + 0.1, recipe


def test_training_repeats_with_its_seed_and_leaves_the_global_generator_alone(monkeypatch):
    monkeypatch.setitem(RECIPES, "digits/brief", Recipe(loss=recipes.fgsm_at, epochs=1))
    before = torch.get_rng_state()
    first, again, other = (train("digits/brief", seed=seed).state_dict() for seed in (0, 0, 1))
    assert_close(torch.get_rng_state(), before)
    for name in first:
        assert_close(first[name], again[name], rtol=0, atol=0)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_finished_network_is_in_eval_mode_and_multiplied_or_rescaled(monkeypatch):
    for model_id in ("digits/masked", "digits/rescaled"):
        recipe = RECIPES[model_id]
        brief = Recipe(loss=recipes.standard, epochs=1)
        monkeypatch.setitem(RECIPES, "digits/plain", brief)
        monkeypatch.setitem(RECIPES, "digits/finished", Recipe(loss=recipes.standard, epochs=1, finish=recipe.finish))
        inputs = torch.rand(6, 1, 8, 8)
        plain, finished = (train(name) for name in ("digits/plain", "digits/finished"))
        logits = plain(inputs)
        factor = 100 if model_id == "digits/masked" else (1 + logits.norm(dim=1, keepdim=True)) ** -2
        assert_close(finished(inputs), factor * logits, rtol=1e-4, atol=1e-5)
        assert not any(module.training for module in finished.modules())


def test_an_unknown_recipe_is_named():
    with pytest.raises(UnknownNameError, match="Unknown recipe 'digits/pgdat'; the nearest are: digits/pgd_at"):
        train("digits/pgdat")


def test_retraining_writes_weights_and_holds_them_against_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda model_id, **_: load_model("digits/mlp"))
    outcome = retrain("digits/mlp", out=tmp_path)
    assert outcome.path == tmp_path / "digits.mlp.safetensors"
    assert sha256(outcome.path) == bundled_index()["digits/mlp"]["sha256"]
    assert outcome.same_weights
    assert outcome.agrees
    assert "the same weights: agrees" in str(outcome)
    monkeypatch.setattr(training, "train", lambda model_id, **_: ARCHITECTURES["mlp"]())
    outcome = retrain("digits/mlp", out=tmp_path)
    assert not outcome.same_weights
    assert not outcome.agrees
    assert "other weights: DISAGREES" in str(outcome)


def test_agreement_is_of_accuracies_within_two_points(tmp_path):
    def outcome(accuracy, recorded):
        about = {"model_id": "digits/x", "same_weights": False, "path": tmp_path}
        return Outcome(accuracy=accuracy, recorded_accuracy=recorded, **about)

    assert outcome(0.961, 0.98).agrees
    assert not outcome(0.95, 0.98).agrees
    assert outcome(0.1, None).agrees  # nothing to disagree with
    assert "recorded" not in str(outcome(0.1, None))


def test_clean_accuracy_counts_the_test_images(network):
    images = load_images("digits")
    assert clean_accuracy(network) == (network(images.inputs).argmax(dim=1) == images.labels).float().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("model_id", RECIPES)
def test_every_recipe_gives_the_recorded_network_again(tmp_path, model_id):
    assert retrain(model_id, out=tmp_path).agrees


def test_the_quickest_recipe_gives_the_recorded_network_again(tmp_path):
    outcome = retrain("digits/standard", out=tmp_path)
    assert outcome.agrees, str(outcome)
