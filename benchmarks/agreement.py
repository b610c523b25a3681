"""Do margins depend on the batch size or on the number of threads? Measured, for every bundled network.

Another batch or thread count changes the last digits of logits, and now and then the path of a search. Each network is
measured once as a reference and once with each other setting. Every bound is verified in its own run, and every
adversarial image of the reference is passed again in the other setting. Images whose margins differ by more than 1% are
listed.

    python benchmarks/agreement.py --images 200

The bars: 99% of margins within 0.1%, none beyond 1% that is not listed, Kendall's tau within 0.002, no witness lost.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from margincons.consistency import column
from margincons.measure import measure
from margincons.records.kept_images import read_images
from margincons.statistics.metrics import kendall_tau
from margincons.zoo import list_models, load_model

REFERENCE = (200, 1)  # batch size, threads
OTHERS = ((64, 1), (17, 1), (200, 2))


def main() -> int:
    """Measure, compare, list; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list_models("digits/"))
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--norm", default="Linf")
    parser.add_argument("--effort", default="standard")
    options = parser.parse_args()
    rows, listed = [], []
    with tempfile.TemporaryDirectory() as root:
        for number, model_id in enumerate(options.models):
            folder = Path(root, f"{number}-reference")
            reference = run(model_id, options, folder, *REFERENCE)
            images = torch.from_numpy(read_images(folder)[1])
            for batch_size, threads in OTHERS:
                folder = Path(root, f"{number}-{batch_size}-{threads}")
                other = run(model_id, options, folder, batch_size, threads)
                apart = difference(reference, other)
                lost = witnesses_lost(model_id, reference, images, batch_size)
                rows.append(
                    {
                        "network": model_id,
                        "batch size": batch_size,
                        "threads": threads,
                        "images": len(apart),
                        "equal": (apart == 0).mean(),
                        "within 0.1%": (apart <= 1e-3).mean(),
                        "beyond 1%": int((apart > 1e-2).sum()),
                        "tau differs by": abs(tau(reference) - tau(other)),
                        "witnesses lost": lost,
                    }
                )
                listed += [
                    {"network": model_id, "batch size": batch_size, "threads": threads, "index": i, "apart": apart[i]}
                    for i in np.flatnonzero(apart > 1e-2)
                ]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.4f}".format))
    print("\nBeyond 1%:", pd.DataFrame(listed).to_string(index=False) if listed else "none")
    share = (table["within 0.1%"] * table["images"]).sum() / table["images"].sum()
    worst = table["tau differs by"].max()
    print(f"\n{share:.2%} of {table['images'].sum()} margins within 0.1%; tau differs by {worst:.4f} at most")
    return int(share < 0.99 or worst > 0.002 or table["witnesses lost"].any())


def run(model_id: str, options: argparse.Namespace, folder: Path, batch_size: int, threads: int) -> pd.DataFrame:
    """One record."""
    torch.set_num_threads(threads)
    chosen = {"norm": options.norm, "effort": options.effort, "limit": options.images, "batch_size": batch_size}
    return measure(model_id, options.data, out=folder, device="cpu", keep_images=True, progress=False, **chosen)


def difference(reference: pd.DataFrame, other: pd.DataFrame) -> np.ndarray:
    """Relative difference of the margins, image by image, (n,); infinite where one run alone found a witness."""
    first, second = column(reference, "upper"), column(other, "upper")
    with np.errstate(invalid="ignore"):
        return np.where(first == second, 0.0, np.abs(first - second) / np.minimum(first, second))


def tau(table: pd.DataFrame) -> float:
    """Kendall's tau of the logit margin with the margin."""
    return kendall_tau(column(table, "upper"), column(table, "logit_margin"))


def witnesses_lost(model_id: str, reference: pd.DataFrame, images: torch.Tensor, batch_size: int) -> int:
    """Adversarial images of the reference that, in batches of this size, are given the predicted class."""
    model = load_model(model_id)
    with torch.no_grad():
        again = torch.cat([model(part).argmax(dim=1) for part in images.split(batch_size)]).numpy()
    return int((reference["success"] & (again == reference["predicted"])).sum())


if __name__ == "__main__":
    sys.exit(main())
