"""Training without an end: against a plain loop, and the same whether one stops by or not."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from margincons.data import load_images
from margincons.errors import UnknownNameError, UsageError
from margincons.zoo.bundled import cnn
from margincons.zoo.long_training import LEARNING_RATE, WARM_UP, checkpoints


def test_a_checkpoint_is_what_a_plain_loop_gives():
    ((epoch, model),) = checkpoints("digits/standard", (2,), seed=5)
    images, step = load_images("digits", split="train"), 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = cnn()
        optimizer = torch.optim.Adam(expected.parameters(), weight_decay=1e-4)
        for _ in range(2):
            for rows in torch.randperm(797).split(64):
                step += 1
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * step / (WARM_UP * 13)
                optimizer.zero_grad()
                cross_entropy(expected(images.inputs[rows]), images.labels[rows]).backward()
                optimizer.step()
    assert epoch == 2
    assert not model.training
    for name, value in model.state_dict().items():
        assert_close(value, expected.state_dict()[name], rtol=1e-5, atol=1e-7)


def test_the_rate_and_the_radius_stay_after_the_warm_up(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "margincons.zoo.long_training.one_epoch",
        lambda *_, epsilon, optimizer, schedule, **__: (
            [(optimizer.step(), schedule.step()) for _ in range(13)],
            seen.append((epsilon, optimizer.param_groups[0]["lr"])),
        ),
    )
    list(checkpoints("digits/pgd_at", (WARM_UP + 3,)))
    radii, rates = zip(*seen, strict=True)
    assert radii[:WARM_UP] == pytest.approx([0.15 * (epoch + 1) / WARM_UP for epoch in range(WARM_UP)])
    assert radii[WARM_UP:] == pytest.approx([0.15] * 3)
    assert rates[0] < rates[5] < rates[WARM_UP]
    assert rates[WARM_UP:] == pytest.approx([LEARNING_RATE] * 3)


def test_stopping_by_and_drawing_random_numbers_changes_nothing():
    visited = {}
    for epoch, model in checkpoints("digits/fgsm_at", (0, 1, 2), seed=1):
        torch.rand(100)
        visited[epoch] = model
    ((_, straight),) = checkpoints("digits/fgsm_at", (2,), seed=1)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, visited[2].state_dict()[name])
    assert not torch.equal(visited[1][0].weight, visited[2][0].weight)  # copies, not one network
    assert not torch.equal(visited[0][0].weight, visited[1][0].weight)


def test_it_leaves_the_global_generator_alone_and_finishes_as_the_recipe_does():
    before = torch.get_rng_state()
    ((_, masked),) = checkpoints("digits/masked", (0,))
    ((_, plain),) = checkpoints("digits/standard", (0,))
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(masked[-1].weight, 100 * plain[-1].weight)


def test_wrong_epochs_and_recipes_are_refused():
    for epochs in ((), (2, 1), (1, 1), (-1, 2)):
        with pytest.raises(UsageError, match="Expected epochs that rise from 0 or more"):
            next(checkpoints("digits/standard", epochs))
    with pytest.raises(UnknownNameError, match="Unknown recipe 'digits/standrd'"):
        next(checkpoints("digits/standrd", (1,)))
