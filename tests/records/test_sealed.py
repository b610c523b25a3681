"""Sealed files: they give back what was written, or one line that says why not."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from margincons.errors import ChecksumError, FileFormatError, MarginError, MissingFileError
from margincons.records.sealed import read_sealed, write_sealed

ABOUT = {"rate": 0.1, "none": None, "names": ["a", "b"]}
TENSORS = {"values": torch.tensor([1.5, torch.inf]), "scalar": torch.tensor(2.0, dtype=torch.float64)}


def written(path, **changes):
    write_sealed(path, "detector", **{"version": 1, "about": ABOUT, "tensors": TENSORS} | changes)
    return path


def test_what_was_written_comes_back(tmp_path):
    about, tensors = read_sealed(written(tmp_path / "new" / "a.safetensors"), "detector", version=1)
    assert about == ABOUT
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), keep=st.booleans())
def test_one_bit_or_a_lost_end_is_refused_in_one_line_or_changes_nothing(tmp_path, place, bit, keep):
    path = written(tmp_path / "a.safetensors")
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 1 << bit
    path.write_bytes(content if keep else content[:at])
    try:
        about, tensors = read_sealed(path, "detector", version=1)
    except MarginError as error:
        assert "\n" not in str(error)
    else:
        assert about == ABOUT
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("change", [lambda values: values.view(torch.int32), lambda values: values[None]])
def test_the_same_bytes_of_another_type_or_shape_are_noticed(tmp_path, change):
    path = written(tmp_path / "a.safetensors")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(TENSORS | {"values": change(TENSORS["values"])}, path, metadata=header)
    with pytest.raises(ChecksumError):
        read_sealed(path, "detector", version=1)


def test_a_changed_threshold_is_noticed(tmp_path):
    path = written(tmp_path / "a.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match="damaged, or another version"):
        read_sealed(path, "detector", version=1)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda path: None, MissingFileError, "Expected a detector at"),
        (lambda path: path.write_text("<html>"), FileFormatError, "to hold a detector, got "),
        (lambda path: path.write_bytes(b""), FileFormatError, "to hold a detector, got "),
        (lambda path: save_file(TENSORS, path), FileFormatError, "safetensors of something else: weights?"),
        (
            lambda path: save_file(TENSORS, path, metadata={"margincons": json.dumps([1])}),
            FileFormatError,
            "safetensors of something else: weights?",
        ),
        (
            lambda path: save_file(TENSORS, path, metadata={"margincons": "[" * 100_000}),
            FileFormatError,
            "safetensors of something else: weights?",
        ),
        (
            lambda path: written(path, version=2),
            FileFormatError,
            "a detector of version 1, got a detector of version 2; was it written by another version of margincons?",
        ),
        (
            lambda path: write_sealed(path, "toaster", version=1, about={}, tensors=TENSORS),
            FileFormatError,
            "a detector of version 1, got a toaster of version 1.",
        ),
    ],
)
def test_a_foreign_file_gets_one_line(tmp_path, make, error, text):
    path = tmp_path / "a.safetensors"
    make(path)
    with pytest.raises(error) as caught:
        read_sealed(path, "detector", version=1)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
