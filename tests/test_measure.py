"""From a network and images to a record: interrupted, resumed, refused, on bundled and on independent networks."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal
from torch import nn
from torch.testing import assert_close
from torchvision.utils import save_image

from margincons import cli, shards
from margincons.cautions import NoHeadWarning, VanishingGradientsWarning
from margincons.certificates import exact_margins
from margincons.classifier import Classifier
from margincons.data import Images, load_images
from margincons.detection import detection
from margincons.devices import choose_device
from margincons.errors import PixelRangeError, RecordError, ShapeError, UnknownNameError, UsageError
from margincons.margins import input_margins
from margincons.measure import measure, measure_images, record_folder
from margincons.recorded import SHIPPED_BUDGET, measure_again, obtain
from margincons.records import read_record, read_shard
from margincons.scores import SCORES, all_scores
from margincons.threat import vector_norm
from margincons.zoo import load_model, state_sha256

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="independent networks are not on this machine")
QUICK = {"attack": "pgd", "effort": "fast", "epsilon": 0.1, "batch_size": 3, "shard_size": 5, "progress": False}


def stamps(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return measure("digits/mlp", "digits", out=out, limit=12, **QUICK)


def test_an_interrupted_measurement_resumes_to_the_same_values_and_leaves_finished_shards_alone(
    tmp_path, monkeypatch, whole
):
    write, written = shards.write_shard, []

    def interrupt(path, *arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments)

    monkeypatch.setattr(shards, "write_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure("digits/mlp", "digits", out=tmp_path, limit=12, **QUICK)
    before = stamps(tmp_path)
    assert sorted(before) == ["shard-00000.parquet", "shard-00001.parquet"]
    monkeypatch.setattr(shards, "write_shard", write)
    resumed = measure("digits/mlp", "digits", out=tmp_path, limit=12, **QUICK)
    after = stamps(tmp_path)
    assert sorted(after) == [f"shard-{number:05d}.parquet" for number in range(3)]
    assert {name: after[name] for name in before} == before
    assert_frame_equal(resumed, whole, check_exact=True)
    measure("digits/mlp", "digits", out=tmp_path, limit=12, **QUICK)
    assert stamps(tmp_path) == after


def test_a_damaged_shard_is_put_aside_and_measured_again(tmp_path, whole):
    measure("digits/mlp", "digits", out=tmp_path, limit=12, **QUICK)
    before = stamps(tmp_path)
    damaged = tmp_path / "shard-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-50])
    again = measure("digits/mlp", "digits", out=tmp_path, limit=12, **QUICK)
    assert_frame_equal(again, whole, check_exact=True)
    assert sorted(stamps(tmp_path)) == sorted([*before, "shard-00001.parquet.damaged"])
    assert stamps(tmp_path)["shard-00000.parquet"] == before["shard-00000.parquet"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epsilon": 0.2}, "epsilon=0.2, it has 0.1"),
        ({"seed": 1}, "seed=1, it has 0"),
        ({"attack": "fgsm", "effort": "standard"}, "attack='fgsm', it has 'pgd'"),
        ({"norm": "L2"}, "norm='L2', it has 'Linf'"),
        ({"batch_size": 2}, "batch_size=2, it has 3"),
        ({"keep_images": True}, "keep_images=True, it has None"),
    ],
)
def test_a_folder_that_holds_another_measurement_is_refused_and_left_alone(tmp_path, change, text):
    measure("digits/mlp", "digits", out=tmp_path, limit=5, **QUICK)
    before = stamps(tmp_path)
    with pytest.raises(RecordError) as caught:
        measure("digits/mlp", "digits", out=tmp_path, **({"limit": 5} | QUICK | change))
    assert text in str(caught.value)
    assert "choose another folder (measure --out, calibrate --records), or the same settings" in str(caught.value)
    assert stamps(tmp_path) == before


def test_a_last_batch_of_one_image_of_a_file_is_measured_as_any_other(tmp_path):
    images = load_images("digits", n=5)
    np.savez(tmp_path / "mine.npz", x=images.inputs.numpy(), y=images.labels.numpy())
    out = [tmp_path / "mine", tmp_path / "digits"]
    options = QUICK | {"batch_size": 2, "shard_size": 3}  # the last batch is of one image each time
    for limit in (4, 5):
        mine = measure("digits/mlp", str(tmp_path / "mine.npz"), out=out[0], limit=limit, **options)
        theirs = measure("digits/mlp", "digits", out=out[1], limit=limit, **options)
        assert_frame_equal(mine, theirs, check_exact=True)


def test_another_network_does_not_continue_a_record(tmp_path):
    measure("digits/mlp", "digits", out=tmp_path, limit=5, **QUICK)
    with pytest.raises(RecordError, match="model='digits/standard', it has 'digits/mlp'"):
        measure("digits/standard", "digits", out=tmp_path, limit=5, **QUICK)


def test_a_row_holds_the_images_scores_margin_and_how_far_its_features_moved():
    model, images = load_model("digits/mlp"), load_images("digits", n=6)
    table = measure_images(model, images, norm="L2", effort="fast", batch_size=6)
    classifier = Classifier(model, images.inputs)
    outputs = classifier(images.inputs)
    assert table["index"].tolist() == list(range(6))
    assert table["label"].tolist() == images.labels.tolist()
    assert table["predicted"].tolist() == outputs.predicted.tolist()
    for name, values in all_scores(outputs, classifier.head, norm="L2").items():
        assert_close(torch.tensor(table[name].to_numpy()), values)
    bounds = input_margins(model, images.inputs, norm="L2", effort="fast", indices=torch.arange(6))
    assert_close(torch.tensor(table["upper"].to_numpy()), bounds.upper)
    moved = vector_norm(classifier.features(bounds.adversarial) - outputs.features, "L2")
    assert_close(torch.tensor(table["feature_distance"].to_numpy()), moved)
    assert (table["forward_passes"] > 0).all()
    assert (table["backward_passes"] > 0).all()


def test_a_record_keeps_the_warnings_given_before_and_during_its_measurement(tmp_path, monkeypatch, capsys):
    batch = shards.measure_batch

    def warn(classifier, images, rows, settings):
        if 5 in rows:
            warnings.warn(NoHeadWarning("Seen at the sixth image"), stacklevel=1)
        return batch(classifier, images, rows, settings)

    monkeypatch.setattr(shards, "measure_batch", warn)
    with pytest.warns((NoHeadWarning, VanishingGradientsWarning)) as given:
        table = measure("digits/masked", "digits", out=tmp_path, limit=7, **QUICK)
    before, during = (str(one.message) for one in given)
    kept = [{"name": "VanishingGradientsWarning", "text": before}, {"name": "NoHeadWarning", "text": during}]
    assert read_shard(tmp_path / "shard-00000.parquet")[1]["made"]["warnings"] == kept[:1]
    assert read_shard(tmp_path / "shard-00001.parquet")[1]["made"]["warnings"] == kept
    assert sorted(table.attrs["made"]["warnings"], key=str) == sorted(kept, key=str)
    assert cli.main(["report", str(tmp_path), "--epsilon", "0.1"]) == 0
    shown = capsys.readouterr()
    assert all(f"margincons: {tmp_path}: {one['name']}: {one['text']}\n" in shown.err for one in kept)
    assert "Warning" not in shown.out


def test_tensors_at_hand_are_measured_as_images_and_bare_ones_are_told_how():
    model, known = load_model("digits/mlp"), load_images("digits", n=4)
    mine = Images(inputs=known.inputs, labels=known.labels)
    assert_frame_equal(measure_images(model, mine, effort="fast"), measure_images(model, known, effort="fast"))
    for bare in (known.inputs, "digits"):
        with pytest.raises(ShapeError, match=r"load_images, or Images\(inputs=..., labels=...\), got"):
            measure_images(model, bare)


def test_a_table_knows_its_norm_so_that_8_is_not_taken_for_8_255ths():
    table = measure_images(load_model("digits/mlp"), load_images("digits", n=4), effort="fast")
    with pytest.raises(UsageError, match="did you mean 8/255"):
        detection(table, epsilon=8)


def test_what_was_not_found_has_an_infinite_margin_and_no_feature_distance():
    table = measure_images(load_model("digits/mlp"), load_images("digits", n=6), attack="fgsm", epsilon=0.001)
    assert not table["success"].any()
    assert np.isinf(table["upper"]).all()
    assert table["feature_distance"].isna().all()
    assert table["adversarial_label"].equals(table["predicted"])


def test_a_network_without_a_head_is_measured_in_everything_else():
    model = nn.Sequential(load_model("digits/mlp"), nn.Tanh())
    with pytest.warns(NoHeadWarning, match="No features: "):
        table = measure_images(model, load_images("digits", n=4), effort="fast")
    assert set(SCORES) - set(table.columns) == {"feature_margin"}
    assert table["feature_distance"].isna().all()
    assert table["success"].all()


def test_settings_say_what_was_measured(whole):
    about = whole.attrs["settings"]
    assert about["weights_sha256"] == state_sha256(load_model("digits/mlp"))
    assert about["data_sha256"] == load_images("digits", n=12).checksum()
    expected = {"model": "digits/mlp", "data": "digits/test", "decoding": "divided by 16", "norm": "Linf", "seed": 0}
    options = {name: value for name, value in QUICK.items() if name != "progress"}
    assert {**about, **expected, **options} == about
    assert whole.attrs["made"]["seconds"] > 0


def test_batches_change_no_more_than_the_last_digits(whole):
    model, images = load_model("digits/mlp"), load_images("digits", n=12)
    table = measure_images(model, images, attack="pgd", effort="fast", epsilon=0.1, batch_size=12)
    assert table["success"].tolist() == whole["success"].tolist()
    assert_close(torch.tensor(table["logit_margin"].to_numpy()), torch.tensor(whole["logit_margin"].to_numpy()))


def test_measuring_again_refuses_other_weights():
    table = read_record("digits/mlp/Linf/fab_paper")
    table.attrs["settings"] = table.attrs["settings"] | {"weights_sha256": "0"}
    with pytest.raises(RecordError, match="Expected the weights that the record was measured with"):
        measure_again(table, [0])


def test_pages_obtain_a_shipped_record_or_measure_their_own(tmp_path):
    shipped = obtain("digits/mlp", "digits", norm="Linf", attack="fab_paper", records="", limit=7)
    assert_frame_equal(shipped, read_record("digits/mlp/Linf/fab_paper").head(7))
    assert shipped.attrs["settings"]["model"] == "digits/mlp"
    whole = obtain("digits/mlp", "digits", norm="Linf", attack="fab_paper", records="", limit=None)
    assert len(whole) == 800
    options = {"norm": "Linf", "records": str(tmp_path), "limit": 5, **QUICK}
    own = obtain("digits/mlp", "digits", **options)
    assert_frame_equal(own, read_record(tmp_path / "digits" / "mlp" / "Linf" / "pgd"))
    with pytest.raises(
        UnknownNameError, match=r"shipped record \(set records='runs' to measure .*'digits/mlp/L7/fab_paper'"
    ):
        obtain("digits/mlp", "digits", norm="L7", attack="fab_paper", records="")


@pytest.mark.parametrize(
    ("model_id", "data"),
    [("digits/mlp", "mine.npz"), ("nets.py:net", "digits"), ("nets.py:net", "mine.npz"), ("nets.py:net", "pictures")],
)
def test_whatever_is_measured_is_measured_again(tmp_path, model_id, data):
    images = load_images("digits", n=4)
    np.savez(tmp_path / "mine.npz", x=images.inputs.numpy(), y=images.labels.numpy())
    code = "import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n    return nn.Sequential("
    channels = 3 if data == "pictures" else 1
    (tmp_path / "nets.py").write_text(f"{code}nn.Flatten(), nn.Linear({64 * channels}, 10))\n")
    for number, image in enumerate(images.inputs):
        (tmp_path / "pictures" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        save_image(image, tmp_path / "pictures" / f"{number % 2}" / f"{number}.png")
    where = {name: name if name.startswith("digits") else f"{tmp_path}/{name}" for name in (model_id, data)}
    table = measure(where[model_id], where[data], out=tmp_path / "record", limit=3, **QUICK)
    again = measure_again(table, [0, 2], folder=tmp_path)
    assert again["index"].tolist() == [0, 2]
    assert again["ratio"].to_numpy() == pytest.approx(1, rel=1e-3)
    assert measure_again(table, [], folder=tmp_path).empty


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"effort": "fine"}, "Expected effort 'fine', the shipped record digits/mlp/Linf/autoattack has 'standard'"),
        ({"epsilon": 0.15}, "Expected epsilon 0.15, the shipped record digits/mlp/Linf/autoattack has 0.1"),
        ({"epsilon": None}, "Expected epsilon None, the shipped record digits/mlp/Linf/autoattack has 0.1"),
        ({"seed": 99}, "Expected seed 99, the shipped record digits/mlp/Linf/autoattack has 0"),
        ({"certificate": "crown"}, "Expected certificate 'crown', the shipped record digits/mlp/Linf/autoattack has"),
        ({"data": "cifar10"}, "Expected data 'cifar10/test', the shipped record digits/mlp/Linf/autoattack has 'dig"),
    ],
)
def test_a_shipped_record_of_something_else_than_is_asked_is_refused(asked, text):
    options = {"data": "digits", "norm": "Linf", "attack": "autoattack", "epsilon": SHIPPED_BUDGET, "records": ""}
    assert len(obtain("digits/mlp", **options)) == 800
    with pytest.raises(RecordError, match=re.escape(text)):
        obtain("digits/mlp", **options | asked)


def test_a_network_of_ones_own_has_no_shipped_record_and_the_way_out_is_told():
    with pytest.raises(UnknownNameError, match=r"set records='runs' to measure it"):
        obtain("nets.py:cnn", "digits", norm="Linf", attack="fab_paper", records="")


def test_records_lie_in_a_folder_named_after_what_was_measured():
    assert record_folder(Path("runs"), "digits/mlp", "L2", "pgd") == Path("runs/digits/mlp/L2/pgd")
    assert record_folder(Path("runs"), "../a/nets.py:cnn", "Linf", "pgd") == Path("runs/nets.cnn/Linf/pgd")
    assert record_folder(Path(), "digits/mlp", "L2", "pgd", "crown", split="train") == Path(
        "digits/mlp/L2/pgd-crown-train"
    )


def test_another_split_is_measured_into_a_record_of_its_own_and_measured_again_there(tmp_path):
    options = {"norm": "Linf", "records": str(tmp_path), "limit": 5, **QUICK}
    test, train = (obtain("digits/mlp", "digits", split=split, **options) for split in ("test", "train"))
    assert [table.attrs["settings"]["data"] for table in (test, train)] == ["digits/test", "digits/train"]
    assert train["label"].tolist() == load_images("digits", split="train", n=5).labels.tolist()
    assert_frame_equal(train, read_record(tmp_path / "digits" / "mlp" / "Linf" / "pgd-train"))
    assert measure_again(train, [1, 3])["ratio"].to_numpy() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"attack": "autoatack"}, UnknownNameError, "Unknown attack 'autoatack'; the nearest are: autoattack"),
        ({"effort": "fine", "attack": "fgsm"}, UnknownNameError, "Unknown effort of fgsm 'fine'"),
        ({"norm": "Linfinity"}, UnknownNameError, "Unknown norm 'Linfinity'; the nearest are: Linf"),
        ({"epsilon": None}, UsageError, "The attack 'pgd' needs epsilon; got epsilon=None."),
        (
            {"attack": "fab_restarts"},
            UsageError,
            "'fab_restarts' finds distances: it takes no epsilon; got epsilon=0.1.",
        ),
        ({"epsilon": 8.0}, UsageError, "did you mean 8/255?"),
        ({"batch_size": 0}, UsageError, "Expected a batch size of 1 or more, got 0."),
        ({"shard_size": -1}, UsageError, "Expected a shard size of 1 or more, got -1."),
        *[
            ({"limit": n}, UsageError, f"a limit of 1 image or more, or None for all of them, got {n}.")
            for n in (0, -3)
        ],
        ({"device": "gpu"}, UsageError, "Expected the device to be 'auto', 'cpu' or 'cuda', got 'gpu'."),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded_or_written(tmp_path, monkeypatch, change, error, text):
    monkeypatch.setattr("margincons.prepare.load_model", None)
    with pytest.raises(error) as caught:
        measure("digits/mlp", "digits", out=tmp_path / "out", **(QUICK | change))
    assert text in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_records_place_and_images_that_do_not_fit_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="to be the folder of a record, it is a file"):
        measure("digits/mlp", "digits", out=tmp_path / "file", **QUICK)
    np.savez(tmp_path / "colour.npz", x=np.zeros((2, 3, 32, 32), np.uint8), y=np.zeros(2, np.uint8))
    with pytest.raises(ShapeError, match=r"what the network takes, got \(2, 3, 32, 32\)"):
        measure("digits/mlp", str(tmp_path / "colour.npz"), out=tmp_path / "out", **QUICK)
    images = load_images("digits", n=2)
    with pytest.raises(PixelRangeError):
        measure_images(load_model("digits/mlp"), type(images)(**(vars(images) | {"inputs": 16 * images.inputs})))


def test_the_device_is_what_torch_sees(monkeypatch):
    for seen in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        assert choose_device("auto") == ("cuda" if seen else "cpu")
        assert choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="Expected a CUDA device, torch sees none"):
        choose_device("cuda")


@pytest.mark.data
@needs_data
def test_clean_accuracies_of_five_independent_networks_are_the_published_ones():
    rows = re.findall(r"^\| (\w+) \|[^|]+\| ([\d.]+) \|", (DATA / "README.md").read_text(), flags=re.MULTILINE)
    images = load_images(str(DATA / "cifar10_test_first1017.npz"))
    assert len(rows) == 5
    assert len(images) == 1017
    for name, published in rows:
        classifier = Classifier(load_model(f"{DATA}/nets.py:{name}"), images.inputs[:2])
        outputs = classifier(images.inputs)
        assert f"{100 * (outputs.predicted == images.labels).double().mean():.2f}" == published, name
        assert outputs.features.shape == (1017, 100)


@pytest.mark.data
@needs_data
def test_an_independent_network_is_measured_in_the_papers_setting(tmp_path):
    model_id, out = f"{DATA}/nets.py:cnn_a_adv", tmp_path / "record"
    images = load_images(str(DATA / "cifar10_test_first1017.npz"), n=4)
    table = measure(model_id, str(DATA / "cifar10_test_first1017.npz"), attack="fab_paper", limit=4, out=out)
    assert table["success"].all()
    assert table["upper"].between(1e-5, 0.3).all()
    assert table["label"].tolist() == images.labels.tolist()
    assert table.attrs["settings"]["model"] == "nets.py:cnn_a_adv"
    assert table.attrs["settings"]["decoding"] == "divided by 255"
    closer = measure_images(load_model(model_id), images)
    assert (closer["upper"] <= 1.02 * table["upper"]).all()  # the paper's setting keeps no minimum


def test_the_recorded_exact_margins_are_those_that_a_solver_finds_again():
    table = read_record("digits/mlp/Linf/minimum_norm-exact")
    rows = table[table["status"] == "optimal"].nsmallest(4, "solve_seconds")
    assert (table["upper"] >= table["lower"] - 1e-6).all()
    inputs = load_images("digits").inputs[rows["index"].tolist()]
    again = exact_margins(load_model("digits/mlp"), inputs, time_limit=60)
    assert_close(again.upper, torch.tensor(rows["incumbent"].to_numpy()), rtol=0, atol=2e-6, check_dtype=False)
    assert_close(again.lower, torch.tensor(rows["lower"].to_numpy()), rtol=0, atol=2e-6, check_dtype=False)


def test_lower_bounds_are_columns_of_a_record_and_lie_below_the_attack(tmp_path):
    options = {"norm": "Linf", "limit": 4, "progress": False}
    crown = measure("digits/ibp", "digits", certificate="crown", out=tmp_path / "crown", **options)
    interval = measure("digits/ibp", "digits", certificate="interval", out=tmp_path / "interval", **options)
    assert (interval["lower"] <= 1.001 * crown["lower"]).all()  # both end a bisection
    assert (crown["lower"] <= crown["upper"]).all()
    exact = measure("digits/mlp", "digits", certificate="exact", out=tmp_path / "exact", **options | {"limit": 1})
    assert exact["status"].tolist() == ["optimal"]
    assert exact["lower"][0] <= exact["incumbent"][0] + 1e-6 <= exact["upper"][0] + 2e-6


def test_a_certificate_that_does_not_exist_is_refused_by_name(tmp_path):
    with pytest.raises(UnknownNameError, match="Unknown certificate 'crow'; the nearest are: crown"):
        measure("digits/mlp", "digits", certificate="crow", out=tmp_path)
