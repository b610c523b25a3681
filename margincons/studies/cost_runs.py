"""Runs that hold the cost model to account: priced, then measured, on networks from small to large.

``python -m margincons.studies.cost_runs FOLDER`` writes the record that the book shows, in about ten minutes on one
core: one shard per network, and those that are there are left alone.
"""

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from margincons.cli_outcome import outcome
from margincons.cli_values import Parser
from margincons.costs import predict
from margincons.data import load_images
from margincons.margins import input_margins
from margincons.records.once import made_once
from margincons.zoo import load_model
from margincons.zoo.robustbench import unloaded_robustbench

OURS = tuple(("minimum_norm", effort) for effort in ("fast", "standard", "fine"))
FAB = ("fab_paper", "standard")
RUNS = (  # network, as the paper's list names it; images; attacks: FAB only where it ends within minutes
    ("digits/trades", 200, (*OURS, FAB)),
    ("robustbench/cifar10/Linf/Addepalli2021Towards_RN18", 8, OURS),
    ("robustbench/cifar10/Linf/Addepalli2021Towards_RN18", 1, (FAB,)),
    ("robustbench/cifar100/Linf/Rice2020Overfitting", 4, OURS),
    ("robustbench/cifar10/Linf/Wang2023Better_WRN-28-10", 2, OURS[:2]),
)


def priced_and_measured(model: nn.Module, inputs: Tensor, runs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Price each run, then make it, in processor seconds: what else the machine does meanwhile does not count.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k), on the CPU; run it with one thread.
        inputs: Images of one batch.
        runs: Attacks and efforts.

    Returns:
        One row per run: "attack", "effort", "images", "gigaflop" (of one image, by the passes counted),
        "predicted backward" and "backward" (passes per image), "predicted" and "measured" (seconds).
    """
    rows = []
    for attack, effort in runs:
        cost = predict(
            model, inputs, images=len(inputs), attack=attack, effort=effort, norm="Linf", clock=time.process_time
        )
        started = time.process_time()
        bounds = input_margins(model, inputs, attack=attack, effort=effort)
        measured = time.process_time() - started
        forward, backward = bounds.forward_passes.mean().item(), bounds.backward_passes.mean().item()
        rows.append(
            {
                "attack": attack,
                "effort": effort,
                "images": len(inputs),
                "gigaflop": (forward * cost.work.forward + backward * cost.work.backward) / 1e9,
                "predicted backward": cost.passes.backward,
                "backward": backward,
                "predicted": cost.seconds,
                "measured": measured,
            }
        )
    return pd.DataFrame(rows)


def _network(model_id: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network and the shape of its images; RobustBench's with random weights, which cost the same."""
    if model_id.startswith("digits/"):
        return load_model(model_id), (1, 8, 8)
    torch.manual_seed(0)
    return unloaded_robustbench(model_id), (3, 32, 32)


def _rows(model_id: str, n: int, runs: Sequence[tuple[str, str]], first: int) -> pd.DataFrame:
    """Runs of one network on n images, numbered from the first on."""
    model, shape = _network(model_id)
    inputs = load_images("digits", n=n).inputs if shape == (1, 8, 8) else torch.rand(n, *shape)
    table = priced_and_measured(model, inputs, runs).assign(network=model_id)
    table.insert(0, "index", range(first, first + len(table)))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that a folder lacks."""
    parser = Parser(prog="margincons.studies.cost_runs", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the record")
    folder = parser.parse_args(arguments).folder
    torch.set_num_threads(1)
    settings, first = {"threads": 1, "device": "cpu"}, 0
    for place, (model_id, n, runs) in enumerate(RUNS):
        made_once(folder / f"shard-{place:05d}.parquet", settings, functools.partial(_rows, model_id, n, runs, first))
        first += len(runs)
    print(f"{folder}: {first} runs")


if __name__ == "__main__":
    sys.exit(outcome(main, name="cost_runs"))
