"""Running a detector over a folder or a data set: one row per image, and a sheet of the most brittle."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from margincons import plots
from margincons.brief import Brief
from margincons.data import load_images, load_unlabelled
from margincons.data.decoding import Decoded
from margincons.data.pictures import PICTURES, decode_pictures
from margincons.detector import Detector
from margincons.errors import FileFormatError, MissingFileError
from margincons.records.atomic import written_whole

COLOURS = {"brittle": plots.BRITTLE, "robust": plots.ROBUST, "undecided": "#444444"}
BATCH = 256


@dataclass(frozen=True, kw_only=True, repr=False)
class NamedImages(Brief):
    """Images without labels, each with a name: its file, or its place in a data set."""

    inputs: Tensor | Decoded  # (n, c, h, w), float32, [0, 1]
    names: list[str]  # (n,)


def open_images(
    data: str, detector: Detector, *, split: str = "test", limit: int | None = None, download: bool = False
) -> NamedImages:
    """Open a folder of pictures, in subfolders or not, in the order of their paths; or what `load_images` takes.

    Labels are not needed: an .npz may hold ``x`` alone.

    Pictures are read in as many channels as the detector's network takes, and decoded when their turn comes.

    Raises:
        MissingFileError: If there is no such folder.
        FileFormatError: If it holds no picture, or one that cannot be read.
        UnknownNameError: If a data set or split does not exist.
    """
    folder = Path(data)
    if not folder.is_dir():
        if os.sep in str(data) and not folder.exists():
            raise MissingFileError(folder, "folder of images")
        if Path(data).suffix.lower() == ".npz":
            inputs = load_unlabelled(data, split=split, n=limit)
        else:
            inputs = load_images(data, split=split, n=limit, download=download, lazy=True).inputs
        return NamedImages(inputs=inputs, names=[str(row) for row in range(len(inputs))])
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)[: limit or None]
    if not files:
        raise FileFormatError(folder, f"pictures ({', '.join(PICTURES)})", "none")
    channels, *shape = detector.image_shape
    inputs, _ = decode_pictures(files, grey=channels == 1, shape=tuple(shape))
    return NamedImages(inputs=inputs, names=[path.relative_to(folder).as_posix() for path in files])


def detect(detector: Detector, images: NamedImages) -> pd.DataFrame:
    """Decide on each image: columns "image", "predicted", the score under its name, and "decision"; most brittle first.

    Raises:
        PixelRangeError: If a pixel leaves [0, 1].
        ShapeError: If the images are not shaped as those of the calibration.
    """
    parts = []
    for start in range(0, max(1, len(images.inputs)), BATCH):  # no images make an empty table
        found = detector.decide(images.inputs[start : start + BATCH])
        scores = found.scores.double().cpu().numpy()  # numpy knows no bfloat16
        columns = {"predicted": found.predicted.cpu().numpy(), detector.scorer.name: scores, "decision": found.names}
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "image", images.names)
    order = (detector.scorer.sign * table[detector.scorer.name]).fillna(-np.inf).argsort(kind="stable")
    return table.iloc[order]  # its index stays the place among the images


def write_results(out: Path, table: pd.DataFrame, images: NamedImages, *, worst: int = 25) -> tuple[Path, Path]:
    """Write the table as detected.csv and the sheet as most_brittle.png; the paths of both.

    Args:
        out: Folder, created where it is missing.
        table: From `detect`.
        images: The images that it is of.
        worst: Pictures on the sheet, the most brittle first.
    """
    paths = out / "detected.csv", out / "most_brittle.png"
    with written_whole(paths[0]) as file:
        table.to_csv(file, index=False, float_format="%.9g")
    figure = contact_sheet(table.head(worst), images)
    with written_whole(paths[1]) as file:
        figure.savefig(file, format="png", dpi=150)
    return paths


def contact_sheet(table: pd.DataFrame, images: NamedImages) -> Figure:
    """Draw the images of a table of `detect`, each under its name, predicted class, score and decision."""
    plots.use_style()
    score = table.columns[2]
    across = min(5, len(table))
    down = math.ceil(len(table) / across)
    figure = Figure(figsize=(1.7 * max(across, 3), 2.15 * down + 0.4), layout="constrained")
    places = figure.subplots(down, across, squeeze=False).ravel()
    titles = [
        f"{_short(row.image)}\nclass {row.predicted}, {getattr(row, score):.3g}\n{row.decision}"
        for row in table.itertuples()
    ]
    plots.pictures(places[: len(table)], images.inputs[np.array(table.index)], titles)
    for place, decision in zip(places, table["decision"], strict=False):
        place.spines[:].set(color=COLOURS[decision], linewidth=2)
        place.images[0].set_cmap("gray")  # photographs are not drawn dark on white
    for place in places[len(table) :]:
        place.set_axis_off()
    figure.suptitle(f"Most brittle first, by {score.replace('_', ' ')}", fontsize=9)
    return figure


def _short(name: str, length: int = 22) -> str:
    """The end of a long name, which tells files of one folder apart; dollars in it are dollars, not a formula's."""
    end = name if len(name) <= length else f"...{name[3 - length :]}"
    return end.replace("$", r"\$")
