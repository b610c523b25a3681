"""Does memory grow with the number of images? 10,000 and 100,000 synthetic images stream through, each in a process.

The images are 3x32x32 bytes in an uncompressed .npz, which stays on disk; the network is one linear layer, the attack
FGSM, so that images and records are what there is to hold. The peak is the process's own: what it had resident at most.

    OMP_NUM_THREADS=1 python benchmarks/memory.py
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

NETWORK = """
import torch
from torch import nn

def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
"""
BAR = 1.5


def main() -> int:
    """Measure both sizes; 1 where the larger takes more than `BAR` times the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs=2, default=(10_000, 100_000), metavar=("FEW", "MANY"))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the process that measures
    options = parser.parse_args()
    if options.folder:
        return stream(options.folder)
    peaks = []
    for n in options.images:
        with tempfile.TemporaryDirectory() as root:
            save(Path(root), n)
            command = [sys.executable, __file__, "--folder", root]
            peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(f"{n} images: {peaks[-1] / 1024:.0f} MiB at most", flush=True)
    ratio = peaks[1] / peaks[0]
    print(f"ratio {ratio:.2f}, the bar is {BAR}")
    return int(ratio > BAR)


def save(folder: Path, n: int) -> None:
    """Write images, labels and the network."""
    (folder / "nets.py").write_text(NETWORK)
    rng = np.random.default_rng(0)
    np.savez(folder / "noise.npz", x=rng.integers(256, size=(n, 3, 32, 32), dtype=np.uint8), y=np.arange(n) % 10)


def stream(folder: Path) -> int:
    """Measure, and print the peak in KiB."""
    import warnings

    from margincons.cautions import ChanceAccuracyWarning
    from margincons.measure import measure

    warnings.simplefilter("ignore", ChanceAccuracyWarning)  # noise has no labels
    options = {"attack": "fgsm", "epsilon": 0.01, "device": "cpu", "shard_size": 1000, "progress": False}
    measure(f"{folder / 'nets.py'}:linear", str(folder / "noise.npz"), out=folder / "record", **options)
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent held before exec
    print(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
