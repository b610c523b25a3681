"""The command line: `margincons COMMAND`, one of `EXAMPLES`. It only parses, calls and prints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from margincons.cautions import remembered
from margincons.cli_detector import DETECTOR_EXAMPLES, add_calibrate, add_detect, run_calibrate, run_detect
from margincons.cli_outcome import outcome
from margincons.cli_values import Parameter, Parser, batch_size, count, number, seconds, seed, whole
from margincons.errors import UnknownNameError

EXAMPLES = {
    "book": "margincons book --profile digits -p n_images 200",
    "measure": "margincons measure digits/trades nets.py:my_net --data digits --effort fine --out runs",
    "report": "margincons report digits/trades/Linf/minimum_norm --epsilon 0.1",
    "fit": "margincons fit digits/rescaled --data digits --epsilon 0.1 --splits train calibration --out runs",
    "models": "margincons models robustbench/cifar10/Linf",
    "train": "margincons train digits/pgd_at",
    **DETECTOR_EXAMPLES,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0; 1 when work failed (a page, a retrained network that disagrees); 2 for wrong use.
    """
    options = _parser().parse_args(arguments)
    return outcome(lambda: options.run(options))


def _book(options: argparse.Namespace) -> int | None:
    from margincons.book import build_book

    return build_book(
        profile=options.profile,
        parameters=dict(options.parameter),
        pages=options.page or None,
        jobs=options.jobs,
        dry_run=options.dry_run,
        force=options.force,
    )


def _measure(options: argparse.Namespace) -> None:
    from margincons.cluster import connected
    from margincons.measure import record_folder

    run = _price if options.dry_run else _measure_one
    taken = ("norm", "attack", "effort", "epsilon", "certificate", "time_limit", "split", "limit", "seed")
    taken += ("batch_size", "shard_size", "device", "download", "keep_images")
    asked = {name: getattr(options, name) for name in taken}
    named = {name: asked[name] for name in ("norm", "attack", "certificate", "split")}
    with connected(scheduler=options.scheduler, workers=options.workers) as client:
        for model_id in options.models:
            run(model_id, options.data, record_folder(options.out, model_id, **named), client=client, **asked)


def _measure_one(model_id: str, data: str, out: Path, **asked: Any) -> None:
    from margincons.measure import measure

    table = measure(model_id, data, out=out, **asked)
    found = int(table["success"].sum())
    print(f"{out}: {len(table)} images, {found} verified witnesses, {len(table) - found} without one")


def _price(model_id: str, data: str, out: Path, **asked: Any) -> None:
    from margincons.costs import duration, price

    cost = price(model_id, data, out=out, **asked)
    print(f"{model_id}: {cost}")
    if not cost.images:
        return
    if asked["certificate"] == "exact":
        most = duration(cost.images * asked["time_limit"])
        print(f"{model_id}: exact margins take {asked['time_limit']:g} s an image at most, {most} in all")
    elif asked["certificate"]:
        print(f"{model_id}: lower bounds by {asked['certificate']} come on top and are not priced")


def _report(options: argparse.Namespace) -> None:
    from margincons.records import read_record
    from margincons.report import as_text, report, unanswered, unfound
    from margincons.threat import ThreatModel

    tables = {name: read_record(name) for name in options.records}
    for table in tables.values():
        ThreatModel(norm=table.attrs["settings"].get("norm", "L2"), epsilon=options.epsilon)  # refuses 8 for 8/255
    rows = report(tables, epsilon=options.epsilon, score=options.score)
    print(as_text(rows, options.form).rstrip("\n"))
    notes = [*unanswered(tables, epsilon=options.epsilon), *unfound(tables), *remembered(tables)]
    print(*(f"margincons: {line}\n" for line in notes), sep="", end="", file=sys.stderr)


def _fit(options: argparse.Namespace) -> None:
    from margincons.studies.pseudo_margin_fits import obtain_fits

    for model_id in options.models:
        table = obtain_fits(
            model_id,
            options.data,
            norm=options.norm,
            epsilon=options.epsilon,
            attack=options.attack,
            effort=options.effort,
            records=options.records,
            out=options.out,
            splits=options.splits,
            seeds=options.seeds,
            n_fit=options.limit,
            device=options.device,
        )
        print(f"{model_id}: {len(table)} pseudo-margins fitted and judged")


def _models(options: argparse.Namespace) -> None:
    from margincons.zoo import list_models

    models = list_models(options.prefix)
    if not models:
        raise UnknownNameError("start of an id", options.prefix, list_models())
    print("\n".join(models))


def _train(options: argparse.Namespace) -> int:
    from margincons.zoo.training import retrain

    outcomes = [retrain(model_id, out=options.out, seed=options.seed, progress=True) for model_id in options.models]
    print("\n".join(str(outcome) for outcome in outcomes))
    return 0 if all(outcome.agrees for outcome in outcomes) else 1


def _add_fit(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("models", nargs="+", metavar="MODEL", help="an id of the zoo")
    fit.add_argument("--data", required=True, help="digits, cifar10, cifar100 or imagenet")
    fit.add_argument("--norm", default="Linf", help="Linf (default), L2 or L1")
    fit.add_argument("--epsilon", type=number, required=True, help="brittle means margin <= epsilon: 0.1, 8/255")
    fit.add_argument("--attack", default="minimum_norm", help="attack that measured the margins")
    fit.add_argument("--effort", default="exhaustive", help="its effort (default: exhaustive, as shipped)")
    fit.add_argument("--records", default="", help="folder of records to measure into (default: those shipped)")
    fit.add_argument("--splits", nargs="+", default=["train"], help="splits to learn from (default: train)")
    fit.add_argument("--seeds", type=count, default=5, help="fits per design (default: 5)")
    fit.add_argument("--limit", type=count, help="only the first images of each split to learn from")
    fit.add_argument("--out", default="runs", help="folder of the fits (default: runs)")
    fit.add_argument("--device", default="auto", help="auto (default), cpu or cuda")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="margincons", description=sys.modules["margincons"].__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary, epilog=f"example: {EXAMPLES[name]}")
        added.set_defaults(run=run)
        return added

    book = command("book", _book, "Execute the pages through papermill and build the book into _build/html.")
    book.add_argument("--profile", default="digits", help="notebooks/params/PROFILE.yaml (default: digits)")
    book.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action=Parameter,
        default=[],
        metavar=("NAME", "VALUE"),
        help="set one page parameter",
    )
    book.add_argument("--page", action="append", default=[], help="only this page; may be repeated")
    book.add_argument("--jobs", type=whole, default=2, help="pages executed side by side (default: 2)")
    book.add_argument("--dry-run", action="store_true", help="list what would be executed and downloaded")
    book.add_argument("--force", action="store_true", help="execute pages that are up to date too")

    measure = command("measure", _measure, "Measure the margins of networks on images and keep them as records.")
    measure.add_argument("models", nargs="+", metavar="MODEL", help="an id of the zoo, or path/to/file.py:function")
    measure.add_argument(
        "--data",
        required=True,
        help="digits, cifar10, cifar100, imagenet, an .npz with x and y, or a folder with one subfolder per class: "
        "pictures are read in three channels, as they are if all have one size of at most 224 x 224, else resized to "
        "256 and cropped to 224 x 224; an .npz keeps any shape",
    )
    measure.add_argument("--norm", default="Linf", help="Linf (default), L2 or L1")
    measure.add_argument(
        "--attack",
        default="minimum_norm",
        help="minimum_norm (default) or a FAB; autoattack, pgd, fgsm need --epsilon",
    )
    measure.add_argument("--effort", default="standard", help="fast, standard (default), fine or exhaustive")
    measure.add_argument("--epsilon", type=number, help="budget of an attack that has one, such as 8/255")
    measure.add_argument("--certificate", help="lower bounds of a ReLU network: interval, crown or exact")
    measure.add_argument("--time-limit", type=seconds, default=60.0, help="seconds per image for exact (default: 60)")
    measure.add_argument("--out", type=Path, default=Path("runs"), help="folder of records (default: runs)")
    measure.add_argument("--split", default="test", help="test (default), train, or calibration (digits only)")
    measure.add_argument("--limit", type=count, help="only the first images (default: all)")
    measure.add_argument("--seed", type=seed, default=0)
    measure.add_argument(
        "--batch-size",
        type=batch_size,
        default="auto",
        metavar="N",
        help="images per batch, or auto (default): 200; halved, with a notice, when memory runs out",
    )
    measure.add_argument(
        "--shard-size",
        type=whole,
        default=200,
        help="images per file of the record, 200 by default; an interruption loses an unfinished one",
    )
    measure.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    measure.add_argument(
        "--dry-run", action="store_true", help="check, and say how long it would take; measure nothing"
    )
    measure.add_argument("--keep-images", action="store_true", help="keep the adversarial images beside each shard")
    where = measure.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="send shards to this Dask cluster: tcp://10.0.0.1:8786")
    where.add_argument("--workers", type=count, metavar="N", help="measure in N processes on this machine, with Dask")
    measure.add_argument("--download", action="store_true", help="allow downloads of checkpoints and data sets")

    report = command("report", _report, "Print consistency and detection, with intervals, for one or more records.")
    report.add_argument("records", nargs="+", metavar="RECORD", help="a folder, or the name of a shipped record")
    report.add_argument("--epsilon", type=number, required=True, help="brittle means margin <= epsilon: 0.1, 8/255")
    form = report.add_mutually_exclusive_group()
    for name in ("csv", "markdown", "latex"):
        form.add_argument(f"--{name}", action="store_const", const=name, dest="form", help=f"print the table as {name}")
    report.set_defaults(form="text")
    report.add_argument("--score", default="logit_margin", help="column that scores robustness")

    _add_fit(
        command("fit", _fit, "Fit pseudo-margins to labelled margins in many ways, and judge them on test images.")
    )

    add_calibrate(
        command("calibrate", run_calibrate, "Calibrate a detector of brittle decisions on images of known margin.")
    )
    add_detect(command("detect", run_detect, "Flag brittle decisions on images: a table, and a sheet of the worst."))

    models = command("models", _models, "List the networks that have an id.")
    models.add_argument("prefix", nargs="?", default="", help="only ids that start with this")

    train = command("train", _train, "Train bundled networks again and hold the outcome against the recorded one.")
    train.add_argument("models", nargs="+", metavar="ID", help="digits/<recipe>")
    train.add_argument("--out", default="runs/train", help="folder for the weights (default: runs/train)")
    train.add_argument("--seed", type=seed, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
