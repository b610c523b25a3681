"""The data behind a figure: written as CSV where the site finds it, with links for the reader."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from margincons.errors import MissingFileError
from margincons.statistics.intervals import Estimate

SITE_DATA = Path("book/_static/data")  # inside the project; the site serves it as _static/data


def figure_data(page: str, **tables: pd.DataFrame | Mapping[str, pd.DataFrame]) -> HTML:
    """Keep the data behind a figure as CSV files, and link to them and to the page's source.

    In the project's folder the files become part of the site; anywhere else they lie beside the notebook.

    Args:
        page: The page's name: "correlation" for notebooks/correlation.md.
        tables: What was drawn, under a name that no other figure of the page uses. Tables by network are written one
            below the other, with a column "network". Index levels that have names become columns, and so do both
            ends of an `Estimate`.

    Returns:
        One line of links, for a cell of its own below the figure: outputs of the figure's cell share its caption.

    Raises:
        MissingFileError: If the project has no page of that name.
    """
    written = {name: with_ends(_one_table(table)) for name, table in tables.items()}
    inside = Path("_toc.yml").is_file()
    folder = SITE_DATA / page if inside else Path()
    served = f"../../_static/data/{page}/" if inside else ""  # pages lie in book/executed
    links = []
    for name, table in written.items():
        file = f"{page}-{name}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / file, index=False, float_format="%.9g")  # nine digits give single precision back
        links.append(f'<a href="{served}{file}" download>{name.replace("_", " ")} (CSV, {len(table)} rows)</a>')
    if inside:
        source = Path("notebooks") / f"{page}.md"
        if not source.is_file():
            raise MissingFileError(source, "page")
        shutil.copyfile(source, folder / f"{page}.md.txt")  # browsers show .txt; .md they offer to save
        links.append(f'<a href="{served}{page}.md.txt">source of this page</a>')
    return HTML(f'<p class="figure-links">Data: {" · ".join(links)}</p>')


def with_ends(table: pd.DataFrame) -> pd.DataFrame:
    """Turn named index levels into columns, and each column of estimates into its value, "low" and "high"."""
    if any(level is not None for level in table.index.names):
        table = table.reset_index()
    columns = {}
    for name, column in table.items():
        if not column.map(lambda cell: isinstance(cell, Estimate)).any():
            columns[str(name)] = column
            continue
        columns[str(name)] = [getattr(cell, "value", cell) for cell in column]
        for end in ("low", "high"):
            columns[f"{name} {end}"] = [getattr(cell, end, None) for cell in column]
    return pd.DataFrame(columns)


def stacked(table: pd.DataFrame) -> HTML:
    """A table with each interval, such as ".83 [.80, .86]", below its value and what follows it: half as wide.

    Words of a column's name stand below each other, too.
    """
    cells = table.map(lambda cell: re.sub(r" (\[.*?\])(.*)", r"\2<br>\1", str(cell)))
    return HTML(cells.rename(columns=lambda name: name.replace(" ", "<br>")).to_html(escape=False))


def _one_table(tables: pd.DataFrame | Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    if isinstance(tables, pd.DataFrame):
        return tables
    named = [with_ends(table).assign(network=name) for name, table in tables.items()]
    whole = pd.concat(named, ignore_index=True) if named else pd.DataFrame({"network": []})
    return whole[["network", *whole.columns.drop("network")]]
