"""What is asked of a measurement: refused where it cannot be, loaded, and settled; a run and its price begin alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from margincons.classifier import Classifier
from margincons.cluster import device_of
from margincons.data import Images, load_images
from margincons.devices import choose_device
from margincons.errors import UnknownNameError, UsageError
from margincons.margins import FIXED_BUDGET, options_of
from margincons.rows import CERTIFICATES
from margincons.threat import ThreatModel
from margincons.zoo import load_model, state_sha256

if TYPE_CHECKING:
    from distributed import Client

BATCH_SIZE = 200  # of "auto"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A measurement that may start."""

    classifier: Classifier  # on its device; on the CPU where a cluster measures
    images: Images
    settings: dict[str, Any]  # what identifies the record


def prepare(
    model_id: str | Path,
    data: str | Path,
    *,
    norm: str = "Linf",
    attack: str = "minimum_norm",
    effort: str = "standard",
    out: str | Path | None = None,
    epsilon: float | None = None,
    certificate: str | None = None,
    time_limit: float = 60.0,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | str = "auto",
    shard_size: int = 200,
    device: str = "auto",
    download: bool = False,
    keep_images: bool = False,
    client: "Client | None" = None,
) -> Asked:
    """Refuse what cannot be measured, load the rest, and settle what identifies the record; nothing is written.

    Arguments and errors are those of `margincons.measure`; where the record will lie may be left open.
    """
    check_attack(attack, norm=norm, effort=effort, epsilon=epsilon)
    batch_size = BATCH_SIZE if batch_size == "auto" else batch_size
    check_sizes(batch_size=batch_size, shard_size=shard_size)
    if limit is not None and limit < 1:
        raise UsageError(f"Expected a limit of 1 image or more, or None for all of them, got {limit}.")
    if certificate not in (None, *CERTIFICATES):
        raise UnknownNameError("certificate", certificate, CERTIFICATES)
    if out is not None:
        _check_folder(Path(out))
    here = choose_device(device) if client is None else "cpu"
    images = load_images(data, split=split, n=limit, download=download, lazy=True)
    model = load_model(model_id, download=download).to(here)
    classifier = Classifier(model, images.inputs[:2])
    settings = {
        "model": portable_id(model_id),
        "weights_sha256": state_sha256(model),
        "data": images.name,
        "images": len(images),
        "data_sha256": images.checksum(),
        "decoding": images.decoding,
        "norm": norm,
        "attack": attack,
        "effort": effort,
        "epsilon": epsilon,
        "certificate": certificate,
        "time_limit": time_limit if certificate == "exact" else None,
        "seed": seed,
        "batch_size": batch_size,
        "shard_size": shard_size,
        "device": here if client is None else device_of(client, device),
        "keep_images": keep_images or None,  # as in records from before there was a choice
    }
    return Asked(classifier=classifier, images=images, settings=settings)


def check_attack(attack: str, *, norm: str, effort: str, epsilon: float | None) -> None:
    """Refuse what the attack would refuse, before anything is loaded."""
    options_of(attack, effort)
    if (attack in FIXED_BUDGET) != (epsilon is not None):
        need = "needs epsilon" if attack in FIXED_BUDGET else "finds distances: it takes no epsilon"
        raise UsageError(f"The attack {attack!r} {need}; got epsilon={epsilon}.")
    ThreatModel(norm=norm, epsilon=epsilon or 0.0)


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1, by their names."""
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"Expected a {name.replace('_', ' ')} of 1 or more, got {size}.")


def _check_folder(out: Path) -> None:
    for folder in out.parents:
        if folder.is_file():
            raise UsageError(f"Expected {folder} to be a folder, for the record in it; it is a file.")
    if out.is_file():
        raise UsageError(f"Expected {out} to be the folder of a record, it is a file.")


def portable_id(model_id: str | Path) -> str:
    """Leave the folder out of a user's network, path/nets.py:cnn: the checksum of its weights identifies it."""
    model_id = str(model_id)
    return model_id.rsplit("/", 1)[-1] if ".py:" in model_id else model_id
