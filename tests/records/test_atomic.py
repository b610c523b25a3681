"""Files are whole or absent, and nothing that was there is lost."""

import pytest

from margincons.records.atomic import clear_unfinished, set_aside, written_whole


def test_a_file_appears_only_once_it_is_whole(tmp_path):
    path = tmp_path / "folder" / "rows.parquet"
    with written_whole(path) as file:
        file.write(b"rows")
        assert not path.exists()
    assert path.read_bytes() == b"rows"
    with pytest.raises(KeyboardInterrupt), written_whole(path) as file:
        file.write(b"others")
        raise KeyboardInterrupt
    assert [entry.read_bytes() for entry in path.parent.iterdir()] == [b"rows"]


def test_what_a_killed_process_left_half_written_is_cleared_and_nothing_else(tmp_path):
    for name in ("shard-00000.parquet", "shard-00001.parquet.123.tmp", "shard-00001.safetensors.9.tmp", "notes.txt"):
        (tmp_path / name).write_text(name)
    clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "shard-00000.parquet"]


def test_a_file_set_aside_never_replaces_one_that_was_set_aside_before(tmp_path):
    path = tmp_path / "shard-00001.parquet"
    for content in ("first", "second", "third"):
        path.write_text(content)
        set_aside(path, "damaged")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "shard-00001.parquet.damaged": "first",
        "shard-00001.parquet.damaged-2": "second",
        "shard-00001.parquet.damaged-3": "third",
    }
