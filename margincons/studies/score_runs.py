"""Records of every score of a network, with what each costs.

``python -m margincons.studies.score_runs --out runs`` makes those of the bundled networks that the book shows, some
minutes each on one core; a network whose record is there is left alone, so that an interrupted run goes on with the
next.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from margincons.cli_outcome import outcome
from margincons.cli_values import Parser, count, number
from margincons.costly_scores.clever import CleverFits, clever_fits
from margincons.data import Images, load_images
from margincons.errors import RecordError, UsageError
from margincons.measure import record_folder
from margincons.prepare import portable_id
from margincons.recorded import as_recorded, data_as_recorded
from margincons.records import check_settings, read_record
from margincons.records.once import made_once
from margincons.studies.score_jobs import CERTIFIED, Settings, clever_options, learn_from, score_images
from margincons.zoo import load_model, state_sha256

BUNDLED = tuple(f"digits/{name}" for name in ("standard", "pgd_at", "trades", "ibp", "rescaled"))


def obtain_scores(
    model_id: str, data: str, *, limit: int | None = None, out: str | Path = "", settings: Settings | None = None
) -> pd.DataFrame:
    """Take the shipped scores of a network, or measure them into a folder of one's own.

    Args:
        model_id: What `load_model` takes; for the shipped scores "digits/<recipe>" or "cifar10/nets.<name>".
        data: What `load_images` takes. Images that scores may learn from are those of the split "train"; of a file,
            those after the first ``limit``.
        limit: The first images; all when None.
        out: "" for the shipped scores, else a folder of records.
        settings: What the scores are asked; the defaults of `Settings` unless given. Shipped ones have their own, and
            are refused where others are given.

    Returns:
        One row per image: "index", "label", "predicted" and a column per score that the network allows. In ``attrs``,
        "settings", and "made" with what an image "costs" by score, as `score_images` counts it.

    Raises:
        RecordError: If the scores there, or those shipped, were measured with other settings.
        LockedError: If another process is writing them.
        UsageError: If a file is given and no image of it is left to learn from.
    """
    asked = settings or Settings()
    if not out:
        name = _folder(Path("scores"), model_id, asked.norm)
        table = read_record(name.as_posix())
        if settings:
            check_settings(name, table.attrs["settings"], table.attrs["settings"] | asdict(settings))
        return table.head(limit or len(table))
    model = load_model(model_id)
    images, known = scored_and_known(data, limit)
    identity = {
        "model": portable_id(model_id),
        "weights_sha256": state_sha256(model),
        "data": images.name,
        "images": len(images),
        "data_sha256": images.checksum(),
        "known": known.name,
        "known_images": len(known),
        "known_sha256": known.checksum(),
    } | asdict(asked)
    path = _folder(Path(out) / "scores", model_id, asked.norm) / "shard-00000.parquet"

    def make() -> pd.DataFrame:
        table, costs = score_images(model, images, learn_from(model, known, asked), asked)
        table.attrs["costs"] = costs
        return table

    made_once(path, identity, make)
    return read_record(path.parent)


def scored_and_known(data: str, limit: int | None) -> tuple[Images, Images]:
    """Images to score, and others that scores may learn from."""
    if Path(data).suffix.lower() != ".npz":
        return load_images(data, n=limit), load_images(data, split="train")
    everything = load_images(data)
    if not limit or limit >= len(everything):
        raise UsageError(f"Expected a limit below {len(everything)}, so that images are left to learn from.")
    rest = replace(everything, inputs=everything.inputs[limit:], labels=everything.labels[limit:])
    return everything.head(limit), replace(rest, name=f"{everything.name} from {limit}/calibration")


def score_again(table: pd.DataFrame, rows: Sequence[int], *, folder: str | Path = "") -> pd.DataFrame:
    """Score some images of a record anew, with the record's own settings, on this machine.

    Args:
        table: From `obtain_scores`.
        rows: Which rows of the table.
        folder: Where the file of networks and the .npz of images lie, for a record of one's own networks.

    Raises:
        RecordError: If the network's weights, or the images, are not those of the record.
    """
    model, images, known, asked = _as_recorded(table, folder)
    places = table["index"].iloc[list(rows)].tolist()
    names = [name for name in table.attrs["made"]["costs"] if name in table]
    learned = learn_from(model, known, asked)
    return score_images(model, images, learned, asked, rows=places, names=names, progress=False)[0]


def clever_again(table: pd.DataFrame, rows: Sequence[int], *, folder: str | Path = "") -> CleverFits:
    """CLEVER of some images of a record once more, with what became of its fits; arguments and errors as above."""
    model, images, _, asked = _as_recorded(table, folder)
    places = torch.tensor(table["index"].iloc[list(rows)].tolist())
    return clever_fits(model, images.inputs[places], **clever_options(asked), indices=places)


def _as_recorded(table: pd.DataFrame, folder: str | Path) -> tuple[nn.Module, Images, Images, Settings]:
    """Network, scored images, known images and settings of a record, each held against its checksum."""
    found = table.attrs["settings"]
    model, images = as_recorded(found, folder)
    known = scored_and_known(data_as_recorded(found, folder), found["images"])[1]
    if known.checksum() != found["known_sha256"]:
        raise RecordError(f"Expected the images that the scores learned from, those of {found['known']} changed.")
    return model, images, known, Settings(**{name: found[name] for name in asdict(Settings())})


def with_scores(margins: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Join a record of margins and the scores of the same images of the same network, by index.

    Raises:
        RecordError: If weights or data differ, or an image was decided otherwise.
    """
    ours, theirs = margins.attrs["settings"], scores.attrs["settings"]
    if ours["weights_sha256"] != theirs["weights_sha256"] or ours["data"] != theirs["data"]:
        raise RecordError(
            f"Expected margins and scores of one network on one data set, got {ours['model']} on {ours['data']} and "
            f"{theirs['model']} on {theirs['data']}, or other weights of the same name."
        )
    both = margins[["index", "predicted", "upper"]].merge(scores, on="index", suffixes=("_in_margins", ""))
    if (differ := both["predicted"] != both["predicted_in_margins"]).any():
        raise RecordError(f"Expected the same decisions in both records, {differ.sum()} of {len(both)} differ.")
    return both.drop(columns="predicted_in_margins")


def costs_of(scores: pd.DataFrame) -> pd.DataFrame:
    """What an image costs, by score: "forward" and "backward" passes as counted, and the processor's "time".

    "time" is in forward passes: seconds over the median of the scores that take just one. "once" counts the passes
    that were made once, over other images, before any image could be scored.
    """
    costs = scores.attrs["made"]["costs"]
    table = pd.DataFrame.from_dict(costs, orient="index")[["forward", "backward", "seconds"]]
    free = (table["forward"] == 1) & (table["backward"] == 0) & ~table.index.isin(CERTIFIED)
    table["time"] = table["seconds"] / table.loc[free, "seconds"].median()
    table["once"] = [sum(cost.get("once", {}).values()) for cost in costs.values()]
    return table.drop(columns="seconds")


def _folder(root: Path, model_id: str, norm: str) -> Path:
    return record_folder(root, model_id, norm, "every_score")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the scores of some networks."""
    plain = Settings()
    parser = Parser(prog="margincons.studies.score_runs", description=__doc__)
    parser.add_argument("models", nargs="*", default=BUNDLED, metavar="MODEL", help="ids, or path/to/file.py:function")
    parser.add_argument("--data", default="digits", help="digits (default), another data set, or an .npz")
    parser.add_argument("--limit", type=count, help="score the first images only; of an .npz, learn from the others")
    parser.add_argument("--epsilon", type=number, default=plain.epsilon)
    parser.add_argument("--sigma", type=number, default=plain.sigma)
    parser.add_argument("--clever-samples", type=count, default=plain.clever_samples)
    parser.add_argument("--refine", type=count, default=plain.refine, help="of CROWN: less is faster and looser")
    parser.add_argument("--out", default="runs", help="folder of records (default: runs)")
    given = vars(parser.parse_args(arguments))
    torch.set_num_threads(1)  # processor seconds per image are then comparable
    where = {name: given.pop(name) for name in ("data", "limit", "out")}
    for model_id in given.pop("models"):
        table = obtain_scores(model_id, settings=Settings(**given), **where)
        print(f"{model_id}: {len(table)} images, {len(table.attrs['made']['costs'])} scores")


if __name__ == "__main__":
    sys.exit(outcome(main, name="score_runs"))
