"""Adversarial images beside a record come back as they were, or not at all."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from margincons.errors import ChecksumError, FileFormatError, MissingFileError, RecordError
from margincons.records import write_shard
from margincons.records.kept_images import images_of, read_images, write_images


def write(folder, number, index, images, **made):
    path = folder / f"shard-{number:05d}.parquet"
    digest = write_images(path, np.array(index), images)
    write_shard(path, pd.DataFrame({"index": index}), {"seed": 0}, {"images_sha256": digest} | made)
    return path


def test_images_come_back_in_the_order_of_the_data_set(tmp_path):
    images = np.random.default_rng(0).random((5, 3, 4, 4)).astype(np.float32)
    write(tmp_path, 1, [0, 2, 1], images[[0, 2, 1]])
    write(tmp_path, 0, [3, 4], images[3:])
    index, back = read_images(tmp_path)
    assert index.tolist() == list(range(5))
    assert np.array_equal(back, images)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet"] * 2 + [".safetensors"] * 2


def test_images_that_changed_are_missing_or_were_never_kept_are_refused(tmp_path):
    path = write(tmp_path, 0, [0], np.zeros((1, 1, 2, 2), np.float32))
    other = write(tmp_path / "other", 0, [0], np.ones((1, 1, 2, 2), np.float32))
    images_of(other).replace(images_of(path))
    with pytest.raises(ChecksumError, match=r"shard-00000\.safetensors to have SHA-256"):
        read_images(tmp_path)
    images_of(path).unlink()
    with pytest.raises(MissingFileError, match="file of adversarial images at"):
        read_images(tmp_path)
    write_shard(path, pd.DataFrame({"index": [0]}), {"seed": 0}, {})
    with pytest.raises(RecordError, match="to have kept its adversarial images; measure with --keep-images"):
        read_images(tmp_path)
    images_of(path).write_bytes(b"no")
    digest = hashlib.sha256(b"no").hexdigest()
    write_shard(path, pd.DataFrame({"index": [0]}), {"seed": 0}, {"images_sha256": digest})
    with pytest.raises(FileFormatError, match="to hold adversarial images"):
        read_images(tmp_path)
