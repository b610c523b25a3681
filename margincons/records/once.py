"""Records of one shard per network: a shard that is there is left alone, one that is not is made by one process."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from margincons.records import check_settings, provenance, read_shard, write_shard
from margincons.records.atomic import clear_unfinished
from margincons.records.locks import only_writer


def made_once(path: Path, settings: dict[str, Any], make: Callable[[], pd.DataFrame]) -> None:
    """Make a shard unless it is there, while nobody else may write the record.

    Args:
        path: Of the shard.
        settings: What identifies the record.
        make: Makes its rows; what ``attrs`` of the table holds is kept with how the shard was made.

    Raises:
        RecordError: If the shard is there and was made with other settings.
        LockedError: If it is not, and another process is writing the record.
    """
    if not path.is_file():
        with only_writer(path.parent):
            if not path.is_file():  # whoever held the folder until now may have made it
                clear_unfinished(path.parent)
                made, started = provenance(), time.perf_counter()
                table = make()
                seconds = round(time.perf_counter() - started, 2)
                write_shard(path, table, settings, made | table.attrs | {"seconds": seconds})
    check_settings(path, read_shard(path)[1]["settings"], settings)
