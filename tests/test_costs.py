"""Operations counted by hand, passes counted by the network, and prices that add up."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from margincons import cli
from margincons.costs import (
    Cost,
    Passes,
    Work,
    achieved_rate,
    duration,
    passes_per_image,
    predict,
    price,
    work_per_pass,
)
from margincons.data import load_images
from margincons.errors import ClassesError, UnknownNameError, UsageError
from margincons.margins import FIXED_BUDGET, MINIMUM_NORM, attack_within, input_margins
from margincons.zoo import load_model


def linear(classes):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).eval()
    network[1].bias.data = -0.5 * network[1].weight.data.sum(dim=1)  # the boundaries meet inside the box
    return network


def inner(n=8):
    return 0.45 + 0.1 * torch.rand(n, 1, 8, 8)


def test_operations_are_those_of_the_textbook():
    mlp = work_per_pass(load_model("digits/mlp"), (1, 8, 8))
    assert mlp.forward == 2 * (64 * 32 + 32 * 32 + 32 * 10)
    assert mlp.backward == mlp.forward  # to the image: each layer's transpose
    cnn = work_per_pass(load_model("digits/trades"), (1, 8, 8))
    assert cnn.forward == 2 * (64 * 16 * 9 + 16 * 32 * 16 * 9 + 512 * 64 + 64 * 10)
    with torch.device("meta"):
        wide = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(2048, 100))
    assert work_per_pass(wide, (3, 32, 32)).forward == 2 * (256 * 8 * 27 + 2048 * 100)


@pytest.mark.parametrize("classes", [4, 10, 13])
@pytest.mark.parametrize("attack", ["fab_paper", "fab_restarts", "fab_targeted", "pgd", "fgsm"])
@pytest.mark.parametrize("effort", ["fast", "standard"])
def test_passes_are_those_that_the_network_counts(attack, effort, classes):
    methods = MINIMUM_NORM | FIXED_BUDGET
    if effort not in methods[attack].efforts:
        with pytest.raises(UnknownNameError, match=f"Unknown effort of {attack} 'fast'"):
            passes_per_image(attack, effort=effort)
        return
    options = {"epsilon": 1e-6} if attack in FIXED_BUDGET else {}
    run = attack_within if attack in FIXED_BUDGET else input_margins
    counted = run(linear(classes), inner(), attack=attack, effort=effort, **options)
    told = passes_per_image(attack, effort=effort, classes=classes)
    assert counted.backward_passes[0] == pytest.approx(told.backward)
    assert counted.forward_passes[0] == pytest.approx(told.forward, rel=0.01)


@pytest.mark.parametrize("classes", [4, 12])
def test_autoattacks_passes_are_those_of_an_image_that_stands(classes):
    network = linear(classes)
    network[1].weight.data *= 10
    counted = attack_within(network, inner(2), epsilon=1e-7)
    told = passes_per_image("autoattack", classes=classes)
    assert not counted.success.any()
    assert counted.backward_passes[0] == pytest.approx(told.backward)
    assert counted.forward_passes[0] == pytest.approx(told.forward, rel=0.01)


@pytest.mark.parametrize("effort", ["fast", "standard", "fine"])
def test_our_passes_are_counted_on_a_few_images_of_the_run(effort):
    model, inputs = load_model("digits/trades"), load_images("digits", n=32).inputs
    counted = input_margins(model, inputs, effort=effort)
    told = predict(model, inputs, images=32, attack="minimum_norm", effort=effort, norm="Linf").passes
    assert told.backward == pytest.approx(counted.backward_passes.mean().item(), rel=0.5)
    assert told.forward == pytest.approx(counted.forward_passes.mean().item(), rel=0.5)


def test_our_passes_without_a_network_do_not_grow_with_its_classes_but_with_the_effort():
    told = [passes_per_image("minimum_norm", effort=effort) for effort in MINIMUM_NORM["minimum_norm"].efforts]
    assert [one.backward for one in told] == sorted(one.backward for one in told)
    assert passes_per_image("minimum_norm", effort="fast", classes=1000) == told[0]
    assert passes_per_image("minimum_norm", effort="fast", norm="L1").backward == pytest.approx(3 * told[0].backward)


def test_a_price_is_passes_times_operations_over_the_rate():
    cost = Cost(images=1000, passes=Passes(forward=200, backward=1000), work=Work(forward=1e9, backward=2e9), rate=1e12)
    assert cost.flop == 1000 * (200 * 1e9 + 1000 * 2e9)
    assert cost.seconds == cost.flop / 1e12 == 2200
    assert str(cost) == (
        "1000 images, 200 forward and 1000 backward passes each, 1.0 GFLOP per forward pass: 2.2 PFLOP; at 1.0 TFLOP/s "
        "about 37 min"
    )
    assert str(replace(cost, images=0)) == "all images are measured already"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (1.0, "1.0 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (7200, "2.0 h"),
        (86400 * 5, "5.0 days"),
        (1e9, "32 years"),
    ],
)
def test_durations_have_two_digits_and_a_unit_that_fits(seconds, text):
    assert duration(seconds) == text


def test_a_rate_is_operations_over_time():
    ticks = itertools.count()  # every look at the clock is a second later
    work = work_per_pass(load_model("digits/mlp"), (1, 8, 8))
    assert achieved_rate(load_model("digits/mlp"), torch.rand(50, 1, 8, 8), clock=lambda: next(ticks)) == 50 * (
        work.forward + work.backward
    )


def test_a_network_of_ten_times_the_operations_is_predicted_to_take_longer():
    small, large = (
        nn.Sequential(
            nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.Flatten(), nn.Linear(784 * width, 10)
        )
        for width in (4, 64)
    )
    costs = [predict(net, torch.rand(8, 3, 32, 32), images=8, attack="pgd", norm="Linf") for net in (small, large)]
    assert costs[1].flop > 10 * costs[0].flop
    assert costs[1].seconds > costs[0].seconds


def test_a_dry_run_prices_what_is_left_and_names_what_it_does_not_price(tmp_path, capfd):
    out, prices = tmp_path / "runs", []
    arguments = ["measure", "digits/mlp", "--data", "digits", "--effort", "fast", "--shard-size", "10"]
    arguments += ["--out", str(out), "--certificate", "interval", "--device", "cpu"]
    for limit in ("40", "80"):
        assert cli.main([*arguments, "--limit", "80", "--dry-run"]) == 0
        prices.append(capfd.readouterr().out)
        assert cli.main([*arguments, "--limit", limit]) == 0
        capfd.readouterr()
    assert cli.main([*arguments, "--limit", "80", "--dry-run"]) == 0
    assert capfd.readouterr().out == "digits/mlp: all images are measured already\n"
    (damaged,) = out.rglob("shard-00003.parquet")
    damaged.write_bytes(b"PAR1")
    before = sorted(out.rglob("*"))
    assert cli.main([*arguments, "--limit", "80", "--dry-run"]) == 0
    prices.append(capfd.readouterr().out)
    assert sorted(out.rglob("*")) == before  # the damaged file is left where it is
    assert [text.split()[1] for text in prices] == ["80", "40", "10"]
    assert all("lower bounds by interval come on top and are not priced" in text for text in prices)
    assert cli.main([*arguments, "--certificate", "exact", "--limit", "5", "--time-limit", "120", "--dry-run"]) == 0
    assert "exact margins take 120 s an image at most, 10 min in all" in capfd.readouterr().out


def test_a_dry_run_prices_and_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arguments = ["measure", "digits/mlp", "digits/trades", "--data", "digits", "--limit", "50", "--dry-run"]
    assert cli.main(arguments) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["digits/mlp", "digits/trades"]
    assert all("50 images, " in line and "FLOP/s about " in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"attack": "pgd"}, UsageError, "The attack 'pgd' needs epsilon"),
        ({"attack": "fab"}, UnknownNameError, "Unknown attack 'fab'"),
        ({"effort": "huge"}, UnknownNameError, "Unknown effort of minimum_norm 'huge'"),
        ({"batch_size": 0}, UsageError, "Expected a batch size of 1 or more, got 0."),
        ({"data": "cifar11"}, UnknownNameError, "Unknown dataset 'cifar11'"),
        ({"shard_size": 0}, UsageError, "Expected a shard size of 1 or more, got 0."),
        ({"limit": 0}, UsageError, "Expected a limit of 1 image or more, or None for all of them, got 0."),
        ({"certificate": "crow"}, UnknownNameError, "Unknown certificate 'crow'; the nearest are: crown"),
        ({"out": __file__}, UsageError, "to be the folder of a record, it is a file."),
    ],
)
def test_what_would_be_refused_is_refused_when_priced(options, error, text):
    with pytest.raises(error) as caught:
        price("digits/mlp", options.pop("data", "digits"), **options)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("network", "change", "text"),
    [
        ("digits/mlp", ["--certificate", "crow"], "Unknown certificate 'crow'; the nearest are: crown"),
        ("nets.py:soft", ["--certificate", "crown"], "residual layers, got "),
        ("nets.py:five", [], "Expected a network with 10 logits for digits, got 5"),
        ("digits/mlp", ["--effort", "standard"], "effort='standard', it has 'fast'; a record holds one measurement"),
        ("digits/mlp", ["--seed", "1"], "seed=1, it has 0; a record holds one measurement"),
        ("digits/mlp", ["--keep-images"], "keep_images=True, it has None; a record holds one measurement"),
        ("digits/mlp", ["--limit", "3"], "to be a record of 3 images or fewer, it is one of 4"),
        ("digits/mlp", ["--out", "nets.py"], "Expected nets.py to be a folder, for the record in it; it is a file."),
        ("digits/mlp", ["--scheduler", "nowhere"], "Expected a Dask scheduler at nowhere, but: "),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses_in_the_same_words(tmp_path, monkeypatch, capfd, network, change, text):
    monkeypatch.chdir(tmp_path)
    layers = "nn.Flatten(), nn.Linear(64, {})"
    networks = {"five": layers.format(5), "soft": layers.format(10) + ", nn.Softmax(dim=1)"}
    code = [f"def {name}(): return nn.Sequential({of})" for name, of in networks.items()]
    (tmp_path / "nets.py").write_text("\n".join(["from torch import nn", *code]))
    options = ["--data", "digits", "--effort", "fast", "--limit", "4", "--device", "cpu"]
    assert cli.main(["measure", "digits/mlp", *options]) == 0
    capfd.readouterr()
    said = []
    for dry in (["--dry-run"], []):
        assert cli.main(["measure", network, *options, *change, *dry]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        said.append(err.splitlines()[-1])
    assert said[0] == said[1]
    assert text in said[0]


def test_a_price_has_the_checks_of_a_run(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text("from torch import nn\ndef five():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n")
    with pytest.raises(ClassesError):
        price(f"{path}:five", "digits")
