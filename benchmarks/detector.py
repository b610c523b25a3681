"""What a detector costs beyond the plain forward pass of its network.

Three sides see the same images in turn, in one process with one thread: the network alone; the network, then score and
flags; and `detector(images)`, which checks the pixel range and the shape as well. Each of five blocks keeps the least
time of either side over its rounds, since whatever else the machine does only adds to it, and gives one ratio; printed
are their median, least and largest. The digits network is the hard case: its pass takes 4 microseconds an image.

    OMP_NUM_THREADS=1 python benchmarks/detector.py
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from margincons.classifier import Outputs
from margincons.data import load_images
from margincons.detector import Detector
from margincons.zoo import load_model

BATCH = 256  # images per forward pass, on all sides
BLOCKS = 5
SCORES = ("logit_margin", "feature_margin")


def main() -> None:
    """Measure each network, score and number of images, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="of each block")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 32, 256, 800])
    options = parser.parse_args()
    torch.set_num_threads(1)
    digits, noise = load_images("digits").inputs, torch.rand(800, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, model, images in (
        ("conv net, 3x32x32", cnn(), noise),
        ("digits/trades", load_model("digits/trades"), digits),
    ):
        for score in SCORES:
            for n in options.images:
                print(compare(name, model, images, score, n, rounds=options.rounds), flush=True)


def cnn() -> nn.Module:
    """Four convolutions and a linear layer for images (n, 3, 32, 32): 112,000 parameters, with random weights."""
    torch.manual_seed(0)
    widths, layers = (3, 32, 64, 64, 128), []
    for number, (narrow, wide) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(narrow, wide, 3, 1 + number % 2, 1), nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)).eval()


def compare(name: str, model: nn.Module, images: Tensor, score: str, n: int, *, rounds: int) -> str:
    """One line: milliseconds of the plain pass over n images, and what score and detector add in percent."""
    margins = torch.linspace(0, 0.2, len(images))  # any: what is timed does not depend on them
    detector = Detector.calibrate(model, images, margins=margins, epsilon=0.1, score=score)
    batches = images[:n].split(BATCH)

    @torch.no_grad()
    def plain() -> Tensor:
        return torch.cat([model(batch) for batch in batches])

    @torch.no_grad()
    def scored() -> Tensor:
        return detector.thresholds.flagged(detector.scorer(Outputs(logits=plain(), features=None)))

    sides = (plain, scored, lambda: detector(images[:n], batch_size=BATCH))
    for side in sides:
        clock(side, repeats=3)
    repeats = max(
        1, round(0.002 / clock(plain, repeats=5))
    )  # 2 ms or more per timing, so that the clock is fine enough
    rng, times = np.random.default_rng(0), np.empty((BLOCKS, rounds, 3))
    for row in times.reshape(-1, 3):
        for side in rng.permutation(3):
            row[side] = clock(sides[side], repeats=repeats)
    least = times.min(axis=1)  # (blocks, sides)
    ratios = 100 * (least[:, 1:] / least[:, :1] - 1)
    added = [f"{np.median(r):+.2f}% ({r.min():+.2f} to {r.max():+.2f})" for r in ratios.T]
    pass_ms = 1000 * least[:, 0].min()
    return f"{name}, {score}, {n} images: pass {pass_ms:.3f} ms; score and flags {added[0]}, detector {added[1]}"


def clock(work: Callable[[], object], *, repeats: int) -> float:
    """Seconds of the process per call: it has one thread, and others may use the machine."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


if __name__ == "__main__":
    sys.exit(main())
