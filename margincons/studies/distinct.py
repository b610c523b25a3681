"""Which networks of a study count: one that decides as another does, image by image, is no second witness."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from margincons.consistency import column


def distinct(
    tables: Mapping[str, pd.DataFrame], *, columns: Sequence[str] = ("upper",), tolerance: float = 0.05
) -> list[str]:
    """Names of the networks left when of any that are twins only the first is kept.

    Twins predict the same class on every image, and each column of the one is that of the other times a factor. So
    margins that an attack found twice are told from margins that differ, and logits times a hundred from other logits.

    Args:
        tables: One record per network, one row per image.
        columns: What has to agree up to a factor, such as "upper" alone, or "logit_margin" besides.
        tolerance: Relative difference that is let pass on each image once the factor, a median ratio, is taken out.

    Raises:
        MissingColumnError: If a table lacks a column.
    """
    kept: list[str] = []
    for name, table in tables.items():
        if not any(_are_twins(tables[other], table, columns, tolerance) for other in kept):
            kept.append(name)
    return kept


def uncounted(networks: Iterable[str], counted: Collection[str]) -> str:
    """A sentence that names the networks that `distinct` left out, after a space; empty where it left out none."""
    twins = ", ".join(f"`{name}`" for name in networks if name not in counted)
    return f" Not counted, as a twin decides alike with the same margins and is counted: {twins}." if twins else ""


def _are_twins(one: pd.DataFrame, other: pd.DataFrame, columns: Sequence[str], tolerance: float) -> bool:
    if not np.array_equal(column(one, "predicted"), column(other, "predicted")):
        return False
    return all(_is_multiple(column(one, name), column(other, name), tolerance) for name in columns)


def _is_multiple(one: np.ndarray, other: np.ndarray, tolerance: float) -> bool:
    same = (one == other) & ((one == 0) | np.isinf(one))  # their ratio says nothing
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = one[~same] / other[~same]
        return bool((np.abs(ratio / np.median(ratio) - 1) <= tolerance).all()) if len(ratio) else True
