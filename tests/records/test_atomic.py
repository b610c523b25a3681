"""Files are whole or absent, and nothing that was there is lost."""

import os
import stat
from pathlib import Path

import pytest

from margincons.errors import UsageError
from margincons.records.atomic import check_target, clear_unfinished, set_aside, written_whole


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


def test_a_file_is_on_disk_before_it_has_its_name_and_its_folder_is_after(tmp_path, monkeypatch):
    path, flushed = tmp_path / "rows.parquet", []

    def fsync(file):
        flushed.append((stat.S_ISDIR(os.fstat(file).st_mode), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with written_whole(path) as file:
        file.write(b"rows")
    assert flushed == [(False, False), (True, True)]


def test_what_a_killed_process_left_half_written_is_cleared_and_nothing_else(tmp_path):
    for name in ("shard-00000.parquet", "shard-00001.parquet.123.tmp", "shard-00001.safetensors.9.tmp", "mine.tmp"):
        (tmp_path / name).write_text(name)
    clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.tmp", "shard-00000.parquet"]


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


def test_a_file_can_be_written_wherever_its_check_lets_it_and_the_check_leaves_nothing(tmp_path):
    (tmp_path / "there").write_text("kept")
    for name in ("there", "new", "folder/of/folders/new"):
        check_target(tmp_path / name, "the rows")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("there", "kept")]
    for name in ("new", "folder/of/folders/new"):
        with written_whole(tmp_path / name) as file:
            file.write(b"rows")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".", "to be the file of the rows, it is a folder."),
        ("file/rows", "Expected to write the file of the rows to "),
        ("x" * 300, "cannot: File name too long."),
    ],
)
def test_where_no_file_can_be_written_is_said_in_one_line(tmp_path, name, text):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError) as caught:
        check_target(tmp_path / name, "the rows")
    assert text in str(caught.value)
    with pytest.raises(OSError), written_whole(tmp_path / name):
        pass


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files from anybody")
def test_a_folder_that_takes_no_files_is_noticed():
    with pytest.raises(UsageError, match="Expected to write the file of the rows to /proc/none/rows, cannot: "):
        check_target("/proc/none/rows", "the rows")
