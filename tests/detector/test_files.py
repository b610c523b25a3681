"""Detectors on disk: the same decisions after loading, and no other network under them."""

from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from margincons import load_images, load_model
from margincons.cautions import Caution
from margincons.detector import Detector
from margincons.errors import ChecksumError, FileFormatError, OtherNetworkError, UsageError
from margincons.records import read_record
from margincons.records.sealed import read_sealed, write_sealed

SCORES = ["logit_margin", "feature_margin", "entropy"]


def detector_of(model, **options):
    margins = read_record("digits/trades/Linf/minimum_norm")["upper"].to_numpy()
    options = {"epsilon": 0.1, "margins": margins, "norm": "L2"} | options
    return Detector.calibrate(model, load_images("digits").inputs, **options)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "detector.safetensors"
    detector_of(load_model("digits/trades"), false_alarm_rate=0.2).save(path)
    return path


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("false_alarm_rate", [None, 0.2])
def test_a_loaded_detector_decides_as_the_saved_one(tmp_path, score, false_alarm_rate):
    detector = detector_of(load_model("digits/trades"), score=score, false_alarm_rate=false_alarm_rate)
    detector.save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors", load_model("digits/trades"))
    images = load_images("digits").inputs
    one, other = detector.decide(images), again.decide(images)
    assert torch.equal(one.scores, other.scores)
    assert one.names == other.names
    assert asdict(again.thresholds) == asdict(detector.thresholds)
    assert (again.norm, again.image_shape) == ("L2", (1, 8, 8))


def test_an_infinite_threshold_survives(tmp_path):
    class Saturated(nn.Module):
        def forward(self, inputs):
            return torch.eye(10)[torch.zeros(len(inputs), dtype=torch.long)]

    with pytest.warns(Caution):  # it is told to return probabilities, and to flag everything
        detector = detector_of(Saturated())
    detector.thresholds.__dict__["flag"] = torch.inf  # frozen, but not for a test
    detector.save(tmp_path / "d.safetensors")
    assert Detector.load(tmp_path / "d.safetensors", Saturated()).thresholds.flag == torch.inf


class Halved(nn.Module):
    """The same weights under the same names; other logits."""

    def __init__(self, network):
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)

    def forward(self, inputs):
        for child in self.children():
            inputs = child(inputs)
        return inputs / 2


def test_other_weights_are_refused_by_name(saved):
    with pytest.raises(OtherNetworkError) as caught:
        Detector.load(saved, load_model("digits/mart"))
    assert str(caught.value).startswith(
        f"Expected the network that {saved} was calibrated on, got another: its weights"
    )
    assert "calibrate a detector for this one" in str(caught.value)


def test_one_weight_that_changed_in_its_last_digit_is_another_network(saved):
    model = load_model("digits/trades")
    with torch.no_grad():
        model[0].bias[0] = torch.nextafter(model[0].bias[0], torch.tensor(torch.inf))
    with pytest.raises(OtherNetworkError, match="its weights have SHA-256"):
        Detector.load(saved, model)


def test_the_same_weights_under_other_code_are_refused_too(saved):
    with pytest.raises(OtherNetworkError, match="it has those weights, but its logits differ, by up to"):
        Detector.load(saved, Halved(load_model("digits/trades")))


def test_the_same_weights_with_fewer_logits_are_refused_as_well(saved):
    model = load_model("digits/trades")
    model.register_forward_hook(lambda module, given, logits: logits[:, :5])
    with pytest.raises(OtherNetworkError, match="it has those weights, but 5 logits, not 10;"):
        Detector.load(saved, model)


def test_a_detector_is_no_file_of_weights_and_weights_are_no_detector(saved, tmp_path):
    save_file(load_model("digits/trades").state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(FileFormatError, match="safetensors of something else"):
        Detector.load(tmp_path / "weights.safetensors", load_model("digits/trades"))
    assert "probe" in load_file(saved)


def test_a_threshold_that_was_moved_by_hand_is_noticed(saved):
    content = saved.read_bytes()
    flag = load_file(saved)["flag"].numpy().tobytes()
    assert content.count(flag) == 1
    saved.write_bytes(content.replace(flag, torch.tensor(0.0, dtype=torch.float64).numpy().tobytes()))
    with pytest.raises(ChecksumError):
        Detector.load(saved, load_model("digits/trades"))


@pytest.mark.parametrize("lost", ["norm", "image_shape", "thresholds", "score", "probe"])
def test_a_detector_that_lacks_a_part_is_refused_in_one_line(saved, lost):
    about, tensors = read_sealed(saved, "detector", version=1)
    about.pop(lost, None)
    tensors.pop(lost, None)
    write_sealed(saved, "detector", version=1, about=about, tensors=tensors)
    with pytest.raises(FileFormatError, match=f"a whole detector, got KeyError: '{lost}'"):
        Detector.load(saved, load_model("digits/trades"))


class Shaken(Halved):
    """The same weights and random logits."""

    def forward(self, inputs):
        logits = super().forward(inputs)
        return logits + logits.abs().max() * torch.rand_like(logits)


def test_a_randomised_network_is_kept_in_no_file_and_named_as_what_it_is(saved, tmp_path):
    model = Shaken(load_model("digits/trades"))
    with pytest.warns(Caution):
        detector = detector_of(model)
    with pytest.raises(UsageError, match="gives the same logits twice, two passes differ by up to"):
        detector.save(tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()
    with pytest.raises(OtherNetworkError, match=r"its logits differ, by up to .*: randomness in its forward pass;"):
        Detector.load(saved, model)


def test_a_detector_is_loaded_with_a_network_not_with_its_name(saved):
    with pytest.raises(UsageError, match=r"Expected a network, a torch\.nn\.Module, got the str 'digits/trades'"):
        Detector.load(saved, "digits/trades")


def test_a_detector_is_not_saved_onto_a_folder(tmp_path):
    detector = detector_of(load_model("digits/trades"))
    for write, what in ((detector.save, "detector"), (detector.export_onnx, "graph")):
        if what == "graph":
            pytest.importorskip("onnxruntime", reason='needs the extra onnx: pip install -e ".[onnx]"')
        with pytest.raises(UsageError, match=f"to be the file of the {what}, it is a folder"):
            write(tmp_path)
