"""Adversarial images beside a record, on request: one safetensors file per shard, named and sealed by the shard."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from margincons.errors import ChecksumError, FileFormatError, MissingFileError, RecordError
from margincons.records import read_shard, shards_of
from margincons.records.atomic import written_whole


def write_images(shard: Path, index: np.ndarray, adversarial: np.ndarray) -> str:
    """Write the images of one shard; before the shard itself, so that a finished shard has them.

    Args:
        shard: Path of the shard; the images get its name with the ending .safetensors.
        index: Each image's place in its data set, (n,).
        adversarial: Images (n, c, h, w) in [0, 1]; the clean one where the attack found nothing.

    Returns:
        SHA-256 of the file, which belongs into what the shard says about how it was made.
    """
    content = save({"index": np.ascontiguousarray(index), "adversarial": np.ascontiguousarray(adversarial)})
    with written_whole(images_of(shard)) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def read_images(record: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read all adversarial images of a record.

    Returns:
        Each image's place in its data set, (n,), and the images (n, c, h, w), in that order.

    Raises:
        RecordError: If the record was measured without keeping images.
        ChecksumError: If they are not those that were written; further errors as in `read_record`.
    """
    parts = [load_images_of(shard, read_shard(shard)[1]["made"]) for shard in shards_of(record)]
    index, adversarial = (np.concatenate([part[name] for part in parts]) for name in ("index", "adversarial"))
    order = np.argsort(index)
    return index[order], adversarial[order]


def load_images_of(shard: Path, made: dict[str, Any]) -> dict[str, np.ndarray]:
    """Read the images of one shard, and check them against what the shard says; errors as in `read_images`."""
    path, wanted = images_of(shard), made.get("images_sha256")
    if wanted is None:
        raise RecordError(f"Expected {shard} to have kept its adversarial images; measure with --keep-images.")
    if not path.is_file():
        raise MissingFileError(path, "file of adversarial images")
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != wanted:
        raise ChecksumError(path, wanted, digest)
    try:
        return load(content)
    except SafetensorError as error:
        raise FileFormatError(path, "adversarial images", str(error)) from None


def images_of(shard: Path) -> Path:
    """Where the images of a shard lie."""
    return shard.with_suffix(".safetensors")
