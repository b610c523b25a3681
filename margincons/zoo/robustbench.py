"""Networks of RobustBench, loaded without trusting the files they come in.

A checkpoint is a pickle, and unpickling runs code. Each file is therefore read in full by torch's
weights-only loader first, which refuses anything but tensors and plain values; only then does RobustBench's
own loader, which knows how every entry names its weights, read the same file.
"""

import contextlib
import io
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from margincons.attacks.autoattack_package import import_autoattack
from margincons.errors import DownloadError, FileFormatError, UnknownNameError, UsageError

NORMS = ("Linf", "L2")  # the common-corruption entries have no threat model with a margin
LEAST_BYTES = 2**16  # the networks listed take tens of MB and more


def list_robustbench() -> list[str]:
    """Ids of all networks of RobustBench with an Linf or L2 threat model, ``robustbench/<dataset>/<norm>/<name>``."""
    return list(_entries())


def load_robustbench(model_id: str, *, model_dir: str | Path | None = None, download: bool = False) -> nn.Module:
    """Load one network of RobustBench, in eval mode, for images in [0, 1].

    Args:
        model_id: An id of `list_robustbench`.
        model_dir: Root of RobustBench's own folders, ``<model_dir>/<dataset>/<norm>/<name>.pt``; unless given,
            the environment variable MARGINCONS_MODELS, else ``~/.cache/margincons/robustbench``.
        download: Whether a missing checkpoint may be fetched.

    Raises:
        UnknownNameError: If RobustBench lists no such network.
        UsageError: If its weights do not lie in checkpoint files (those that timm or torchvision host).
        DownloadError: If a checkpoint is missing and may not be, or cannot be, fetched.
        FileFormatError: If a checkpoint is damaged, is something else, or holds more than tensors and plain values.
    """
    paths = robustbench_checkpoints(model_id, model_dir=model_dir)
    for path, drive_id in zip(paths, _drive_ids(model_id), strict=True):
        if not path.is_file():
            if not download:
                raise DownloadError(
                    f"Expected the weights of {model_id} at {path}, found none; allow the download "
                    "(download=True), or set MARGINCONS_MODELS to the folder that holds <dataset>/<norm>/<name>.pt."
                )
            _download(drive_id, path)
        check_checkpoint(path)
    _, dataset, norm, name = model_id.split("/")
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):  # building draws random weights before it loads
            model = _robustbench().load_model(name, paths[0].parents[2], dataset, norm)
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise FileFormatError(paths[0], f"the weights of {model_id}", f"others ({_brief(error)})") from error
    weights, size = sum(weight.numel() for weight in model.parameters()), sum(path.stat().st_size for path in paths)
    if size < 2 * weights:  # RobustBench forgives missing weights in some entries and leaves them random
        raise FileFormatError(paths[0], f"{weights} weights", f"{size} bytes, fewer than half precision takes")
    return model.eval()


def unloaded_robustbench(model_id: str) -> nn.Module:
    """Build one network of RobustBench in eval mode, with the weights it is born with; no file is needed.

    Within ``torch.device("meta")`` nothing is even allocated: enough to count operations.

    Raises:
        UnknownNameError: If RobustBench lists no such network.
        UsageError: If timm or torchvision builds it together with its weights.
    """
    robustbench_checkpoints(model_id)  # raises for names that are unknown or hosted elsewhere
    with _quiet(), torch.random.fork_rng(devices=[]):
        return _entries()[model_id]["model"]().eval().requires_grad_(False)


def robustbench_checkpoints(model_id: str, *, model_dir: str | Path | None = None) -> list[Path]:
    """Where the checkpoints of a network lie or would lie: one file, or one per member of an ensemble.

    Raises:
        UnknownNameError: If RobustBench lists no such network.
        UsageError: If its weights do not lie in checkpoint files.
    """
    entries = _entries()
    if model_id not in entries:
        raise UnknownNameError("model", model_id, entries)
    if not _drive_ids(model_id):
        raise UsageError(
            f"Expected weights in a checkpoint file, but those of {model_id} are hosted by timm or torchvision."
        )
    root = model_dir or os.environ.get("MARGINCONS_MODELS") or "~/.cache/margincons/robustbench"
    single = Path(root).expanduser().joinpath(*model_id.split("/")[1:])
    single = single.with_name(single.name + ".pt")
    if isinstance(entries[model_id]["gdrive_id"], str):
        return [single]
    return [single.with_name(f"{single.name}_m{member}.pt") for member in range(len(_drive_ids(model_id)))]


def check_checkpoint(path: Path) -> None:
    """Read a checkpoint without running anything in it.

    Raises:
        FileFormatError: If it is a web page, cut short, implausibly small, or holds more than plain values.
    """
    expected, size = "a checkpoint of torch", path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip()[:1] == b"<":
        raise FileFormatError(path, expected, "a web page: the download was refused, often for a quota; delete it")
    is_zip = start[:4] == b"PK\x03\x04"
    if is_zip and not zipfile.is_zipfile(path):
        raise FileFormatError(path, expected, f"only its first {size} bytes: the download was cut short; delete it")
    if not is_zip and start[:1] != b"\x80":
        raise FileFormatError(path, expected, f"something else that starts with {start[:8]!r}")
    if size < LEAST_BYTES:
        raise FileFormatError(path, f"{expected} of at least {LEAST_BYTES} bytes", f"{size} bytes: too few weights")
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileFormatError(
            path, "only tensors and plain values", f"a pickle that wants more ({_brief(error)})"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError) as error:
        raise FileFormatError(path, expected, f"a damaged file ({_brief(error)})") from error


@cache
def _robustbench() -> ModuleType:
    with _quiet():  # its own imports warn of deprecations
        import_autoattack()
        import robustbench.utils
    return robustbench.utils


@cache
def _entries() -> dict[str, dict]:
    return {
        f"robustbench/{dataset.value}/{threat.value}/{name}": entry
        for dataset, threats in _robustbench().all_models.items()
        for threat, models in threats.items()
        if threat.value in NORMS
        for name, entry in models.items()
    }


def _drive_ids(model_id: str) -> list[str]:
    drive_id = _entries()[model_id]["gdrive_id"]
    return drive_id if isinstance(drive_id, list) else [drive_id] if drive_id else []


def _download(drive_id: str, path: Path) -> None:
    from gdown.exceptions import FileURLRetrievalError

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            _robustbench().download_gdrive_new(drive_id, partial)
        check_checkpoint(partial)
        partial.replace(path)
    except (OSError, FileURLRetrievalError, FileFormatError) as error:
        raise DownloadError(f"Expected to fetch {path} from Google Drive (id {drive_id}): {_brief(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of deprecations in RobustBench and timm, which are theirs to mend
        yield


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
