"""Records by the names of what they hold: taken where they are, measured where they are not, and measured again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from margincons.classifier import Classifier
from margincons.data import Images, load_images
from margincons.errors import MissingColumnError, RecordError, UnknownNameError
from margincons.measure import measure, record_folder
from margincons.records import differing, read_record, shipped_records
from margincons.rows import measure_batch
from margincons.zoo import load_model, state_sha256

SHIPPED_BUDGET = 0.1  # epsilon of the shipped records of attacks that have one
_ASKED = {"effort": "standard", "epsilon": None, "certificate": None, "seed": 0}  # of `measure`, with its defaults


def obtain(
    model_id: str, data: str, *, norm: str, attack: str, records: str, split: str = "test", **options: Any
) -> pd.DataFrame:
    """Take a record that ships with the package, or measure it into a folder of one's own: what pages call.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes.
        norm: "Linf", "L2" or "L1".
        attack: Name of the attack.
        records: "" for the shipped records; else the folder of records to resume and to extend.
        split: Which images of the data set.
        options: Further options of `measure`. A shipped record is cut to ``limit``.

    Raises:
        UnknownNameError: If no such record is shipped.
        RecordError: If the shipped record is of other data, effort, epsilon, certificate or seed.
    """
    if records:
        out = record_folder(Path(records), model_id, norm, attack, split=split)
        return measure(model_id, data, norm=norm, attack=attack, out=out, split=split, **options)
    name = record_folder(Path(), model_id, norm, attack, split=split).as_posix()
    if name not in (shipped := shipped_records()):
        raise UnknownNameError("shipped record (set records='runs' to measure it into that folder)", name, shipped)
    table = read_record(name)
    asked = {"data": f"{data}/{split}"} | {key: options.get(key, plain) for key, plain in _ASKED.items()}
    recorded = table.attrs["settings"]
    for key in differing(recorded, recorded | asked):
        raise RecordError(
            f"Expected {key} {asked[key]!r}, the shipped record {name} has {recorded.get(key)!r}; "
            "ask for that, or name a folder of records to measure into."
        )
    return table.head(options.get("limit") or len(table))


def measure_again(
    table: pd.DataFrame, rows: Sequence[int], *, column: str = "upper", folder: str | Path = ""
) -> pd.DataFrame:
    """Measure some rows of a record anew, with the record's own settings, on this machine.

    Args:
        table: A record, such as the shipped ones.
        rows: Which rows of the table.
        column: What to compare: "upper"; "lower" where the record has certificates; "success", as 0 and 1, for
            attacks with a budget, whose distances say little.
        folder: Where the file of networks, or the images, lie, where they are one's own.

    Returns:
        Columns "index", "recorded", "live" and "ratio" (live over recorded; 1 where they are equal), one row per image.

    Raises:
        MissingColumnError: If the record has no such column.
        RecordError: If the network's weights, or the images, are not those of the record.
    """
    settings = table.attrs["settings"]
    if column not in table:
        raise MissingColumnError(column, table.columns)
    model, images = as_recorded(settings, folder)
    if column != "lower":
        settings = settings | {"certificate": None}  # which can take minutes an image
    classifier = Classifier(model, images.inputs[:2])
    chosen = table.iloc[list(rows)]
    places = torch.tensor(chosen["index"].tolist())
    live = measure_batch(classifier, images, places, settings).table if len(chosen) else chosen
    recorded, again = (part[column].to_numpy(dtype=float) for part in (chosen, live))
    alike, differ = np.where(again == recorded, 1.0, np.inf), (again != recorded) & (recorded != 0)
    return pd.DataFrame(
        {
            "index": chosen["index"].to_numpy(),
            "recorded": recorded,
            "live": again,
            "ratio": np.divide(again, recorded, out=alike, where=differ),
        }
    )


def as_recorded(settings: dict[str, Any], folder: str | Path = "") -> tuple[nn.Module, Images]:
    """Load the network and the images of a record, each held against its checksum.

    Args:
        settings: Of the record.
        folder: Where the file of networks, or the images, lie, where they are one's own.

    Raises:
        RecordError: If the network's weights, or the images, are not those of the record.
    """
    split = settings["data"].partition("/")[2]
    images = load_images(data_as_recorded(settings, folder), split=split or "test", n=settings.get("images"))
    if settings.get("images") and images.checksum() != settings["data_sha256"]:
        raise RecordError(f"Expected the images that the record was measured on, those of {settings['data']} changed.")
    model_id = settings["model"]
    model = load_model(str(Path(folder) / model_id) if ".py:" in model_id else model_id)
    if state_sha256(model) != settings["weights_sha256"]:
        raise RecordError(f"Expected the weights that the record was measured with, those of {model_id} changed.")
    return model, images


def data_as_recorded(settings: dict[str, Any], folder: str | Path = "") -> str:
    """What `load_images` takes for the images of a record: a data set's name, or the folder or .npz of one's own."""
    name, slash, _ = settings["data"].partition("/")
    own = Path(folder) / name
    return name if slash else str(own.absolute()) if own.is_dir() else f"{own}.npz"
