"""The cost model against runs: live on a small network, and as recorded on larger ones."""

import pytest
import torch

from margincons.costs import work_per_pass
from margincons.data import load_images
from margincons.errors import UnknownNameError, UsageError
from margincons.records import read_record
from margincons.studies import cost_runs
from margincons.studies.cost_runs import OURS, RUNS, priced_and_measured
from margincons.zoo import load_model
from margincons.zoo.robustbench import unloaded_robustbench


def test_a_run_is_priced_before_and_measured_after():
    runs = [("minimum_norm", "fast"), ("fab_restarts", "fast")]
    table = priced_and_measured(load_model("digits/mlp"), load_images("digits", n=10).inputs, runs)
    assert table[["attack", "effort"]].apply(tuple, axis=1).tolist() == runs
    assert table["backward"][1] == table["predicted backward"][1] == 1000
    work = work_per_pass(load_model("digits/mlp"), (1, 8, 8))
    assert table["gigaflop"][1] * 1e9 == pytest.approx(1203 * work.forward, rel=0.01)
    assert (table[["predicted", "measured"]] > 0).all().all()


def test_a_stopped_command_goes_on_with_the_networks_that_are_missing(tmp_path, monkeypatch, capsys):
    two = (("digits/mlp", 4, OURS[:1]), ("digits/trades", 3, OURS[:2]))
    monkeypatch.setattr(cost_runs, "RUNS", two)
    cost_runs.main([str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path}: 3 runs\n"
    whole = read_record(tmp_path)
    assert whole["index"].tolist() == [0, 1, 2]
    assert whole["network"].tolist() == ["digits/mlp", "digits/trades", "digits/trades"]
    assert whole["images"].tolist() == [4, 3, 3]
    first, second = sorted(tmp_path.glob("shard-*.parquet"))
    kept, seconds = first.stat().st_mtime_ns, whole["measured"][0]
    second.unlink()
    cost_runs.main([str(tmp_path)])
    again = read_record(tmp_path)
    assert first.stat().st_mtime_ns == kept
    assert again["measured"][0] == seconds
    assert again["index"].tolist() == [0, 1, 2]


def test_the_record_holds_every_run_and_its_operations_are_counted_again():
    table = read_record("scale/cpu")
    found = {(row.network, row.attack, row.effort) for row in table.itertuples()}
    assert found == {(network, *run) for network, _, runs in RUNS for run in runs}
    for row in table[table["attack"] == "fab_paper"].itertuples():
        if row.network.startswith("robustbench"):
            with torch.device("meta"):
                model = unloaded_robustbench(row.network)
            work = work_per_pass(model, (3, 32, 32))
            assert row.backward == 1000
            assert row.gigaflop * 1e9 == pytest.approx(212 * work.forward + 1000 * work.backward, rel=0.02)


@pytest.mark.slow
def test_the_price_of_a_convolutional_network_holds_within_a_factor_of_two():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = unloaded_robustbench("robustbench/cifar10/Linf/Addepalli2021Towards_RN18")
    table = priced_and_measured(model, torch.rand(8, 3, 32, 32), [("minimum_norm", "fast"), ("minimum_norm", "fine")])
    assert (table["measured"] / table["predicted"]).between(0.5, 2).all()


def test_an_architecture_is_built_without_a_file_and_refused_where_there_is_none():
    with torch.device("meta"):
        model = unloaded_robustbench("robustbench/cifar10/Linf/Wong2020Fast")
    assert all(weight.is_meta for weight in model.parameters())
    assert not model.training
    before = torch.get_rng_state()
    unloaded_robustbench("robustbench/cifar10/Linf/Wong2020Fast")
    assert torch.equal(torch.get_rng_state(), before)  # random weights are not the caller's next numbers
    with pytest.raises(UnknownNameError):
        unloaded_robustbench("robustbench/cifar10/Linf/Wong")
    with pytest.raises(UsageError, match="hosted by timm or torchvision"):
        unloaded_robustbench("robustbench/cifar10/Linf/Debenedetti2022Light_XCiT-S12")
