"""Small files of tensors and plain values that say what they are, in safetensors: read, never run.

The values travel as JSON in the file's header, with a version and a checksum over values and tensors.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from margincons.errors import ChecksumError, FileFormatError, MissingFileError
from margincons.records.atomic import written_whole


def write_sealed(
    path: str | Path, kind: str, *, version: int, about: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Write one file, whole or not at all.

    Args:
        path: Where; its folder is created.
        kind: What the file holds: "detector".
        version: Of that kind's layout.
        about: Plain values, as JSON holds them.
        tensors: At least one, by name.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"kind": kind, "version": version, "about": about}, sort_keys=True)
    with written_whole(Path(path)) as file:
        file.write(save(tensors, metadata={"margincons": text, "sha256": _digest(text, tensors)}))


def read_sealed(path: str | Path, kind: str, *, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file back and check that it holds what was written.

    Returns:
        The plain values and the tensors.

    Raises:
        MissingFileError: If there is no such file.
        FileFormatError: If it is something else, or of a version that this code does not know.
        ChecksumError: If what it holds has changed.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise MissingFileError(path, kind)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise FileFormatError(path, f"a {kind}", " ".join(str(error).split())[:200]) from None
    text = header.get("margincons", "")
    try:
        found = json.loads(text)
        name, known, about = found["kind"], found["version"], found["about"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FileFormatError(path, f"a {kind}", "safetensors of something else: weights?") from None
    if (digest := _digest(text, tensors)) != header.get("sha256"):
        raise ChecksumError(path, header.get("sha256") or "(none)", digest)
    if name != kind or known != version:
        hint = "" if name != kind else "; was it written by another version of margincons?"
        raise FileFormatError(path, f"a {kind} of version {version}", f"a {name} of version {known}{hint}")
    return about, tensors


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
