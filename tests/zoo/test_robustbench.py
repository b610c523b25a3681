import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.errors import DownloadError, FileFormatError, UnknownNameError, UsageError
from margincons.zoo.robustbench import (
    check_checkpoint,
    list_robustbench,
    load_robustbench,
    robustbench_checkpoints,
)

FAST = "robustbench/cifar10/Linf/Wong2020Fast"  # a PreAct ResNet-18 that normalises its own inputs
PLAIN = "robustbench/cifar10/Linf/Addepalli2021Towards_RN18"
ENSEMBLE = "robustbench/cifar10/Linf/Chen2020Adversarial"


def build(model_id):
    """The true architecture with random weights, by RobustBench's own table."""
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    list_robustbench()  # puts pyautoattack in place
    _, dataset, norm, name = model_id.split("/")
    torch.manual_seed(0)
    return model_dicts[BenchmarkDataset(dataset)][ThreatModel(norm)][name]["model"]().eval()


@pytest.fixture(scope="module", autouse=True)
def _imported():
    list_robustbench()


@pytest.fixture(scope="module")
def fast():
    return build(FAST)


@pytest.fixture
def place(tmp_path):
    """Writes something where the loader looks for a checkpoint and returns the path."""

    def write(content, model_id=FAST):
        path = robustbench_checkpoints(model_id, model_dir=tmp_path)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return path

    return write


def test_the_list_holds_the_papers_networks_and_no_common_corruptions():
    ids = list_robustbench()
    assert {FAST, "robustbench/cifar100/Linf/Rice2020Overfitting", "robustbench/imagenet/Linf/Salman2020Do_R50"} <= set(
        ids
    )
    assert len(set(ids)) == len(ids) > 150
    assert all(re.fullmatch(r"robustbench/(cifar10|cifar100|imagenet)/(Linf|L2)/[\w.-]+", one) for one in ids)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_a_loaded_network_is_the_saved_one(fast, place, tmp_path, wrap):
    place(wrap(fast.state_dict()))
    before = torch.get_rng_state()
    loaded = load_robustbench(FAST, model_dir=tmp_path)
    assert_close(torch.get_rng_state(), before)
    assert not any(part.training for part in loaded.modules())
    images = torch.rand(3, 3, 32, 32)
    assert_close(loaded(images), fast(images), rtol=0, atol=0)


def test_statistics_that_robustbench_forgives_keep_their_defaults(fast, place, tmp_path):
    weights = {name: value for name, value in fast.state_dict().items() if name not in ("mu", "sigma")}
    place(weights)
    images = torch.rand(2, 3, 32, 32)
    assert_close(load_robustbench(FAST, model_dir=tmp_path)(images), fast(images), rtol=0, atol=0)


def test_the_folder_comes_from_the_environment_unless_given(fast, place, tmp_path, monkeypatch):
    path = place(fast.state_dict())
    monkeypatch.setenv("MARGINCONS_MODELS", str(tmp_path))
    assert robustbench_checkpoints(FAST) == [path]
    assert path == tmp_path / "cifar10" / "Linf" / "Wong2020Fast.pt"
    assert isinstance(load_robustbench(FAST), nn.Module)
    monkeypatch.delenv("MARGINCONS_MODELS")
    home = Path("~/.cache/margincons/robustbench").expanduser()
    assert robustbench_checkpoints(FAST) == [home / "cifar10" / "Linf" / "Wong2020Fast.pt"]


def test_the_members_of_an_ensemble_are_separate_files(tmp_path):
    names = [path.name for path in robustbench_checkpoints(ENSEMBLE, model_dir=tmp_path)]
    assert names == [f"Chen2020Adversarial.pt_m{member}.pt" for member in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_id", [PLAIN, "robustbench/cifar10/Linf/Standard", "robustbench/cifar100/Linf/Rice2020Overfitting", ENSEMBLE]
)
def test_wide_networks_and_ensembles_load_as_saved(model_id, tmp_path):
    network = build(model_id)
    paths = robustbench_checkpoints(model_id, model_dir=tmp_path)
    paths[0].parent.mkdir(parents=True)
    parts = network.models if len(paths) > 1 else [network]
    for path, part in zip(paths, parts, strict=True):
        torch.save({"state_dict": part.state_dict()}, path)
    images = torch.rand(2, 3, 32, 32)
    assert_close(load_robustbench(model_id, model_dir=tmp_path)(images), network(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("asked", "offered"),
    [("robustbench/cifar10/Linf/Wong2020", FAST), ("robustbench/cifar10/Linf/Addepali2021Towards_RN18", PLAIN)],
)
def test_an_unknown_network_is_answered_with_the_nearest(asked, offered):
    with pytest.raises(UnknownNameError, match=rf"Unknown model '{asked}'.*{offered}"):
        load_robustbench(asked)


def test_a_missing_checkpoint_says_where_it_was_looked_for_and_how_to_ask(tmp_path):
    expected = rf"{tmp_path}/cifar10/Linf/Wong2020Fast\.pt, found none.*download=True.*MARGINCONS_MODELS"
    with pytest.raises(DownloadError, match=expected):
        load_robustbench(FAST, model_dir=tmp_path)


@pytest.mark.parametrize("name", ["cifar10/Linf/Debenedetti2022Light_XCiT-S12", "imagenet/Linf/Standard_R50"])
def test_networks_that_are_hosted_elsewhere_are_refused_before_anything_is_fetched(name, tmp_path):
    with pytest.raises(UsageError, match=rf"{name} are hosted by timm or torchvision"):
        load_robustbench(f"robustbench/{name}", model_dir=tmp_path, download=True)


def test_a_web_page_saved_as_a_checkpoint_is_recognised(place, tmp_path):
    place(b"\n <!DOCTYPE html><html><title>Quota exceeded</title>" + b" " * 100_000)
    with pytest.raises(FileFormatError, match="a web page: the download was refused, often for a quota; delete it"):
        load_robustbench(FAST, model_dir=tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.9, 0.9999])
def test_a_checkpoint_cut_short_is_recognised(fast, place, tmp_path, share):
    path = place(fast.state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FileFormatError, match=r"only its first \d+ bytes: the download was cut short"):
        load_robustbench(FAST, model_dir=tmp_path)


def test_a_legacy_checkpoint_cut_short_is_recognised(fast, place, tmp_path):
    path = place(b"")
    torch.save(fast.state_dict(), path, _use_new_zipfile_serialization=False)
    load_robustbench(FAST, model_dir=tmp_path)
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(FileFormatError, match="a damaged file"):
        load_robustbench(FAST, model_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1" * 2000])
def test_anything_else_is_recognised_by_its_first_bytes(place, tmp_path, content):
    place(content)
    with pytest.raises(FileFormatError, match="something else that starts with b'"):
        load_robustbench(FAST, model_dir=tmp_path)


def test_an_archive_that_is_no_checkpoint_is_damaged(place):
    path = place(b"")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "x" * 100_000)
    with pytest.raises(FileFormatError, match="a damaged file"):
        check_checkpoint(path)


def test_a_checkpoint_of_implausible_size_is_refused(place, tmp_path):
    place({"linear.weight": torch.ones(2, 2)})
    with pytest.raises(FileFormatError, match=r"at least 65536 bytes, got \d+ bytes: too few weights"):
        load_robustbench(FAST, model_dir=tmp_path)


def test_weights_of_another_network_are_refused(place, tmp_path):
    place({"linear.weight": torch.ones(2000, 2000)})
    with pytest.raises(FileFormatError, match=rf"the weights of {FAST}, got others .*Missing key"):
        load_robustbench(FAST, model_dir=tmp_path)


def test_weights_that_robustbench_would_silently_leave_random_are_refused(fast, place, tmp_path):
    place({"model_preact_hl1.1.weight": torch.ones(100_000)})  # a key that makes its loader forgive all that is missing
    with pytest.raises(FileFormatError, match=r"11\d{6} weights, got \d+ bytes"):
        load_robustbench(FAST, model_dir=tmp_path)


class Payload:
    """Unpickles into a call that creates a file."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (Path.touch, (self.victim,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_payload_in_the_pickle_is_refused_before_it_runs(fast, place, tmp_path, zipped, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what a careless guide tells its readers to set
    victim, path = tmp_path / "ran", place(b"")
    torch.save({"state_dict": fast.state_dict(), "x": Payload(victim)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FileFormatError, match=r"only tensors and plain values, got a pickle that wants more"):
        load_robustbench(FAST, model_dir=tmp_path)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists()  # the payload was live


@pytest.fixture
def downloader(monkeypatch):
    """Puts a stand-in in the place of RobustBench's downloader: no test here touches the network."""

    def put(answer):
        import robustbench.utils

        monkeypatch.setattr(robustbench.utils, "download_gdrive_new", answer)

    return put


def test_a_download_is_checked_before_it_takes_the_place_of_the_checkpoint(fast, downloader, tmp_path):
    asked = []

    def answer(drive_id, path):
        asked.append(drive_id)
        torch.save(fast.state_dict(), path)

    downloader(answer)
    images = torch.rand(2, 3, 32, 32)
    for _ in range(2):  # the second time it is there
        loaded = load_robustbench(FAST, model_dir=tmp_path, download=True)
        assert_close(loaded(images), fast(images), rtol=0, atol=0)
    assert asked == ["1Re--_lf3jCEw9bnQqGkjw3J7v2tSZKrv"]
    assert [p.name for p in (tmp_path / "cifar10" / "Linf").iterdir()] == ["Wong2020Fast.pt"]


def refused(drive_id, path):
    Path(path).write_bytes(b"<html>quota</html>")


def offline(drive_id, path):
    Path(path).write_bytes(b"PK\x03\x04 half")
    raise ConnectionError("Name or service not known")


def withdrawn(drive_id, path):
    from gdown.exceptions import FileURLRetrievalError

    raise FileURLRetrievalError("Cannot retrieve the public link of the file.")


def nothing(drive_id, path):
    pass


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(refused, "a web page"), (offline, "not known"), (withdrawn, "public link"), (nothing, "No such file")],
)
def test_a_download_that_fails_says_why_and_leaves_nothing(downloader, tmp_path, answer, reason):
    downloader(answer)
    with pytest.raises(DownloadError, match=rf"Wong2020Fast\.pt from Google Drive .*{reason}"):
        load_robustbench(FAST, model_dir=tmp_path, download=True)
    assert not list((tmp_path / "cifar10" / "Linf").iterdir())
