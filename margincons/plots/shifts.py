"""Figures of page `shift`: small panels, legible on a phone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from margincons.plots import model_style, short_name


def severity_panels(axes: Sequence[Axes], cells: pd.DataFrame, column: str) -> None:
    """Draw a column of estimates over severities: one panel per shift, one line per network, and a legend last.

    Args:
        axes: One more than there are shifts.
        cells: Columns "network", "shift", "severity" and estimates; rows of severity 0 are every shift's beginning.
        column: Which estimates.
    """
    calm, changed = cells[cells["severity"] == 0], cells[cells["severity"] > 0]
    networks = list(dict.fromkeys(cells["network"]))
    *panels, last = axes
    for panel, (name, part) in zip(panels, changed.groupby("shift", sort=False), strict=True):
        for number, network in enumerate(networks):
            line = pd.concat([calm[calm["network"] == network], part[part["network"] == network]])
            beside = 0.07 * (number - (len(networks) - 1) / 2)
            value, low, high = (
                np.array([getattr(e, end, np.nan) for e in line[column]]) for end in ("value", "low", "high")
            )
            look = model_style(network) | {"ms": 4, "lw": 1.1, "elinewidth": 1, "label": short_name(network)}
            panel.errorbar(line["severity"] + beside, value, yerr=(value - low, high - value), **look)
        panel.set(title=name.replace("_", " "), xticks=sorted(cells["severity"].unique()))
        panel.tick_params(labelbottom=True)
    last.axis("off")
    last.legend(*panels[0].get_legend_handles_labels(), loc="center")
