"""A Dask cluster of real processes on the loopback gives the record of a local run, even when a worker is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from pandas.testing import assert_frame_equal

from margincons.cluster import connected
from margincons.errors import ClusterError
from margincons.measure import measure
from margincons.records import read_shard

pytest.importorskip("distributed")
OPTIONS = {"effort": "fast", "batch_size": 20, "shard_size": 20, "limit": 240, "device": "cpu", "progress": False}
SLOW = """
import time
from margincons.zoo import load_model

def slow():
    model = load_model("digits/mlp")
    model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    return model
"""
NEVER_TWICE_THE_SAME = """
import torch
from margincons.zoo import load_model

def new():
    model = load_model("digits/mlp")
    next(model.parameters()).data += 1e-5 * torch.rand(())
    return model
"""


@contextmanager
def process(*arguments, until):
    """A process of this Python, once a line of its log matches."""
    command, one_thread = [sys.executable, "-m", *arguments], os.environ | {"OMP_NUM_THREADS": "1"}
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, **streams, env=one_thread, text=True) as running:
        try:
            for line in running.stderr:
                if found := re.search(until, line):
                    break
            else:
                pytest.fail(f"{arguments} ended without a line like {until}")
            yield running, found[0]
        finally:
            running.kill()
            running.stderr.close()


def worker(address, folder):
    options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder / "scratch"))
    return process("distributed.cli.dask_worker", address, *options, until="Registered to")


def test_a_cluster_gives_the_record_of_a_local_run_though_a_worker_is_killed_in_the_middle(tmp_path, monkeypatch):
    network = tmp_path / "nets.py"
    network.write_text(SLOW)
    model_id = f"{network}:slow"
    local = measure(model_id, "digits", out=tmp_path / "local", **OPTIONS)
    scheduler = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with (
        process(*scheduler, until=r"tcp://127\.0\.0\.1:\d+") as (_, address),
        worker(address, tmp_path) as (victim, _),
        worker(address, tmp_path),
        connected(scheduler=address) as client,
    ):
        done, room = [], sys.modules["margincons.measure"]

        def write_and_kill(shard, *arguments):
            written(shard, *arguments)
            done.append(shard)
            if len(done) == 3:
                time.sleep(0.05)  # into the next shard
                victim.send_signal(signal.SIGKILL)

        written = room.write
        monkeypatch.setattr(room, "write", write_and_kill)
        remote = measure(model_id, "digits", out=tmp_path / "remote", client=client, **OPTIONS)
        assert len(done) == 12
        assert len(client.scheduler_info()["workers"]) == 1
    assert_frame_equal(remote, local, check_exact=True)
    assert remote.attrs["settings"] == local.attrs["settings"]
    assert sorted(path.name for path in (tmp_path / "remote").iterdir()) == [
        f"shard-{number:05d}.parquet" for number in range(12)
    ]
    made = read_shard(tmp_path / "remote" / "shard-00000.parquet")[1]["made"]
    assert made["machine"].endswith("1 threads")
    assert made["command"] == local.attrs["made"]["command"]


def test_a_worker_that_has_another_network_refuses_and_says_why(tmp_path):
    from distributed import Client

    network = tmp_path / "nets.py"
    network.write_text(NEVER_TWICE_THE_SAME)
    refusal = r"could not measure shard-0000\d\.parquet: Expected weights .*nets\.py:new"
    with (
        Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client,
        pytest.raises(ClusterError, match=refusal),
    ):
        measure(f"{network}:new", "digits", out=tmp_path / "record", client=client, **OPTIONS)
    assert list((tmp_path / "record").iterdir()) == []


def test_threads_of_one_worker_take_turns(tmp_path):
    from distributed import Client

    local = measure("digits/mlp", "digits", out=tmp_path / "local", **OPTIONS)
    with Client(processes=False, n_workers=1, threads_per_worker=4, dashboard_address=None) as client:
        remote = measure("digits/mlp", "digits", out=tmp_path / "remote", client=client, keep_images=True, **OPTIONS)
    assert_frame_equal(remote, local, check_exact=True)


def test_a_scheduler_that_is_not_there_is_named():
    with pytest.raises(ClusterError, match="Expected a Dask scheduler at nowhere, but"), connected(scheduler="nowhere"):
        pass


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"pip install 'margincons\[dask\]'"), connected(workers=2):
        pass
    with connected() as client:
        assert client is None
