"""Shards on a Dask cluster: each is a task of its own, a lost worker costs only the ones it was measuring.

Workers load the network and the images by their names and check both against the record's checksums. They send tables
back; one process, the one that asked, writes the record.
"""

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from margincons.classifier import Classifier
from margincons.data import Images, load_images
from margincons.errors import ChecksumError, ClusterError, MarginError
from margincons.records import provenance
from margincons.shards import Measured, Shard, measure_shard
from margincons.zoo import load_model, state_sha256

if TYPE_CHECKING:
    from distributed import Client

_ONE_AT_A_TIME = threading.Lock()  # a worker of several threads still has one network, watched by one measurement
RETRIES = 3  # of a task that fails; a task whose worker is lost goes to another one as often


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs besides the rows; small, and picklable."""

    model_id: str
    data: str
    split: str
    settings: dict[str, Any]  # of the record
    batch_size: int  # to start with
    made: dict[str, Any]  # what the asking process says about how the record is made


@contextmanager
def connected(*, scheduler: str | None = None, workers: int | None = None) -> Iterator["Client | None"]:
    """Connect to a running scheduler, or start so many worker processes here; None where neither is asked for.

    Args:
        scheduler: Its address, such as tcp://10.0.0.1:8786.
        workers: How many processes to start on this machine, one thread each.

    Raises:
        ClusterError: If Dask is not installed or the scheduler does not answer.
    """
    if scheduler is None and workers is None:
        yield None
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ClusterError("Expected Dask, it is not installed: pip install 'margincons[dask]'.") from None
    if scheduler is None:
        options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options, silence_logs=logging.CRITICAL) as cluster, Client(cluster) as client:
            yield client
        return
    try:
        client = Client(scheduler, timeout="20s")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ClusterError(f"Expected a Dask scheduler at {scheduler}, but: {reason}; is it running?") from None
    with client:
        yield client


def device_of(client: "Client", device: str) -> str:
    """What "auto" is on the workers, "cpu" or "cuda"; errors as in `margincons.devices.choose_device`."""
    from margincons.devices import choose_device

    return client.submit(choose_device, device, pure=False).result()


def measured_by(client: "Client", job: Job, shards: list[Shard]) -> Iterator[tuple[Shard, Measured]]:
    """Send shards to the workers and give them back in the order in which they are done.

    Raises:
        ClusterError: If a worker refuses a shard, or as many workers as there are retries were lost with it.
    """
    from distributed import as_completed

    tasks = {client.submit(_measure, job, shard.rows, retries=RETRIES, pure=False): shard for shard in shards}
    try:
        for done in as_completed(list(tasks)):
            shard = tasks.pop(done)
            if done.status != "finished":
                reason = done.exception() if done.status == "error" else done.status
                text = " ".join(str(reason).split())[:300]
                raise ClusterError(f"Expected {shard.path.name} to be measured, the cluster gave up: {text}")
            outcome = done.result()
            if isinstance(outcome, str):
                raise ClusterError(f"A worker could not measure {shard.path.name}: {outcome}")
            yield shard, outcome
    finally:
        client.cancel(list(tasks))


def _measure(job: Job, rows: range) -> Measured | str:
    """Measure one shard on a worker; a refusal comes back as its text, so that it is not tried again."""
    settings = job.settings
    images = (job.data, job.split, settings["images"], settings["data_sha256"])
    model = (job.model_id, settings["weights_sha256"], settings["device"])
    try:
        with _ONE_AT_A_TIME:
            classifier, images, here = _opened(images, model)
            made = here | job.made
            return measure_shard(classifier, images, rows, settings, batch_size=job.batch_size, made=made)
    except MarginError as error:
        return str(error)


@functools.lru_cache(maxsize=1)
def _opened(
    images_asked: tuple[str, str, int, str], model_asked: tuple[str, str, str]
) -> tuple[Classifier, Images, dict[str, Any]]:
    """Load images and network once per worker, and check that they are those of the record."""
    (data, split, n, data_sha256), (model_id, weights_sha256, device) = images_asked, model_asked
    images = load_images(data, split=split, n=n, lazy=True)
    model = load_model(model_id).to(device)
    for what, found, wanted in (
        (f"images {data}", images.checksum(), data_sha256),
        (f"weights {model_id}", state_sha256(model), weights_sha256),
    ):
        if found != wanted:
            raise ChecksumError(what, wanted, found)
    return Classifier(model, images.inputs[:2]), images, provenance()
