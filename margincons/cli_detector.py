"""The commands of the detector: `margincons calibrate` makes one, `margincons detect` runs it."""

import argparse
from pathlib import Path

from margincons.cli_values import count, number, seed
from margincons.errors import UsageError

DETECTOR_EXAMPLES = {
    "calibrate": "margincons calibrate digits/trades --data digits --epsilon 0.1 --out detector.safetensors",
    "detect": "margincons detect detector.safetensors digits/trades --data my/photographs --out runs/detect",
}


def add_calibrate(calibrate: argparse.ArgumentParser) -> None:
    """Declare the options of `margincons calibrate`."""
    calibrate.add_argument("model", metavar="MODEL", help="an id of the zoo, or path/to/file.py:function")
    calibrate.add_argument("--data", required=True, help="images that the network was not trained on, as for measure")
    calibrate.add_argument("--epsilon", type=number, required=True, help="brittle means margin <= epsilon: 0.1, 8/255")
    calibrate.add_argument(
        "--miss-rate",
        type=number,
        default=0.1,
        help="promised share of brittle images that pass (default: 0.1)",
    )
    calibrate.add_argument(
        "--false-alarm-rate",
        type=number,
        help="promised share of robust images called brittle (default: none)",
    )
    calibrate.add_argument(
        "--score",
        default="logit_margin",
        help="what is thresholded (default: logit_margin); pseudo_margin is fitted first, to the margins of --train",
    )
    calibrate.add_argument(
        "--train", metavar="RECORD", help="record of training images that pseudo_margin is fitted to"
    )
    calibrate.add_argument("--train-data", metavar="DATA", help="its images, where they are a file or folder of yours")
    calibrate.add_argument("--record", help="record that holds the margins (default: measure them, resumably)")
    calibrate.add_argument("--norm", help="Linf, L2 or L1 (default: that of the record; without one, Linf)")
    measured = calibrate.add_argument_group("how margins are measured where no --record holds them")
    measured.add_argument("--attack", default="minimum_norm", help="minimum_norm (default) or a FAB")
    measured.add_argument("--effort", default="standard", help="fast, standard (default), fine or exhaustive")
    measured.add_argument("--records", type=Path, default=Path("runs"), help="folder to measure into (default: runs)")
    calibrate.add_argument("--out", type=Path, default=Path("detector.safetensors"), help="file of the detector")
    calibrate.add_argument("--seed", type=seed, default=0)
    _add_where(calibrate)


def add_detect(detect: argparse.ArgumentParser) -> None:
    """Declare the options of `margincons detect`."""
    detect.add_argument("detector", metavar="DETECTOR", help="file that calibrate wrote")
    detect.add_argument("model", metavar="MODEL", help="the network that it was calibrated on")
    detect.add_argument("--data", required=True, help="a folder of pictures, an .npz with x, or what measure takes")
    detect.add_argument("--out", type=Path, default=Path("runs/detect"), help="folder of results (runs/detect)")
    detect.add_argument("--worst", type=count, default=25, help="pictures on the sheet (default: 25)")
    _add_where(detect)


def _add_where(command: argparse.ArgumentParser) -> None:
    command.add_argument("--split", default="test", help="test (default), or calibration (digits only)")
    command.add_argument("--limit", type=count, help="only the first images (default: all)")
    command.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    command.add_argument("--download", action="store_true", help="allow downloads of checkpoints and data sets")


def run_calibrate(options: argparse.Namespace) -> None:
    """Run `margincons calibrate`."""
    from margincons.detector.calibration import calibrate_detector
    from margincons.records.atomic import check_target

    check_target(options.out, "the detector")
    taken = ("epsilon", "miss_rate", "false_alarm_rate", "score", "record", "norm", "attack", "effort", "records")
    taken += ("seed", "split", "limit", "device", "download", "train", "train_data")
    detector = calibrate_detector(options.model, options.data, **{name: getattr(options, name) for name in taken})
    detector.save(options.out)
    brittle = f"brittle means {detector.norm} margin <= {detector.thresholds.epsilon:.4g}"
    print(f"{options.out}: {detector.thresholds}; {brittle}")


def run_detect(options: argparse.Namespace) -> None:
    """Run `margincons detect`."""
    from margincons.detector import Detector
    from margincons.detector.folders import detect, open_images, write_results
    from margincons.devices import choose_device
    from margincons.zoo import load_model

    if options.out.is_file():
        raise UsageError(f"Expected {options.out} to be the folder of the results, it is a file.")
    model = load_model(options.model, download=options.download).to(choose_device(options.device))
    detector = Detector.load(options.detector, model)
    images = open_images(options.data, detector, split=options.split, limit=options.limit, download=options.download)
    table = detect(detector, images)
    files = write_results(options.out, table, images, worst=options.worst)
    counts = ", ".join(f"{count} {name}" for name, count in table["decision"].value_counts().items())
    print(f"{files[0]}: {len(table)} images, {counts}; the most brittle in {files[1]}")
