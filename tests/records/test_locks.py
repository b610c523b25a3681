"""One writer per record: the second is told who the first is, and a dead one holds nobody up."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from margincons.errors import LockedError
from margincons.records import locks
from margincons.records.locks import only_writer

HOLD = """
import sys, time
from pathlib import Path
from margincons.records.locks import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the record."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_writer_is_told_who_the_first_is(tmp_path, holder):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LockedError) as caught, only_writer(tmp_path):
        pass
    text = str(caught.value)
    assert f"only writer of {tmp_path}, it is held by process {holder.pid} on {socket.gethostname()}, since 20" in text
    assert "what it leaves is resumed" in text
    assert sorted(tmp_path.iterdir()) == before


def test_a_killed_writers_lock_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / locks.NAME).exists()  # what it could not clear away
    with only_writer(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / locks.NAME).read_text()
    assert list(tmp_path.iterdir()) == []


def test_an_error_lets_go_of_the_record_and_a_record_may_be_held_again(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), only_writer(tmp_path / "new" / "record"):
            raise KeyboardInterrupt
    assert list((tmp_path / "new" / "record").iterdir()) == []


def test_a_lock_file_that_vanishes_between_opening_and_locking_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    lock, taken = locks.fcntl.flock, []

    def vanish_first(file, how):
        if not taken:
            (tmp_path / locks.NAME).unlink()
        taken.append(file)
        lock(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", vanish_first)
    with only_writer(tmp_path):
        assert len(taken) == 2
        assert Path(tmp_path / locks.NAME).exists()


@pytest.mark.usefixtures("holder")
def test_a_holder_who_cannot_be_read_is_still_a_holder(tmp_path):
    for content in ("", "{", "[1]", '{"pid": 7}'):
        (tmp_path / locks.NAME).write_text(content)
        who = rf"it is held by process {7 if '7' in content else '[?]'} on \?, since \?"
        with pytest.raises(LockedError, match=who), only_writer(tmp_path):
            pass
