"""How long it takes to read a record of a million rows and to compute Kendall's tau and AUROC from it.

The record is synthetic: rows of a shipped one, drawn with replacement and shaken, in shards of --shard-size. Reading
checks every shard. Times are those of the wall and of the processor; other work on the machine lengthens the first.

    OMP_NUM_THREADS=1 python benchmarks/reading.py
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from margincons.records import provenance, read_record, write_shard
from margincons.statistics.intervals import estimate
from margincons.statistics.metrics import auroc, kendall_tau


def main() -> None:
    """Write the record, then time reading, point estimates and intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.rows, options.shard_size)
        clocks = [time.perf_counter(), time.process_time()]

        def lap(what: str) -> None:
            wall, processor = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
            print(f"{what}: {wall:.1f} s so far, {processor:.1f} s of the processor", flush=True)

        table = read_record(folder)
        lap(f"{len(table)} rows read")
        margins, scores = (table[name].to_numpy(dtype=float) for name in ("upper", "logit_margin"))
        tau, area = kendall_tau(margins, scores), auroc(margins <= 0.1, -scores)
        lap(f"tau {tau:.4f} and AUROC {area:.4f}")
        tau, area = estimate("kendall_tau", margins, scores), estimate("auroc", margins <= 0.1, -scores)
        print(f"tau {tau:.4f}, AUROC {area:.4f}")
        lap("with intervals")


def write(folder: Path, rows: int, shard_size: int) -> None:
    """Write the synthetic record."""
    rng = np.random.default_rng(0)
    shipped = read_record("digits/trades/Linf/minimum_norm")
    table = shipped.iloc[rng.integers(len(shipped), size=rows)].reset_index(drop=True).assign(index=np.arange(rows))
    for name in table.select_dtypes("floating"):
        table[name] *= (1 + 0.05 * rng.standard_normal(rows)).astype(table[name].dtype)
    made = provenance()
    for number, start in enumerate(range(0, rows, shard_size)):
        shard = folder / f"shard-{number:05d}.parquet"
        write_shard(shard, table.iloc[start : start + shard_size], {"images": rows}, made)


if __name__ == "__main__":
    sys.exit(main())
