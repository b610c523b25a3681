"""A shard is made at most once: by one process, and never on top of one that is finished."""

import pandas as pd
import pytest

from margincons.errors import LockedError, RecordError
from margincons.records import read_record
from margincons.records.locks import only_writer
from margincons.records.once import made_once

ROWS = pd.DataFrame({"index": [0, 1], "upper": [0.1, 0.2]})


def never():
    raise AssertionError("made, though it may not be")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record" / "shard-00000.parquet"


def test_a_shard_is_made_with_what_its_table_says_of_the_making_and_then_left_alone(path):
    table = ROWS.copy()
    table.attrs["costs"] = {"clever": 3}
    made_once(path, {"seed": 0}, lambda: table)
    before = path.stat().st_mtime_ns
    made_once(path, {"seed": 0}, never)
    found = read_record(path.parent)
    assert path.stat().st_mtime_ns == before
    assert found["upper"].tolist() == [0.1, 0.2]
    assert found.attrs["settings"] == {"seed": 0}
    assert found.attrs["made"]["costs"] == {"clever": 3}
    assert found.attrs["made"].keys() >= {"command", "commit", "seconds"}
    with pytest.raises(RecordError, match=r"seed=1, it has 0"):
        made_once(path, {"seed": 1}, never)


def test_where_another_process_writes_nothing_is_made_and_a_finished_shard_can_be_read(path):
    with only_writer(path.parent), pytest.raises(LockedError, match="Expected to be the only writer"):
        made_once(path, {"seed": 0}, never)
    made_once(path, {"seed": 0}, ROWS.copy)
    with only_writer(path.parent):
        made_once(path, {"seed": 0}, never)


def test_while_a_shard_is_made_nobody_else_may_make_it(path):
    def make():
        with pytest.raises(LockedError):
            made_once(path, {"seed": 0}, never)
        return ROWS.copy()

    made_once(path, {"seed": 0}, make)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_shard_that_another_process_finished_before_this_one_got_the_folder_is_kept(path, monkeypatch):
    made_once(path, {"seed": 0}, ROWS.copy)
    there = type(path).is_file
    answers = iter([False])
    monkeypatch.setattr(type(path), "is_file", lambda self: next(answers, None) is None and there(self))
    made_once(path, {"seed": 0}, never)
