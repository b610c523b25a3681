"""Bad and hostile inputs through the command line: a named error in one line, nothing executed or overwritten."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from margincons import cli
from margincons.data import load_images
from margincons.detector import Detector
from margincons.errors import (
    ChecksumError,
    ClassesError,
    DownloadError,
    FileFormatError,
    ForwardError,
    InPlaceError,
    LabelRangeError,
    MarginError,
    MissingColumnError,
    MissingFileError,
    NoGradientError,
    NonFiniteLogitsError,
    OtherNetworkError,
    PixelRangeError,
    RecordError,
    ShapeError,
    TooFewImagesError,
    UnknownNameError,
    UnsupportedLayerError,
    UsageError,
)
from margincons.records import read_shard, write_shard
from margincons.records.sealed import read_sealed, write_sealed
from margincons.scores import logit_margin
from margincons.zoo import bundled, load_model

ROOT = Path(__file__).parents[1]
FAST = "robustbench/cifar10/Linf/Wong2020Fast"
NETWORKS = """
import torch
from torch import nn

class Through(nn.Module):
    def __init__(self, call, network=None):
        super().__init__()
        self.call, self.network = call, network or sound()

    def forward(self, inputs):
        return self.call(self.network, inputs)

def sound(classes=10, pixels=64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))

class Twice(nn.Sequential):
    def forward(self, inputs):
        return 2 * super().forward(inputs)

def frozen(network, inputs):
    with torch.no_grad():
        return network(inputs)

def raising(network, inputs):
    raise KeyError("weights")

def five(): return sound(5)
def hundred(): return sound(100)
def large(): return sound(pixels=3072)
def colour(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10))
def double(): return sound().double()
def spatial(): return nn.Conv2d(1, 10, 1)
def text(): return Through(lambda network, inputs: "a cat")
def pair(): return Through(lambda network, inputs: (network(inputs), inputs))
def one_for_all(): return Through(lambda network, inputs: network(inputs)[:1])
def nan(): return Through(lambda network, inputs: network(inputs) * torch.nan)
def infinite(): return Through(lambda network, inputs: network(inputs) / 0)
def failing(): return Through(raising)
def constant(): return Through(lambda network, inputs: torch.eye(10)[torch.zeros(len(inputs), dtype=torch.long)])
def no_grad(): return Through(frozen)
def detached(): return Through(lambda network, inputs: network(inputs).detach())
def detaching(): return Through(lambda network, inputs: network(inputs.detach()))
def past_numpy(): return Through(lambda network, inputs: network(torch.from_numpy(2 * inputs.detach().numpy())))
def overwritten(): return Through(lambda network, inputs: network(inputs).exp().add_(1))
def one_logit(): return sound(1)
def through_numpy(): return Through(lambda network, inputs: network(torch.from_numpy(inputs.numpy())))
def in_place(): return Through(lambda network, inputs: network(inputs.sub_(0.5)))
def smooth(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))
def doubled(): return Twice(*sound())
def weights(): return sound().load_state_dict({})
def stops(): raise SystemExit(3)
def endless(): return endless()
def needs(argument): return sound()
number = 7
"""


class Payload:
    """Unpickles into a call that creates a file."""

    def __init__(self, victim="ran"):
        self.victim = Path(victim)

    def __reduce__(self):
        return (Path.touch, (self.victim,))


def header(shape, kind="|u1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


def flagged(path, source, local, central, value):
    """A copy of an archive with one byte of each of its first member's two headers changed."""
    content = bytearray(Path(source).read_bytes())
    content[local] = content[content.index(b"PK\x01\x02") + central] = value
    Path(path).write_bytes(content)


def png(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    about = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", about), chunk(b"IDAT", zlib.compress(bytes(100))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def make_images():
    x, y = np.random.default_rng(0).random((4, 1, 8, 8)), np.arange(4)
    np.savez("good.npz", x=x, y=y)
    np.savez("sixteen.npz", x=16 * x.round(1), y=y)
    np.savez("bytes.npz", x=(255 * x).round(), y=y)
    np.savez("words.npz", x=(65535 * x).astype(np.uint16), y=y)
    np.savez("minus.npz", x=2 * x - 1, y=y)
    np.savez("over.npz", x=1.05 * x / x.max(), y=y)
    np.savez("nan.npz", x=np.where(x > 0.5, np.nan, x), y=y)
    np.savez("infinite.npz", x=np.where(x > 0.5, np.inf, x), y=y)
    np.savez("from_one.npz", x=x, y=y + 7)
    np.savez("negative.npz", x=x, y=y - 1)
    np.savez("soft.npz", x=x, y=np.eye(4))
    np.savez("names.npz", x=x, y=np.array(["cat", "dog", "cat", "dog"]))
    np.savez("flat.npz", x=x.reshape(4, 64), y=y)
    np.savez("fewer.npz", x=x, y=y[:3])
    np.savez("none.npz", x=x[:0], y=y[:0])
    np.savez("renamed.npz", images=x, labels=y)
    np.savez("colour.npz", x=np.repeat(x, 3, axis=1), y=y)
    np.savez("wide.npz", x=np.pad(x, [(0, 0), (0, 0), (0, 0), (0, 1)]), y=y)
    archive("promising.npz", x=header((10**13, 1, 8, 8)) + bytes(64), y=npy(y))
    archive(
        "code.npz", x=b"\x93NUMPY\x01\x00\x38\x00" + b"__import__('pathlib').Path('ran').touch()".ljust(56), y=npy(y)
    )
    archive("payload.npz", x=npy(np.array([Payload()], dtype=object)), y=npy(y))
    archive("payload_y.npz", x=npy(x), y=npy(np.array([Payload()], dtype=object)))
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("x.npy", "w") as member:
        member.write(header((300 * 2**10, 1, 32, 32)))
        for _ in range(300):
            member.write(bytes(2**20))
    flagged("encrypted.npz", "good.npz", 6, 8, 1)
    flagged("method.npz", "good.npz", 8, 10, 99)
    Path("page.npz").write_text("<!DOCTYPE html><title>Sign in</title>")
    Path("cut.npz").write_bytes(Path("good.npz").read_bytes()[:900])
    Path("pickled.npz").write_bytes(pickle.dumps(Payload()))
    for folder, content in {"damaged": b"no image", "huge": png(60000, 60000), "cut": png(8, 8)[:40]}.items():
        Path("folders", folder, "cat").mkdir(parents=True)
        Path("folders", folder, "cat", "0.png").write_bytes(content)
    Path("folders/eleven").mkdir()
    for name in range(11):
        Path(f"folders/eleven/{name:02d}").mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(f"folders/eleven/{name:02d}/0.png")
    Path("data/cifar-10-batches-py").mkdir(parents=True)
    for name in ["batches.meta", "test_batch", *(f"data_batch_{n}" for n in range(1, 6))]:
        Path("data/cifar-10-batches-py", name).write_bytes(pickle.dumps(Payload()))


def make_records():
    rows = {"index": [0, 1], "label": [1, 1], "predicted": [1, 1], "upper": [0.1, 0.2], "logit_margin": [1.0, 2.0]}
    for name, table in {
        "other_columns": {"index": [0, 1], "colour": ["red", "blue"]},
        "no_index": {"upper": [0.1, 0.2]},
        "no_label": {name: values for name, values in rows.items() if name != "label"},
        "words": rows | {"upper": ["far", "near"]},
    }.items():
        write_shard(Path(name, "shard-00000.parquet"), pd.DataFrame(table), {"norm": "Linf"}, {})
    for number, norm in enumerate(("Linf", "L2")):
        write_shard(Path(f"mixed/shard-0000{number}.parquet"), pd.DataFrame(rows), {"norm": norm}, {})
    write_shard(Path("changed.parquet"), pd.DataFrame(rows), {"norm": "Linf"}, {})
    stored = pq.read_table("changed.parquet")
    column = pa.array([0.3, 0.4])
    pq.write_table(
        stored.set_column(3, "upper", column).replace_schema_metadata(stored.schema.metadata), "changed.parquet"
    )
    pd.DataFrame(rows).to_parquet("foreign.parquet")
    for name, about in {"list": [1], "number": 1, "empty": {}, "no_made": {"settings": {}, "rows_sha256": ""}}.items():
        table = pa.table(rows).replace_schema_metadata({b"margincons": json.dumps(about).encode()})
        pq.write_table(table, f"{name}.parquet")


def saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def make_checkpoints():
    for folder, whole in {
        "web": b"<html>quota exceeded</html>" + bytes(70_000),
        "other": b"not a checkpoint" * 5000,
        "small": b"\x80\x02.",
        "cut": saved({"weights": torch.zeros(50_000)})[:150_000],
        "payload": saved({"weights": torch.zeros(50_000), "more": Payload()}),
    }.items():
        path = Path("models", folder, "cifar10/Linf/Wong2020Fast.pt")
        path.parent.mkdir(parents=True)
        path.write_bytes(whole)
    torch.save({"weights": torch.zeros(3)}, "weights.pt")
    Path("nets.py").write_text(NETWORKS)
    Path("broken.py").write_text("def small(:\n")
    Path("a_file").write_text("kept")
    make_detectors()


def make_detectors():
    network = load_model("nets.py:sound")
    inputs = load_images("digits", n=40).inputs
    margins = np.linspace(0, 0.2, 40)[logit_margin(network(inputs)).argsort().argsort()]
    found = Detector.calibrate(network, inputs, margins=margins, epsilon=0.1)
    found.save("good.safetensors")
    content = Path("good.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(content[:-9])
    Path("moved.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    save_file(network.state_dict(), "weights.safetensors")
    about, tensors = read_sealed("good.safetensors", "detector", version=1)
    write_sealed("later.safetensors", "detector", version=99, about=about, tensors=tensors)
    write_sealed("lacking.safetensors", "detector", version=1, about={}, tensors=tensors)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of bad inputs, made once."""
    folder = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_images()
        make_records()
        make_checkpoints()
    return folder


@pytest.fixture
def here(place, monkeypatch):
    """Work in that folder, and hold afterwards that no file in it changed, appeared or was run."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("MARGINCONS_DATA", "data")
    before = state(place)
    yield
    shutil.rmtree(place / "__pycache__", ignore_errors=True)
    assert state(place) == before


def state(folder):
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def of(data):
    return ["measure", "digits/mlp", "--data", data, "--effort", "fast"]


def on(network, *more):
    return ["measure", f"nets.py:{network}", "--data", "digits", "--limit", "4", "--effort", "fast", *more]


def report(record, *more):
    return ["report", record, "--epsilon", "0.1", *more]


def detect(detector, *more, network="nets.py:sound"):
    return ["detect", detector, network, "--data", "good.npz", *more]


def calibrate(*more):
    return ["calibrate", "digits/mlp", "--data", "digits", "--epsilon", "0.1", "--limit", "4", *more]


RECORDED = ["--record", "digits/mlp/Linf/minimum_norm"]
MEASURE = ["measure", "digits/mlp", "--data", "digits", "--limit", "4", "--effort", "fast"]
BAD = [
    (of("sixteen.npz"), PixelRangeError, "Expected images in [0, 1], got [0, 16]; divide by 16."),
    (of("bytes.npz"), PixelRangeError, "; divide by 255."),
    (of("words.npz"), PixelRangeError, "; divide by 65535."),
    (of("minus.npz"), PixelRangeError, "they look mean-normalised: a network here normalises its own inputs."),
    (of("over.npz"), PixelRangeError, "1.05]; they leave the box slightly: clamp them."),
    (of("nan.npz"), PixelRangeError, "got [nan, nan]; NaN came in, so the images were damaged"),
    (of("infinite.npz"), PixelRangeError, "inf]; rescale them to [0, 1]."),
    (of("from_one.npz"), LabelRangeError, "Expected labels 0 to 9, one per logit of the network, got 7 to 10;"),
    (of("negative.npz"), LabelRangeError, "got -1 to 2; is the network trained for these images?"),
    (of("folders/eleven"), ShapeError, "what the network takes, got (2, 3, 8, 8)"),
    (of("soft.npz"), FileFormatError, "to hold x (n, c, h, w) and y (n,), got x (4, 1, 8, 8) and y (4, 4)."),
    (of("names.npz"), FileFormatError, "to hold numbers x and whole numbers y, got x of float64 and y of <U3."),
    (of("flat.npz"), FileFormatError, "got x (4, 64) and y (4,)."),
    (of("fewer.npz"), FileFormatError, "got x (4, 1, 8, 8) and y (3,)."),
    (of("none.npz"), FileFormatError, "got x (0, 1, 8, 8) and y (0,)."),
    (of("renamed.npz"), FileFormatError, "to hold arrays x (images) and y (labels), got arrays images, labels."),
    (of("colour.npz"), ShapeError, "Expected the images to be what the network takes, got (2, 3, 8, 8)"),
    (of("wide.npz"), ShapeError, "Expected the images to be what the network takes, got (2, 1, 8, 9)"),
    (of("promising.npz"), FileFormatError, "640000000000000 bytes of x.npy, as its header says, got 64."),
    (of("code.npz"), FileFormatError, "to hold arrays x and y saved by numpy, got malformed node"),
    (of("payload.npz"), FileFormatError, "got Python objects in x.npy: a pickle."),
    (of("payload_y.npz"), FileFormatError, "got Python objects in y.npy: a pickle."),
    (of("bomb.npz"), FileFormatError, "bytes that unpack to 314572"),
    (of("encrypted.npz"), FileFormatError, "is encrypted, password required for extraction."),
    (of("method.npz"), FileFormatError, "got That compression method is not supported."),
    (of("page.npz"), FileFormatError, "to hold arrays x and y saved by numpy, got File is not a zip file."),
    (of("cut.npz"), FileFormatError, "got File is not a zip file."),
    (of("pickled.npz"), FileFormatError, "got File is not a zip file."),
    (of("absent.npz"), MissingFileError, "Expected a file of images at absent.npz, found none"),
    (of("folders/damaged"), FileFormatError, "to hold an image, got cannot identify image file"),
    (of("folders/cut"), FileFormatError, "to hold an image, got "),
    (of("folders/huge"), FileFormatError, "could be decompression bomb"),
    (of("folders"), FileFormatError, "to hold an image, got "),
    (of("absent/folder"), MissingFileError, "Expected a folder of images at absent/folder, found none"),
    (of("a_file"), UnknownNameError, "Unknown dataset 'a_file'; the nearest are: digits"),
    (of(""), UnknownNameError, "Unknown dataset ''; the nearest are: digits"),
    (of("cifar10"), DownloadError, "Expected cifar10 in data, found none that is whole; ask for the download"),
    (of("imagenet"), DownloadError, "its licence forbids fetching them for you"),
    (on("five"), ClassesError, "Expected a network with 10 logits for digits, got 5;"),
    (on("hundred"), ClassesError, "Expected a network with 10 logits for digits, got 100;"),
    (on("large"), ShapeError, "what the network takes, got (2, 1, 8, 8): "),
    (on("colour"), ShapeError, "to have 3 channels, but got 1 channels instead"),
    (
        on("double"),
        ShapeError,
        "mat1 and mat2 must have the same dtype, but got Float and Double; the images are torch.float32, its ",
    ),
    (on("spatial"), ShapeError, "Expected the network's output to be logits (n, k), got (2, 10, 8, 8)."),
    (on("text"), ShapeError, "Expected the network's output to be logits (n, k), got str."),
    (on("pair"), ShapeError, "Expected the network's output to be logits (n, k), got tuple."),
    (on("one_for_all"), ShapeError, "Expected the network's output to be logits (n, k), got (1, 10)."),
    (on("nan"), NonFiniteLogitsError, "Expected finite logits, got NaN or infinity on 2 of 2 images;"),
    (on("infinite"), NonFiniteLogitsError, "are the weights trained and the inputs in [0, 1]?"),
    (on("failing"), ForwardError, "(2, 1, 8, 8) to logits, its forward pass failed: KeyError: 'weights'."),
    (on("constant"), NoGradientError, "differentiated with respect to the images, but they do not depend on them;"),
    (on("no_grad"), NoGradientError, "does the network detach them, leave torch for numpy, run under no_grad"),
    (on("detached"), NoGradientError, "but they do not depend on them;"),
    (on("detaching"), NoGradientError, "but they do not depend on them;"),
    (on("detaching", "--dry-run"), NoGradientError, "but they do not depend on them;"),
    (on("past_numpy"), NoGradientError, "but they do not depend on them;"),
    (on("overwritten"), NoGradientError, "has been modified by an inplace operation: "),
    (on("one_logit"), ShapeError, "got (2, 1); where one logit decides by its sign, give the other class the logit 0."),
    (on("through_numpy"), NoGradientError, "but Can't call numpy() on Tensor that requires grad."),
    (on("in_place"), InPlaceError, "its forward pass changed them in place; clone them first"),
    (on("smooth", "--certificate", "crown"), UnsupportedLayerError, "GELU"),
    (on("weights"), FileFormatError, "to hold code that runs and loads what it names, got RuntimeError: Error(s)"),
    (on("stops"), FileFormatError, "got SystemExit: 3."),
    (on("endless"), FileFormatError, "got RecursionError: maximum recursion depth exceeded"),
    (on("needs"), FileFormatError, "TypeError: needs() missing 1 required positional argument"),
    (on("number"), UnknownNameError, "Unknown function of nets.py 'number'"),
    (["measure", "broken.py:small", "--data", "digits"], FileFormatError, "SyntaxError: "),
    (["measure", "absent.py:small", "--data", "digits"], MissingFileError, "Python file with a network at absent.py"),
    (["measure", "weights.pt", "--data", "digits"], UsageError, "got the file of weights weights.pt; name a function"),
    (["measure", "", "--data", "digits"], UnknownNameError, "Unknown model ''; the nearest are: digits/standard"),
    (["measure", "../digits/mlp", "--data", "digits"], UnknownNameError, "Unknown model '../digits/mlp'"),
    (
        [*MEASURE, "--out", "a_file/x"],
        UsageError,
        "Expected a_file to be a folder, for the record in it; it is a file.",
    ),
    (report("other_columns"), MissingColumnError, "Expected a column 'upper', the table has: index, colour."),
    (report("no_index"), MissingColumnError, "Expected a column 'index', the table has: upper."),
    (report("no_label"), MissingColumnError, "Expected a column 'label', the table has: index, predicted, upper"),
    (report("words"), ShapeError, "Expected the column 'upper' to be numbers, got "),
    (report("mixed"), RecordError, "a record holds one measurement"),
    (report("changed.parquet"), ChecksumError, "Expected changed.parquet to have SHA-256 "),
    (report("foreign.parquet"), FileFormatError, "a shard of a record, got Parquet without margincons' provenance."),
    (report("list.parquet"), FileFormatError, "got provenance that cannot be read."),
    (report("number.parquet"), FileFormatError, "got provenance that cannot be read."),
    (report("empty.parquet"), FileFormatError, "got provenance that cannot be read."),
    (report("no_made.parquet"), FileFormatError, "got provenance that cannot be read."),
    (report("good.npz"), FileFormatError, "Expected good.npz to hold a shard of a record, got "),
    (report("data"), MissingFileError, "Expected a record at data, found none"),
    (report("absent"), UnknownNameError, "Unknown record 'absent'; the nearest are: "),
    (report("absent/absent"), MissingFileError, "Expected a record at absent/absent, found none"),
    (detect("absent.safetensors"), MissingFileError, "Expected a detector at absent.safetensors, found none"),
    (detect("a_file"), FileFormatError, "Expected a_file to hold a detector, got "),
    (detect("pickled.npz"), FileFormatError, "Expected pickled.npz to hold a detector, got "),
    (detect("weights.pt"), FileFormatError, "Expected weights.pt to hold a detector, got "),
    (detect("weights.safetensors"), FileFormatError, "got safetensors of something else: weights?"),
    (detect("cut.safetensors"), FileFormatError, "Expected cut.safetensors to hold a detector, got "),
    (detect("moved.safetensors"), ChecksumError, "Expected moved.safetensors to have SHA-256 "),
    (detect("later.safetensors"), FileFormatError, "a detector of version 1, got a detector of version 99; was it"),
    (detect("lacking.safetensors"), FileFormatError, "to hold a whole detector, got KeyError: 'weights_sha256'."),
    (
        detect("good.safetensors", network="digits/mlp"),
        OtherNetworkError,
        "Expected the network that good.safetensors was calibrated on, got another: its weights have SHA-256 ",
    ),
    (
        detect("good.safetensors", network="nets.py:doubled"),
        OtherNetworkError,
        "it has those weights, but its logits differ, by up to ",
    ),
    (detect("good.safetensors", "--data", "folders/damaged"), FileFormatError, "got cannot identify image file"),
    (detect("good.safetensors", "--data", "folders/huge"), FileFormatError, "could be decompression bomb"),
    (detect("good.safetensors", "--data", "models"), FileFormatError, "Expected models to hold pictures (.jpg, "),
    (detect("good.safetensors", "--data", "colour.npz"), ShapeError, "to be (n, 1, 8, 8), as in the calibration, got "),
    (detect("good.safetensors", "--data", "bytes.npz"), PixelRangeError, "; divide by 255."),
    (detect("good.safetensors", "--data", "payload.npz"), FileFormatError, "got Python objects in x.npy: a pickle."),
    (calibrate("--effort", "huge"), UnknownNameError, "Unknown effort of minimum_norm 'huge'"),
    (calibrate("--attack", "pgd"), UsageError, "got 'pgd', which says only who is brittle at one epsilon;"),
    (calibrate(*RECORDED), TooFewImagesError, "Expected at least 9 brittle calibration images to promise a rate of"),
    (calibrate(*RECORDED, "--score", "margin"), UnknownNameError, "Unknown score 'margin'; the nearest are: "),
    (calibrate(*RECORDED, "--miss-rate", "10"), UsageError, "Expected a rate between 0 and 1, such as 0.1, got 10."),
    (calibrate(*RECORDED, "--epsilon", "8"), UsageError, "did you mean 8/255?"),
    (calibrate("--record", "digits/trades/Linf/minimum_norm"), RecordError, "digits/trades; got other weights."),
    (calibrate("--record", "changed.parquet"), ChecksumError, "Expected changed.parquet to have SHA-256 "),
    (calibrate("--split", "train"), UsageError, "Expected calibration images that the network was not trained on"),
]


def test_there_are_sixty_bad_inputs_and_they_differ():
    assert len({str(arguments) for arguments, _, _ in BAD}) == len(BAD) >= 60


@pytest.mark.parametrize(("arguments", "error", "text"), BAD, ids=[" ".join(row[0])[:70] for row in BAD])
@pytest.mark.usefixtures("here")
def test_a_bad_input_gets_a_named_error_and_one_line(arguments, error, text, capfd, monkeypatch):
    raised = []

    def note(self, *_):
        raised.append(type(self))
        return Exception.__str__(self)

    monkeypatch.setattr(MarginError, "__str__", note)
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if "Warning: " not in line]
    assert raised[-1] is error
    assert text in lines[-1]
    assert lines[-1].startswith("margincons: ")
    assert "Traceback" not in err
    assert out == ""
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("web", "a web page: the download was refused, often for a quota; delete it"),
        ("cut", "the download was cut short; delete it"),
        ("other", "something else that starts with b'not a ch'"),
        ("small", "got 3 bytes: too few weights"),
        ("payload", "only tensors and plain values, got a pickle that wants more"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_bad_checkpoint_is_refused_unread(folder, text, capfd, monkeypatch):
    monkeypatch.setenv("MARGINCONS_MODELS", f"models/{folder}")
    assert cli.main(["measure", FAST, "--data", "digits"]) == 2
    out, err = capfd.readouterr()
    assert text in err
    assert (err.count("\n"), out) == (1, "")


def test_the_payloads_were_live(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images()
    assert not Path("ran").exists()
    np.load("payload.npz", allow_pickle=True)["x"]
    assert Path("ran").exists()


def test_bundled_weights_that_were_changed_are_refused(tmp_path, monkeypatch, capfd):
    shutil.copytree(bundled.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(bundled, "WEIGHTS", tmp_path / "weights")
    path = bundled.weights_path("digits/mlp")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert cli.main(MEASURE) == 2
    assert "to have SHA-256 " in capfd.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("n_images", "!!python/object/apply:pathlib.Path.touch [ran]", "as YAML would write it"),
        ("n_images", "!!python/name:os.system", "as YAML would write it"),
        ("n_images", "2024-99-99", "as YAML would write it, got '2024-99-99'"),
        ("n_images", "[" * 5000, "as YAML would write it"),
        ("n_images", "__import__('os').system('touch ran')", "'n_images' to be int, got \"__import__"),
        ("n_images", "{a: 1}", "Expected the page parameter 'n_images' to be int, got {'a': 1}."),
        ("model_ids", "&a [*a]", "Expected the page parameter 'model_ids' to be list[str], got [[[[[[["),
        ("model_ids", "[&b [x,x,x,x,x,x,x,x,x], &c [*b,*b,*b,*b,*b,*b,*b,*b], *c]", "to be list[str], got [["),
        ("n_images = 1; import os", "1", "Unknown page parameter 'n_images = 1; import os'"),
        ("__builtins__", "1", "Unknown page parameter '__builtins__'"),
    ],
)
def test_a_page_parameter_is_a_value_and_never_code(name, value, text, tmp_path, capfd, monkeypatch):
    for folder in ("notebooks", "_toc.yml"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(["book", "-p", name, value])
    except SystemExit as stop:
        status = stop.code
    out, err = capfd.readouterr()
    assert status == 2
    assert text in err
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_toc.yml", "notebooks"]


@pytest.mark.parametrize(
    "value", ['"; open("ran", "w"); "', "\\\"); open('ran', 'w') #", "a\nopen('ran', 'w')", "'''", "{0}"]
)
def test_a_text_parameter_reaches_a_page_as_the_same_text(value):
    from papermill.translators import PythonTranslator

    scope = {"open": pytest.fail}
    exec(PythonTranslator.codify({"name": value, "names": [value]}), scope)
    assert (scope["name"], scope["names"]) == (value, [value])


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), keep=st.booleans())
def test_a_damaged_npz_is_refused_or_unharmed(tmp_path, place, bit, keep):
    path = tmp_path / "images.npz"
    np.savez_compressed(path, x=np.arange(128, dtype=np.uint8).reshape(2, 1, 8, 8), y=np.arange(2))
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 1 << bit
    path.write_bytes(content if keep else content[:at])
    try:
        images = load_images(str(path))
    except MarginError as error:
        assert "\n" not in str(error)
    else:
        assert images.inputs.mul(255).round().flatten().tolist() == list(range(128))
        assert images.labels.tolist() == [0, 1]


def test_a_foreign_parquet_is_never_taken_for_a_shard(place):
    with pytest.raises(FileFormatError, match="without margincons' provenance"):
        read_shard(place / "foreign.parquet")
