"""Shards: extended, set aside, kept with images, halved when memory runs out; finished ones are never touched."""

import importlib

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal

from margincons import shards
from margincons.data import load_images
from margincons.errors import BatchMemoryError, LockedError, RecordError
from margincons.measure import measure
from margincons.records import read_record, read_shard, write_shard
from margincons.records.kept_images import read_images
from margincons.records.locks import only_writer
from margincons.threat import vector_norm
from margincons.zoo import load_model

room = importlib.import_module("margincons.measure")  # margincons.measure is the function, once imported
QUICK = {"attack": "pgd", "effort": "fast", "epsilon": 0.1, "batch_size": 4, "shard_size": 4, "progress": False}


def run(out, limit=12, **change):
    return measure("digits/mlp", "digits", out=out, limit=limit, **QUICK | change)


def stamps(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


def test_a_larger_limit_extends_a_record_and_leaves_its_shards_alone(tmp_path, whole):
    assert run(tmp_path, limit=6)["index"].tolist() == list(range(6))
    before = stamps(tmp_path)
    for limit, files in ((11, 4), (12, 5)):  # 4 + 2 | 4 + 1 | 1
        table = run(tmp_path, limit=limit)
        assert table["index"].tolist() == list(range(limit))
        assert table.attrs["settings"]["images"] == limit
        assert table.attrs["settings"]["data_sha256"] == load_images("digits", n=limit).checksum()
        assert len(stamps(tmp_path)) == files
        assert before.items() <= stamps(tmp_path).items()
    assert_frame_equal(table.head(4), whole.head(4), check_exact=True)  # the batches that are the same
    assert np.allclose(table["logit_margin"], whole["logit_margin"], rtol=1e-4)
    (tmp_path / "shard-00001.parquet").unlink()  # an extension interrupted earlier than the record it extends
    assert_frame_equal(run(tmp_path), table, check_exact=True)


def test_fewer_images_than_the_record_has_are_refused_with_a_hint(tmp_path):
    run(tmp_path, limit=6)
    before = stamps(tmp_path)
    with pytest.raises(RecordError, match=r"of 5 images or fewer, it is one of 6; ask for 6 or more \(--limit\)"):
        run(tmp_path, limit=5)
    assert stamps(tmp_path) == before


def test_a_record_that_grew_twice_says_how_many_images_it_has_now(tmp_path):
    for limit in (4, 6, 9):
        run(tmp_path, limit=limit)
    for limit in (3, 4, 6, 8):
        with pytest.raises(RecordError, match=f"record of {limit} images or fewer, it is one of 9; ask for 9 or more"):
            run(tmp_path, limit=limit)
    assert len(run(tmp_path, limit=9)) == 9


def test_what_differs_is_named_before_the_number_of_images_that_may_differ(tmp_path):
    for limit in (4, 8):
        run(tmp_path, limit=limit)
    with pytest.raises(RecordError, match=r"measured with effort='standard', it has 'fast'"):
        run(tmp_path, limit=2, effort="standard")


def test_a_network_that_was_trained_again_is_said_to_have_changed(tmp_path):
    for seed in (0, 1):
        (tmp_path / "nets.py").write_text(
            "from torch import manual_seed, nn\ndef net():\n"
            f"    manual_seed({seed})\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        )
        options = QUICK | {"out": tmp_path / "record", "limit": 4}
        if seed == 0:
            measure(tmp_path / "nets.py:net", "digits", **options)
    with pytest.raises(RecordError, match="weights_sha256 is another: did the network change"):
        measure(tmp_path / "nets.py:net", "digits", **options)


def test_a_record_of_other_images_is_not_extended(tmp_path):
    images = load_images("digits", n=8)
    path = tmp_path / "mine.npz"
    options = QUICK | {"out": tmp_path / "record"}
    np.savez(path, x=images.inputs.numpy(), y=images.labels.numpy())
    measure("digits/mlp", str(path), limit=4, **options)
    before = stamps(tmp_path / "record")
    np.savez(path, x=images.inputs.flip(0).numpy(), y=images.labels.numpy())
    with pytest.raises(RecordError, match=r"the first 4 images of mine to be those that .* they changed"):
        measure("digits/mlp", str(path), limit=8, **options)
    with pytest.raises(RecordError, match="data_sha256 is another: did the images change"):
        measure("digits/mlp", str(path), limit=4, **options)
    assert stamps(tmp_path / "record") == before


def test_a_shard_of_another_measurement_among_ours_is_set_aside_and_measured_again(tmp_path, whole):
    run(tmp_path)
    before = stamps(tmp_path)
    foreign = tmp_path / "shard-00001.parquet"
    table, about = read_shard(foreign)
    foreign.unlink()
    write_shard(foreign, table, about["settings"] | {"seed": 7}, about["made"])
    beyond = tmp_path / "shard-00009.parquet"
    write_shard(beyond, table, about["settings"], about["made"])
    assert_frame_equal(run(tmp_path), whole, check_exact=True)
    after = stamps(tmp_path)
    assert sorted(after) == sorted([*before, f"{foreign.name}.foreign", f"{beyond.name}.foreign"])
    for name in ("shard-00000.parquet", "shard-00002.parquet"):
        assert after[name] == before[name]


def test_where_most_shards_are_foreign_the_folder_is_refused_and_nothing_is_moved(tmp_path):
    run(tmp_path)
    for name in ("shard-00000.parquet", "shard-00002.parquet"):
        table, about = read_shard(tmp_path / name)
        write_shard(tmp_path / name, table, about["settings"] | {"seed": 7}, about["made"])
    before = stamps(tmp_path)
    with pytest.raises(RecordError, match="seed=0, it has 7"):
        run(tmp_path)
    assert stamps(tmp_path) == before


def test_a_parquet_file_that_is_no_shard_is_set_aside(tmp_path, whole):
    run(tmp_path)
    whole.to_parquet(tmp_path / "shard-00002.parquet")
    assert_frame_equal(run(tmp_path), whole, check_exact=True)
    assert (tmp_path / "shard-00002.parquet.damaged").exists()


def test_what_a_killed_process_left_half_written_is_gone_after_resuming(tmp_path, whole):
    tmp_path.joinpath("shard-00001.parquet.77.tmp").write_bytes(b"half")
    assert_frame_equal(run(tmp_path), whole, check_exact=True)
    assert sorted(stamps(tmp_path)) == [f"shard-0000{number}.parquet" for number in range(3)]


def test_a_record_that_somebody_else_writes_is_left_alone(tmp_path):
    with only_writer(tmp_path), pytest.raises(LockedError, match="Expected to be the only writer"):
        run(tmp_path)
    assert stamps(tmp_path) == {}


def test_adversarial_images_are_kept_on_request_and_are_the_witnesses_of_the_record(tmp_path, whole):
    table = run(tmp_path, keep_images=True)
    assert_frame_equal(table, whole, check_exact=True)
    before = stamps(tmp_path)
    index, adversarial = read_images(tmp_path)
    images, adversarial = load_images("digits", n=12), torch.from_numpy(adversarial)
    assert index.tolist() == table["index"].tolist()
    found = table["success"].to_numpy()
    distances = vector_norm(adversarial - images.inputs, "Linf").numpy()
    assert np.array_equal(distances[found], table["upper"][found].to_numpy())
    assert (distances[~found] == 0).all()
    with torch.no_grad():
        again = load_model("digits/mlp")(adversarial).argmax(dim=1)
    assert again.tolist() == table["adversarial_label"].tolist()
    lost = tmp_path / "shard-00001.safetensors"
    lost.write_bytes(lost.read_bytes()[:-1])
    assert_frame_equal(run(tmp_path, keep_images=True), whole, check_exact=True)
    assert torch.equal(torch.from_numpy(read_images(tmp_path)[1]), adversarial)
    after = stamps(tmp_path)
    aside = {"shard-00001.parquet.damaged", "shard-00001.safetensors.damaged"}
    assert set(after) == set(before) | aside
    assert {name for name in before if before[name] != after[name]} == {
        "shard-00001.parquet",
        "shard-00001.safetensors",
    }


def forgetful(monkeypatch, largest, error):
    """Memory that holds `largest` images at a time; returns the sizes that were tried."""
    batch, sizes = shards.measure_batch, []

    def measure_batch(classifier, images, rows, settings):
        sizes.append(len(rows))
        if len(rows) > largest:
            raise error
        return batch(classifier, images, rows, settings)

    monkeypatch.setattr(shards, "measure_batch", measure_batch)
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_batches_are_halved_when_memory_runs_out_and_the_record_says_so(tmp_path, monkeypatch, capsys, error):
    options = {"batch_size": 8, "shard_size": 8, "limit": 24}
    sizes = forgetful(monkeypatch, 3, error)
    run(tmp_path, **options)
    assert sizes == [8, 4, *[2] * 12]
    notices = capsys.readouterr().err.splitlines()
    assert notices == [f"margincons: out of memory on cpu; going on with batches of {size}" for size in (4, 2)]
    abouts = [read_shard(path)[1] for path in sorted(tmp_path.glob("*.parquet"))]
    assert [about["made"]["batch_size"] for about in abouts] == [2, 2, 2]
    assert [about["settings"]["batch_size"] for about in abouts] == [8, 8, 8]
    (tmp_path / "shard-00002.parquet").unlink()
    sizes.clear()
    run(tmp_path, **options)  # resumed: as it would have gone on
    assert sizes == [2] * 4


def test_an_image_that_does_not_fit_into_memory_is_an_error_and_a_bug_is_not_taken_for_one(tmp_path, monkeypatch):
    forgetful(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(BatchMemoryError, match="one image at a time to fit into the memory of cpu, got CUDA out of"):
        run(tmp_path)
    assert stamps(tmp_path) == {}
    monkeypatch.undo()
    forgetful(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(tmp_path)


def test_progress_counts_images_as_they_are_done_and_starts_at_what_is_finished(tmp_path, monkeypatch):
    run(tmp_path, limit=4)
    seen = []

    class Bar(room.tqdm):
        def update(self, n=1):
            seen.append((self.initial, n, self.total))
            return super().update(n)

    monkeypatch.setattr(room, "tqdm", Bar)
    run(tmp_path, batch_size=4, progress=True)
    assert seen == [(4, 4, 12), (4, 4, 12)]
    assert read_record(tmp_path)["index"].tolist() == list(range(12))
