"""Records come back as they were written, or not at all."""

import json
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from margincons import records
from margincons.data import load_images
from margincons.errors import (
    ChecksumError,
    FileFormatError,
    MissingColumnError,
    MissingFileError,
    RecordError,
    UnknownNameError,
)
from margincons.records import check_settings, provenance, read_record, read_shard, shipped_records, write_shard

MADE = {"command": "margincons measure", "started": "2024-12-10"}
SETTINGS = {"model": "digits/trades", "norm": "Linf", "epsilon": None, "seed": 0}
numbers = st.floats(width=32) | st.just(float("inf"))
tables = st.lists(st.tuples(st.integers(0, 2**40), numbers, numbers, st.booleans()), min_size=1, max_size=20)


def table_of(rows):
    index, upper, score, success = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            "index": np.array(index),
            "upper": np.array(upper, dtype=np.float32),
            "logit_margin": np.array(score),
            "success": np.array(success),
        }
    )


def small(start=0, n=3):
    return table_of([(start + row, 0.1 * row, 1.0, True) for row in range(n)])


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=tables,
    about=st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.floats(allow_nan=False), max_size=4),
)
def test_a_shard_comes_back_bit_for_bit_with_its_settings(tmp_path, rows, about):
    path, table = tmp_path / "shard-00000.parquet", table_of(rows)
    write_shard(path, table, about, MADE)
    back, found = read_shard(path)
    assert_frame_equal(back, table, check_exact=True)
    assert (found["settings"], found["made"]) == (about, MADE)
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), keep=st.booleans())
def test_a_damaged_shard_is_noticed_or_unharmed(tmp_path, place, bit, keep):
    path, table = tmp_path / "shard-00000.parquet", small(n=20)
    write_shard(path, table, SETTINGS, MADE)
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 1 << bit
    path.write_bytes(content if keep else content[:at])
    try:
        back, about = read_shard(path)
    except (FileFormatError, ChecksumError) as error:
        assert "\n" not in str(error)
    else:
        assert back.to_dict("list") == table.to_dict("list")
        assert (about["settings"], about["made"]) == (SETTINGS, MADE)


def test_a_changed_value_or_setting_is_noticed_even_in_a_valid_file(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, small(), SETTINGS, MADE)
    stored = pq.read_table(path)
    column = pa.array(np.array([0, 0.1, 0.25], dtype=np.float32))
    about = {key: value.replace(b"Linf", b"L2") for key, value in stored.schema.metadata.items()}
    other_margin = stored.set_column(1, stored.schema.field("upper"), column)
    for changed in (other_margin, stored.rename_columns(["index", "lower", "logit_margin", "success"])):
        pq.write_table(changed.replace_schema_metadata(stored.schema.metadata), path)
        with pytest.raises(ChecksumError, match="damaged, or another version"):
            read_record(tmp_path)
    pq.write_table(stored.replace_schema_metadata(about), path)
    with pytest.raises(ChecksumError, match="damaged, or another version"):
        read_record(tmp_path)


@pytest.mark.parametrize("metadata", [None, {b"margincons": b"{"}])
def test_a_foreign_parquet_file_is_refused(tmp_path, metadata):
    path = tmp_path / "shard-00000.parquet"
    rows = pa.Table.from_pandas(small(), preserve_index=False)
    pq.write_table(rows.replace_schema_metadata(metadata), path)
    with pytest.raises(FileFormatError, match="to hold a shard of a record"):
        read_record(path)


@pytest.mark.parametrize("content", [b"", b"no parquet at all", b"PAR1" + bytes(40) + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path, content):
    (tmp_path / "shard-00000.parquet").write_bytes(content)
    with pytest.raises(FileFormatError, match="to hold a shard of a record"):
        read_record(tmp_path)


def test_a_record_is_its_shards_in_the_order_of_the_data_set(tmp_path):
    for number, start in ((1, 3), (0, 0), (10, 6)):
        write_shard(tmp_path / f"shard-{number:05d}.parquet", small(start)[::-1], SETTINGS, MADE | {"shard": number})
    (tmp_path / "notes.txt").write_text("not a shard")
    table = read_record(tmp_path)
    assert table["index"].tolist() == list(range(9))
    assert list(table.index) == list(range(9))
    assert table.attrs == {"settings": SETTINGS, "made": MADE | {"shard": 0}}
    assert read_record(str(tmp_path)).equals(table)
    assert read_record(tmp_path / "shard-00001.parquet")["index"].tolist() == [3, 4, 5]


def test_a_record_that_was_extended_reads_as_one_and_gives_the_extensions_settings(tmp_path):
    planned = {"images": 3, "data_sha256": "a"}, {"images": 6, "data_sha256": "b"}
    for number, more in enumerate(planned):
        write_shard(tmp_path / f"shard-{number:05d}.parquet", small(3 * number), SETTINGS | more, MADE)
    table = read_record(tmp_path)
    assert table["index"].tolist() == list(range(6))
    assert table.attrs["settings"] == SETTINGS | planned[1]
    write_shard(tmp_path / "shard-00002.parquet", small(6), SETTINGS | {"images": 6, "data_sha256": "c"}, MADE)
    with pytest.raises(RecordError, match="data_sha256 is another: did the images change"):
        read_record(tmp_path)


def test_a_checksum_does_not_depend_on_how_arrow_cuts_the_rows_and_sees_every_change():
    rows = pa.Table.from_pandas(table_of([(1, np.nan, 2.0, True), (2, 0.5, -0.0, False)]).assign(status=["a", "b"]))
    whole = records._digest(rows)
    assert records._digest(pa.concat_tables([rows.slice(0, 1), rows.slice(1)])) == whole
    changed = [
        rows.slice(0, 1),
        pa.concat_tables([rows.slice(1), rows.slice(0, 1)]),
        rows.rename_columns(["index", "lower", *rows.column_names[2:]]),
        *(
            rows.set_column(at, rows.schema.field(at), column.cast(rows.schema.field(at).type))
            for at, column in (
                (0, pa.array([1, 3])),
                (1, pa.array([0, 0.5], pa.float32())),  # a zero where a number was missing
                (1, pa.array([0.5, None], pa.float32())),
                (2, pa.array([2.0, 0.0])),
                (3, pa.array([True, True])),
                (4, pa.array(["a", "c"])),
            )
        ),
    ]
    assert len({whole, *map(records._digest, changed)}) == len(changed) + 1


def test_a_column_of_lists_comes_back_and_a_change_inside_one_is_noticed(tmp_path):
    table = pd.DataFrame({"index": [0, 1], "upper": [np.array([0.5, np.inf], dtype=np.float32), np.zeros(3)]})
    table["upper"] = [column.astype(np.float32) for column in table["upper"]]
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, table, SETTINGS, MADE)
    back, _ = read_shard(path)
    assert [column.tolist() for column in back["upper"]] == [[0.5, np.inf], [0, 0, 0]]
    rows = pq.read_table(path)
    rows = rows.set_column(1, "upper", pa.array([[0.5, np.inf], [0, 0, 1e-3]], pa.list_(pa.float32())))
    pq.write_table(rows, path)
    with pytest.raises(ChecksumError):
        read_shard(path)


def test_shards_of_other_columns_do_not_mix(tmp_path):
    write_shard(tmp_path / "shard-00000.parquet", small(), SETTINGS, MADE)
    write_shard(tmp_path / "shard-00001.parquet", small(3).assign(upper=["a", "b", "c"]), SETTINGS, MADE)
    with pytest.raises(RecordError, match="to have the same columns"):
        read_record(tmp_path)
    write_shard(tmp_path / "shard-00000.parquet", small()[["upper"]], SETTINGS, MADE)
    with pytest.raises(MissingColumnError, match="Expected a column 'index', the table has: upper"):
        read_record(tmp_path / "shard-00000.parquet")


def test_the_records_below_a_folder_and_beside_a_path_are_offered(tmp_path):
    record = tmp_path / "nets.cnn" / "Linf" / "fab-crown"
    write_shard(record / "shard-00000.parquet", small(), SETTINGS, MADE)
    for near in (tmp_path, record.parent, record.parent / "fab"):
        with pytest.raises(UnknownNameError, match=f"Unknown record '{near}'; the nearest are: {record}"):
            read_record(near)


def test_shards_of_other_settings_do_not_mix(tmp_path):
    write_shard(tmp_path / "shard-00000.parquet", small(), SETTINGS, MADE)
    write_shard(tmp_path / "shard-00001.parquet", small(3), SETTINGS | {"norm": "L2"}, MADE)
    with pytest.raises(RecordError, match=r"shard-00001\.parquet to be measured with norm='Linf', it has 'L2'"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (SETTINGS | {"seed": 1}, "seed=0, it has 1"),
        ({key: value for key, value in SETTINGS.items() if key != "model"}, "model='digits/trades', it has None"),
        (SETTINGS | {"more": 1}, "more=None, it has 1"),
    ],
)
def test_the_first_setting_that_differs_is_named(tmp_path, found, text):
    check_settings(tmp_path, SETTINGS, dict(SETTINGS))
    with pytest.raises(RecordError) as caught:
        check_settings(tmp_path, found, SETTINGS)
    assert text in str(caught.value)


def test_a_failed_write_leaves_the_old_shard_and_nothing_temporary(tmp_path, monkeypatch):
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, small(), SETTINGS, MADE)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("no space left")

    for module, name in ((os, "fsync"), (records.pq, "write_table"), (records.Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(OSError, match="no space left"):
                write_shard(path, small(5), SETTINGS, MADE)
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_bytes() == before


def test_a_shard_is_flushed_to_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, present = tmp_path / "shard-00000.parquet", []
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (present.append(path.exists()), flush(file)))
    write_shard(path, small(), SETTINGS, MADE)
    assert present == [False, True]  # the file, then its folder


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("digits/trades/Linf/fab_papr", UnknownNameError, "Unknown record 'digits/trades/Linf/fab_papr'; the nearest"),
        ("digits/trades/Linf", UnknownNameError, "fab_paper"),
        ("digits", UnknownNameError, "Unknown record 'digits'"),
        ("runs/mine", MissingFileError, "Expected a record at runs/mine, found none"),
        ("/nowhere/at/all", MissingFileError, "Expected a record at /nowhere/at/all"),
        ("", MissingFileError, "Expected a record at ., found none"),
    ],
)
def test_a_record_that_does_not_exist_is_named(tmp_path, monkeypatch, name, error, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        read_record(name)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", [name for name in shipped_records() if name.startswith("digits/")])
def test_every_shipped_record_is_whole_and_says_how_it_was_made(name):
    table = read_record(name)
    settings, made = table.attrs["settings"], table.attrs["made"]
    certificate, split = settings.get("certificate"), settings["data"].removeprefix("digits/")
    folder = "-".join(filter(None, (settings["attack"], certificate, "" if split == "test" else split)))
    images = load_images("digits", split=split)
    assert name == f"{settings['model']}/{settings['norm']}/{folder}"
    planned = settings.get("images", 100 if certificate == "exact" else len(images))  # the oldest do not say
    assert table["index"].tolist() == list(range(planned))
    assert planned == len(images) or certificate  # what a certificate costs may leave images out
    assert table["label"].tolist() == images.labels[: len(table)].tolist()
    assert set(made) >= {"command", "commit", "versions", "machine", "started"}
    assert np.isfinite(table["upper"][table["success"]]).all()
    assert np.isinf(table["upper"][~table["success"]]).all()  # a failed attack is no margin
    assert (table["adversarial_label"] != table["predicted"]).equals(table["success"])


def test_provenance_names_command_commit_versions_and_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/margincons", "measure", "digits/mlp"])
    made = provenance()
    assert made["command"] == "margincons measure digits/mlp"
    assert made["versions"]["torch"]
    assert "threads" in made["machine"]
    json.dumps(made)
    monkeypatch.setattr(records.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    monkeypatch.setattr(records, "_commit", records._commit.__wrapped__)  # as in a new process
    assert provenance()["commit"] == "unknown"


@pytest.mark.parametrize("name", shipped_records())
def test_a_shipped_record_names_the_commit_it_was_made_at_and_the_commit_was_clean(name):
    commit = read_record(name).attrs["made"]["commit"]
    assert len(commit) == 40
    assert set(commit) <= set("0123456789abcdef")


def test_an_image_in_two_shards_is_refused(tmp_path):
    for number in range(2):
        rows = pd.DataFrame({"index": [2 * number, 2 * number + 1], "upper": [0.1, 0.2]})
        write_shard(tmp_path / f"shard-0000{number}.parquet", rows, SETTINGS, MADE)
    assert read_record(tmp_path)["index"].tolist() == [0, 1, 2, 3]
    (tmp_path / "shard-00009.parquet").write_bytes((tmp_path / "shard-00000.parquet").read_bytes())
    with pytest.raises(RecordError, match="in one shard, some are in two: remove the copies"):
        read_record(tmp_path)
