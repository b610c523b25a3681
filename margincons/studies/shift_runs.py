"""Records of margins under every shift, for networks that are too large to measure while a page is read.

``python -m margincons.studies.shift_runs path/nets.py:cnn --data path/images.npz --out runs`` measures clean images, to
calibrate on, and the first of them under every shift at every severity; a network whose record is there is left alone.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import nn

from margincons.cli_outcome import outcome
from margincons.cli_values import Parser, count, seed
from margincons.data import Images, load_images
from margincons.data.shifts import SHIFTS, shift
from margincons.devices import choose_device
from margincons.errors import UsageError
from margincons.measure import measure_images, record_folder
from margincons.prepare import portable_id
from margincons.recorded import as_recorded
from margincons.records import read_record
from margincons.records.once import made_once
from margincons.zoo import load_model, state_sha256

COLUMNS = ["index", "label", "predicted", "logit_margin", "upper"]
CLEAN = "clean"


def obtain_shifts(
    model_id: str,
    data: str,
    *,
    judged: int = 200,
    norm: str = "Linf",
    effort: str = "fast",
    seed: int = 0,
    out: str | Path,
    device: str = "auto",
) -> pd.DataFrame:
    """Measure margins of clean and of shifted images, or take the record of them that is there.

    Args:
        model_id: What `load_model` takes.
        data: What `load_images` takes: all images are measured clean.
        judged: The first images, which are shifted, too.
        norm: "Linf", "L2" or "L1".
        effort: "fast", "standard", "fine" or "exhaustive".
        seed: Of shifts and of the attack.
        out: Folder of records.
        device: "cpu", "cuda", or "auto".

    Returns:
        One row per image in every guise: "shift" ("clean" among them), "severity", "index", "label", "predicted",
        "logit_margin" and "upper".

    Raises:
        UsageError: If no image is left to calibrate on.
        RecordError: If the folder holds a record of other settings.
        LockedError: If another process is writing it.
    """
    images, model = load_images(data), load_model(model_id).to(choose_device(device))
    if not 0 < judged < len(images):
        raise UsageError(f"Expected to judge 1 to {len(images) - 1} of {len(images)} images, got {judged}.")
    settings = {
        "model": portable_id(model_id),
        "weights_sha256": state_sha256(model),
        "data": images.name,
        "images": len(images),
        "data_sha256": images.checksum(),
        "judged": judged,
        "strengths": {name: list(one.strengths) for name, one in SHIFTS.items()},
        "norm": norm,
        "effort": effort,
        "seed": seed,
    }
    path = record_folder(Path(out) / "shifts", model_id, norm, "minimum_norm") / "shard-00000.parquet"
    guises = [(CLEAN, 0)] + [(name, s) for name, one in SHIFTS.items() for s in range(1, len(one.strengths) + 1)]

    def make() -> pd.DataFrame:
        parts = [
            _measured(model, images if name == CLEAN else images.head(judged), name, severity, settings)
            for name, severity in guises
        ]
        return pd.concat(parts, ignore_index=True)

    made_once(path, settings, make)
    return read_record(path.parent)


def shifts_again(table: pd.DataFrame, name: str, severity: int, *, n: int, folder: str | Path = "") -> pd.DataFrame:
    """Measure the first n images of one shift anew, with the record's own settings: its columns, n rows.

    Args:
        table: From `obtain_shifts`.
        name: Which shift.
        severity: How far.
        n: How many images.
        folder: Where the file of networks and the .npz of images lie, where they are one's own.

    Raises:
        RecordError: If the network's weights, or the images, are not those of the record.
    """
    settings = table.attrs["settings"]
    model, images = as_recorded(settings, folder)
    return _measured(model, images.head(n), name, severity, settings)


def _measured(model: nn.Module, images: Images, name: str, severity: int, settings: dict) -> pd.DataFrame:
    """Margins of images in one guise."""
    if severity:
        images = replace(images, inputs=shift(images.inputs, severity, name=name, seed=settings["seed"]))
    options = {key: settings[key] for key in ("norm", "effort", "seed")}
    table = measure_images(model, images, **options)[COLUMNS]
    table.insert(0, "shift", name)
    table.insert(1, "severity", severity)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure some networks."""
    parser = Parser(prog="margincons.studies.shift_runs", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="ids, or path/to/file.py:function")
    parser.add_argument("--data", default="digits", help="digits (default), another data set, or an .npz")
    parser.add_argument("--judged", type=count, default=200, help="the first images, which are shifted (default: 200)")
    parser.add_argument("--norm", default="Linf")
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--out", default="runs", help="folder of records (default: runs)")
    given = vars(parser.parse_args(arguments))
    data = given.pop("data")
    for model_id in given.pop("models"):
        table = obtain_shifts(model_id, data, **given)
        print(f"{model_id}: {len(table)} margins")


if __name__ == "__main__":
    sys.exit(outcome(main, name="shift_runs"))
