"""Networks from a user's own file, good and bad."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.errors import FileFormatError, MissingFileError, ShapeError, UnknownNameError
from margincons.prepare import portable_id
from margincons.zoo import load_model, state_sha256

HEADER = "from pathlib import Path\nimport torch\nfrom torch import nn\n"


@pytest.fixture
def write(tmp_path):
    def write(code, name="nets.py"):
        (tmp_path / name).write_text(HEADER + code)
        return f"{tmp_path / name}"

    return write


def test_a_function_of_a_file_gives_a_network_in_eval_mode(write):
    path = write("def small():\n    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(4, 3)).train()\n")
    model = load_model(f"{path}:small")
    assert isinstance(model, nn.Sequential)
    assert not any(module.training for module in model.modules())


def test_a_network_may_be_named_by_a_path_too(write):
    model_id = Path(f"{write('def small(): return nn.Linear(4, 3)')}:small")
    assert load_model(model_id).out_features == 3
    assert portable_id(model_id) == "nets.py:small"
    assert state_sha256(load_model(Path("digits/mlp"))) == state_sha256(load_model("digits/mlp"))


def test_a_class_may_stand_for_a_function(write):
    path = write("class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 3)\n")
    assert load_model(f"{path}:Net").out_features == 3


def test_a_file_imports_its_neighbours_and_knows_dataclasses_as_if_it_were_run(write):
    write("WIDTH = 5\n", "neighbour_of_nets.py")
    path = write(
        "from dataclasses import dataclass\nfrom neighbour_of_nets import WIDTH\n"
        "@dataclass\nclass Size:\n    width: 'int' = WIDTH\n"
        "def small():\n    import neighbour_of_nets\n    return nn.Linear(Size().width, neighbour_of_nets.WIDTH)\n"
    )
    assert load_model(f"{path}:small").in_features == 5


def test_two_files_of_one_name_do_not_mix(write, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [
        write("def small():\n    return nn.Linear(1, 1)\n"),
        write("def small():\n    return nn.Linear(2, 2)\n", "other/nets.py"),
    ]
    assert [load_model(f"{path}:small").in_features for path in paths] == [1, 2]


@pytest.mark.parametrize(
    ("code", "name", "error", "text"),
    [
        ("def small():\n    return nn.ReLU()\n", ":smal", UnknownNameError, "'smal'; the nearest are: small."),
        ("def small():\n    return nn.ReLU()\n", "", UnknownNameError, "''; the nearest are: small."),
        ("def small():\n    return nn.ReLU()\n", ":nn", UnknownNameError, "the nearest are: small."),
        ("", ":small", UnknownNameError, "'small'; there is none."),
        ("def small():\n    return 3\n", ":small", ShapeError, "a torch.nn.Module, got int."),
        ("def small(x):\n    return nn.ReLU()\n", ":small", FileFormatError, "TypeError: small() missing 1 required"),
        ("def small()\n", ":small", FileFormatError, "SyntaxError: "),
        ("import no_such_package\n", ":small", FileFormatError, "No module named 'no_such_package'"),
    ],
)
def test_a_file_that_gives_no_network_is_refused_in_one_line(write, code, name, error, text):
    with pytest.raises(error) as caught:
        load_model(write(code) + name)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    for name in ("nets.py:small", "nets.py"):
        with pytest.raises(MissingFileError, match=r"Expected a Python file with a network at .*nets\.py, found none"):
            load_model(f"{tmp_path}/{name}")


def test_the_checksum_is_over_names_and_values_in_alphabetical_order():
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    assert state_sha256(model) == digest.hexdigest()
    with torch.no_grad():
        model[0].bias += 1e-6
    assert state_sha256(model) != digest.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_checksum_knows_every_precision_and_layout(dtype):
    model = nn.Linear(3, 3).to(dtype)
    before = state_sha256(model)
    model.weight.data = model.weight.data.T.contiguous().T
    assert state_sha256(model) == before
    assert_close(model.weight, model.weight)


def test_unknown_ids_offer_the_nearest_of_each_source():
    for model_id, nearest in {
        "digits/trade": "digits/trades",
        "trades": "digits/trades",
        "digit/trades": "digits/trades",
        "robustbench/cifar10/Linf/Wong2020Fas": "robustbench/cifar10/Linf/Wong2020Fast",
        "robustbench/cifar10/Linf": "robustbench/",
    }.items():
        with pytest.raises(UnknownNameError) as caught:
            load_model(model_id)
        assert f"Unknown model {model_id!r}; the nearest are: " in str(caught.value)
        assert nearest in str(caught.value)
