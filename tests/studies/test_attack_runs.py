from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from margincons.data import load_images
from margincons.errors import RecordError
from margincons.records import read_record, shipped_records
from margincons.studies import attack_runs
from margincons.studies.attack_runs import RADII, SETTINGS, both_attacks, main, run, shares_past
from margincons.zoo import load_model, state_sha256
from margincons.zoo.bundled import bundled_index

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
SHIPPED = [name for name in shipped_records() if name.startswith("detector_attacks/")]
INDEPENDENT = [name for name in shipped_records() if name.startswith("cifar10/") and "/Linf/" in name]
MARGINS = {  # by record, the margins of its networks
    "detector_attacks/digits": {model_id: f"{model_id}/Linf/minimum_norm" for model_id in bundled_index()},
    "detector_attacks/cifar10": {name.split("/")[1].replace(".", ".py:"): name for name in INDEPENDENT},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_record_holds_every_network_image_and_radius_once_at_equal_gradients(name):
    record = read_record(name)
    assert set(record["network"]) == set(MARGINS[name])
    assert not record.duplicated(["network", "image", "radius"]).any()
    images = len(read_record(next(iter(MARGINS[name].values()))))
    assert len(record) == len(MARGINS[name]) * images * record["radius"].nunique()
    assert (record["evade_gradients"] <= record["pgd_gradients"]).all()
    assert (record["pgd_gradients"] == SETTINGS["gradients"]).all()
    about = record.attrs["settings"]
    assert {key: about[key] for key in SETTINGS} == SETTINGS
    for network, margins in MARGINS[name].items():
        measured = read_record(margins).attrs["settings"]
        assert about["data_sha256"] == measured["data_sha256"]
        assert name.endswith("/digits") or about["weights_sha256"][network] == measured["weights_sha256"]


def same_attacks(record, model, images, network, radius):
    """Attack every fortieth image again: other batches take some searches to other maxima."""
    indices = torch.arange(0, len(images), 40)
    again = both_attacks(model, images.inputs[indices], indices=indices, radii=(radius,))
    shipped = record[(record["network"] == network) & (record["radius"] == radius)].set_index("image").loc[indices]
    for column in ("evade", "pgd"):
        then, now = torch.tensor(shipped[column].to_numpy()), torch.tensor(again[column].to_numpy())
        assert (then.isfinite() == now.isfinite()).float().mean() >= 0.9
        both = then.isfinite() & now.isfinite()
        assert both.sum() >= 5
        assert torch.isclose(then[both], now[both], rtol=1e-3).float().mean() >= 0.8


@pytest.mark.parametrize("model_id", ["digits/trades", "digits/mlp"])
def test_a_sample_of_the_record_of_digits_is_found_again(model_id):
    same_attacks(read_record("detector_attacks/digits"), load_model(model_id), load_images("digits"), model_id, 0.2)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="independent networks are not on this machine")
@pytest.mark.parametrize("network", MARGINS["detector_attacks/cifar10"])
def test_a_sample_of_the_record_of_networks_that_others_trained_is_found_again(network):
    record = read_record("detector_attacks/cifar10")
    images, model = load_images(str(DATA / "cifar10_test_first1017.npz")), load_model(str(DATA / network))
    assert images.checksum() == record.attrs["settings"]["data_sha256"]
    assert state_sha256(model) == record.attrs["settings"]["weights_sha256"][network]
    same_attacks(record, model, images, network, 4 / 255)


@pytest.mark.parametrize("name", SHIPPED)
def test_at_the_detectors_own_epsilon_evasion_is_never_behind_plain_pgd_on_any_network(name):
    record = read_record(name)
    epsilon = record["radius"].min()  # the bar was set at this radius alone, before anything was measured
    found = shares_past(record, {network: read_record(one) for network, one in MARGINS[name].items()}, epsilon=epsilon)
    own = found[found["radius"] == epsilon]
    assert set(own["network"]) == set(MARGINS[name])
    assert all(difference.value >= 0 for difference in own["difference"])


def test_shares_are_of_the_images_within_reach_and_flagged_is_what_does_not_exceed_the_threshold():
    margins = pd.DataFrame({"index": range(40), "upper": np.arange(40) / 100, "logit_margin": np.arange(40.0)})
    runs = pd.DataFrame({"network": "mine", "image": [*range(40)] * 2, "radius": [0.19] * 40 + [0.3] * 40})
    runs["evade"] = [18.0] * 10 + [18.1] * 5 + [-np.inf] * 5 + [99.0] * 20 + [20.0] * 31 + [99.0] * 9
    runs["pgd"] = [18.1] * 2 + [17.0] * 38 + [18.0] * 40
    found = shares_past(runs, {"mine": margins}, epsilon=0.19).set_index("radius")
    assert found["threshold"].tolist() == [18.0] * 2  # 19 of the 20 brittle ones lie at or below it
    assert found["n"].tolist() == [20, 31]  # a margin of just the radius is within reach
    assert [share.value for share in found["evade"]] == [5 / 20, 1.0]
    assert [share.value for share in found["PGD"]] == [2 / 20, 0.0]
    assert [share.value for share in found["difference"]] == pytest.approx([3 / 20, 1.0])


def test_an_interrupted_run_goes_on_with_the_networks_that_are_missing(tmp_path, monkeypatch):
    two = {name: bundled_index()[name] for name in ("digits/mlp", "digits/trades")}
    monkeypatch.setattr(attack_runs, "bundled_index", lambda: two)
    whole = run(tmp_path, limit=4, progress=False)
    assert whole.groupby("network", sort=False).size().to_dict() == dict.fromkeys(two, 4 * len(RADII))
    assert whole["index"].tolist() == list(range(len(whole)))
    first, second = sorted(tmp_path.glob("shard-*.parquet"))
    second.unlink()
    kept = first.stat()
    again = run(tmp_path, limit=4, progress=False)
    assert again.equals(whole)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    with pytest.raises(RecordError, match="data_sha256"):
        run(tmp_path, limit=5, progress=False)


def test_a_run_takes_networks_images_and_radii_of_ones_own(tmp_path, capsys):
    images = load_images("digits", n=3)
    np.savez(tmp_path / "mine.npz", x=images.inputs.numpy(), y=images.labels.numpy())
    (tmp_path / "nets.py").write_text(
        "import margincons\n\n\ndef net():\n    return margincons.load_model('digits/mlp')\n"
    )
    main([f"{tmp_path}/out", f"{tmp_path}/nets.py:net", "--data", f"{tmp_path}/mine.npz", "--radii", "0.1", "51/255"])
    assert capsys.readouterr().out.endswith("out: 6 images, by network and radius\n")
    record = read_record(tmp_path / "out")
    assert set(record["network"]) == {"nets.py:net"}
    assert record["radius"].tolist() == [0.1] * 3 + [51 / 255] * 3
    assert record.attrs["settings"]["data"] == "mine"
    theirs = both_attacks(load_model("digits/mlp"), images.inputs, indices=torch.arange(3), radii=(0.1, 0.2))
    assert record["evade"].tolist() == pytest.approx(theirs["evade"].tolist(), rel=1e-3)
    with pytest.raises(RecordError, match="radii"):
        run(tmp_path / "out", [f"{tmp_path}/nets.py:net"], data=f"{tmp_path}/mine.npz", radii=(0.1,))


def test_the_command_asks_for_its_folder(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "the following arguments are required: folder" in capsys.readouterr().err
