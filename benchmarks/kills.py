"""Kill a measurement with SIGKILL again and again, resume it, and see that nothing was lost, rewritten or left behind.

Every run measures into a new folder in a process of its own. Every other kill strikes at a random time; the rest wait
for a random shard and strike while a file is being written. Then the same measurement is asked for again, and

- every shard that was finished has the inode, the modification time and the bytes that it had;
- the table equals that of a run that was never interrupted in every value;
- the folder holds the shards and their images, and nothing else.

    python benchmarks/kills.py --runs 100
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from margincons.errors import ChecksumError, FileFormatError
from margincons.measure import measure
from margincons.records import read_record, read_shard
from margincons.records.kept_images import read_images
from margincons.records.locks import NAME as LOCK

SHARDS, SHARD_SIZE = 12, 5
SETTINGS = {
    "attack": "pgd",
    "effort": "fast",
    "epsilon": 0.1,
    "limit": SHARDS * SHARD_SIZE,
    "batch_size": SHARD_SIZE,
    "shard_size": SHARD_SIZE,
    "keep_images": True,
    "device": "cpu",
    "progress": False,
}


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What a kill hit."""

    in_progress: bool  # the record was held and not finished
    in_writing: bool  # a file was half written, or finished and not yet renamed
    finished: int  # shards


def main() -> int:
    """Kill, resume, check, and say what the kills hit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # of what is forked below, nothing may hold a lock
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        run(Path(root, "whole"))
        whole = time.perf_counter() - started
        kills = []
        for number in range(options.runs):
            folder = Path(root, f"killed-{number}")
            kills.append(kill(folder, whole, at_random=number % 2 == 0))
            resume(folder, Path(root, "whole"))
    print(
        f"{len(kills)} runs killed and resumed: {sum(one.in_progress for one in kills)} kills hit work in progress, "
        f"{sum(one.in_writing for one in kills)} of them while a file was being written; "
        f"{sum(one.finished for one in kills)} finished shards stayed as they were, every table is that of a run "
        "without interruption, no temporary file is left."
    )
    return 0


def run(folder: Path) -> None:
    """The measurement that is interrupted."""
    measure("digits/mlp", "digits", out=folder, **SETTINGS)


def kill(folder: Path, whole: float, *, at_random: bool) -> Kill:
    """Start the measurement in a process and kill it; `whole` is how long it takes, in seconds."""
    child = os.fork()
    if child == 0:
        try:
            run(folder)
        finally:
            os._exit(0)
    if at_random:
        time.sleep(random.uniform(0, whole))
    else:
        target, deadline = random.randrange(SHARDS), time.monotonic() + 60
        while len(list(folder.glob("*.parquet"))) < target and time.monotonic() < deadline:
            time.sleep(0.0005)
        while not any(folder.glob("*.tmp")) and time.monotonic() < deadline:
            pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    shards = len(list(folder.glob("*.parquet")))
    return Kill(
        in_progress=(folder / LOCK).exists() and shards < SHARDS,
        in_writing=any(folder.glob("*.tmp")),
        finished=shards,
    )


def resume(folder: Path, whole: Path) -> None:
    """Ask for the same again, and check what came of it."""
    before = {path: stamp(path) for path in folder.glob("*.parquet")}
    before |= {path: stamp(path) for shard in before for path in [shard.with_suffix(".safetensors")]}
    for path in before:
        if path.suffix == ".parquet":
            try:
                read_shard(path)
            except (ChecksumError, FileFormatError) as error:
                sys.exit(f"A finished shard is not whole: {error}")
    run(folder)
    for path, known in before.items():
        if stamp(path) != known:
            sys.exit(f"{path.name} was finished, and was written again.")
    if not read_record(folder).equals(read_record(whole)):
        sys.exit(f"The table of {folder.name} is not that of a run without interruption.")
    for one, other in zip(read_images(folder), read_images(whole), strict=True):
        if not (one == other).all():
            sys.exit(f"The images of {folder.name} are not those of a run without interruption.")
    if left := {path.name for path in folder.iterdir()} ^ {path.name for path in whole.iterdir()}:
        sys.exit(f"Expected the files of a run without interruption in {folder.name}, these differ: {sorted(left)}")


def stamp(path: Path) -> tuple[int, int, bytes]:
    """Inode, modification time and bytes of a file."""
    about = path.stat()
    return about.st_ino, about.st_mtime_ns, path.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
