"""What a measurement costs beyond the bare attack: checks, verification, scores, records and progress.

Both sides see the same images in the same batches, in turn, in one process. The bare side is `minimum_norm.search`: it
returns candidates and verifies nothing. The other side is all of `measure`, with a bar that is drawn, from loading to
the table that is read back. Times are of the process, which has one thread, and of the wall; each pair of runs, one
right after the other, gives a ratio, and the median of the pairs is told with its interval. Passes through the network
are counted as well: they do not depend on what else the machine does.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

from margincons.attacks.minimum_norm import search
from margincons.classifier import Classifier
from margincons.data import Images, load_images
from margincons.measure import measure
from margincons.passes import CountPasses
from margincons.rows import measure_batch
from margincons.zoo import load_model

BATCH = 200
CNN = """
import torch
from torch import nn

def cnn():
    torch.manual_seed(0)
    widths, layers = (3, 32, 64, 64, 128), []
    for number, (narrow, wide) in enumerate(zip(widths, widths[1:])):
        layers += [nn.Conv2d(narrow, wide, 3, 1 + number % 2, 1), nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
"""


def main() -> None:
    """Measure both sides for each network and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--images", type=int, default=3200, help="shaken digits; an eighth as many for the larger network"
    )
    parser.add_argument("--effort", default="standard")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / "nets.py").write_text(CNN)
        cnn, noise, shaken = f"{folder / 'nets.py'}:cnn", folder / "noise.npz", folder / "shaken.npz"
        rng, digits = np.random.default_rng(0), load_images("digits")
        pixels = rng.integers(256, size=(options.images // 8, 3, 32, 32), dtype=np.uint8)
        with torch.no_grad():
            labels = load_model(cnn).eval()(torch.from_numpy(pixels).float() / 255).argmax(dim=1)
        np.savez(noise, x=pixels, y=labels.numpy())
        rows = np.arange(options.images) % len(digits)
        x = digits.inputs.numpy()[rows] + rng.uniform(-0.05, 0.05, (len(rows), 1, 8, 8)).astype(np.float32)
        np.savez(shaken, x=x.clip(0, 1), y=digits.labels.numpy()[rows])
        for model_id, data, n in (("digits/trades", str(shaken), len(x)), (cnn, str(noise), len(pixels))):
            print(compare(model_id, data, n, repeats=options.repeats, effort=options.effort, root=folder), flush=True)


def compare(model_id: str, data: str, n: int, *, repeats: int, effort: str, root: Path) -> str:
    """One line: seconds of both sides, and what `measure` adds in percent."""
    model, images = load_model(model_id), load_images(data, n=n)
    with torch.no_grad():
        labels = model(images.inputs).argmax(dim=1)
    rows = torch.arange(n).split(BATCH)

    def bare(model: nn.Module = model) -> None:
        for part in rows:
            search(model, images.inputs[part], labels[part], effort=effort, indices=part)

    def full() -> None:
        with tempfile.TemporaryDirectory(dir=root) as out:
            measure(model_id, data, out=out, effort=effort, limit=n, batch_size=BATCH, shard_size=BATCH, device="cpu")

    clock(bare)  # what is loaded and cached at first belongs to neither side
    clock(full)
    pairs = []
    for number in range(repeats):  # the side that goes first alternates: a machine that warms up favours neither
        order = (bare, full) if number % 2 else (full, bare)
        taken = {side: clock(side) for side in order}
        pairs.append([taken[bare], taken[full]])
    times = np.array(pairs)  # (pair, side, clock)
    added = 100 * (times[:, 1] / times[:, 0] - 1)
    low, high = stats.quantile_test(added[:, 0]).confidence_interval()  # of the median; needs six pairs or more
    (bare_cpu, bare_wall), (full_cpu, full_wall) = np.median(times, axis=0)
    bare_passes, full_passes = (passes(work, model, images, rows, effort) for work in (bare, None))
    return (
        f"{Path(model_id).name}, {n} images, {effort}, {repeats} pairs: bare attack {bare_cpu:.2f} s (wall "
        f"{bare_wall:.2f}), measure {full_cpu:.2f} s (wall {full_wall:.2f}): {np.median(added[:, 0]):+.1f}% "
        f"[{low:+.1f}, {high:+.1f}] of the process's time, {np.median(added[:, 1]):+.1f}% of the wall's, "
        f"{100 * (full_passes / bare_passes - 1):+.1f}% of the passes"
    )


def passes(work: Callable | None, model: nn.Module, images: Images, rows: Sequence[torch.Tensor], effort: str) -> int:
    """Images that pass forward or backward during the bare attack, or during the measurement of the same batches."""
    counted = CountPasses(model)
    if work is not None:
        work(counted)
    else:
        classifier = Classifier(counted, images.inputs[:2])
        settings = {"norm": "Linf", "attack": "minimum_norm", "effort": effort, "seed": 0, "epsilon": None}
        for part in rows:
            measure_batch(classifier, images, part, settings)
    return counted.forward_images + counted.backward_images


def clock(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the process and of the wall."""
    process, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - process, time.perf_counter() - wall


if __name__ == "__main__":
    sys.exit(main())
