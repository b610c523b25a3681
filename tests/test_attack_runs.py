import pytest
import torch

from margincons import attack_runs
from margincons.attack_runs import RADII, RECORD, SETTINGS, both_attacks, main, run
from margincons.data import load_images
from margincons.detection import detection
from margincons.errors import RecordError
from margincons.records import read_record
from margincons.zoo import load_model
from margincons.zoo.bundled import bundled_index


@pytest.fixture(scope="module")
def record():
    return read_record(RECORD)


def test_the_record_holds_every_network_image_and_radius_once_at_equal_gradients(record):
    assert set(record["network"]) == set(bundled_index())
    assert set(record["radius"]) == set(RADII)
    assert not record.duplicated(["network", "image", "radius"]).any()
    assert len(record) == len(bundled_index()) * len(load_images("digits")) * len(RADII)
    assert (record["evade_gradients"] <= record["pgd_gradients"]).all()
    assert (record["pgd_gradients"] == SETTINGS["gradients"]).all()
    assert record.attrs["settings"]["data_sha256"] == load_images("digits").checksum()


@pytest.mark.parametrize("model_id", ["digits/trades", "digits/mlp"])
def test_a_sample_of_the_record_is_found_again(record, model_id):
    indices = torch.arange(0, 800, 40)
    again = both_attacks(load_model(model_id), load_images("digits").inputs[indices], indices=indices, radii=(0.2,))
    shipped = record[(record["network"] == model_id) & (record["radius"] == 0.2)].set_index("image").loc[indices]
    for column in ("evade", "pgd"):
        then, now = torch.tensor(shipped[column].to_numpy()), torch.tensor(again[column].to_numpy())
        assert (then.isfinite() == now.isfinite()).float().mean() >= 0.9
        both = then.isfinite() & now.isfinite()
        assert torch.isclose(then[both], now[both], rtol=0.02).float().mean() >= 0.8  # other batch, other paths


def test_at_the_detectors_own_epsilon_evasion_is_never_behind_plain_pgd_on_any_network(record):
    for model_id, part in record[record["radius"] == 0.1].groupby("network"):
        table = read_record(f"{model_id}/Linf/minimum_norm")
        threshold = detection(table, epsilon=0.1, replicates=1).threshold95.value
        assert (part["evade"] > threshold).sum() >= (part["pgd"] > threshold).sum(), model_id


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


def test_the_command_asks_for_its_folder(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "the following arguments are required: folder" in capsys.readouterr().err
