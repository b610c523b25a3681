"""The paper's numbers that are quoted here, with sources: `models.csv`, one network a row; `values.csv`, the rest.

Ngnawe et al., 2024, arXiv:2406.18451. An empty cell is a value that is not quoted here; it stays empty, as NaN. Where a
number came from stands in its row. Accuracies, AUROC, AUPR and FPR are percentages, as in the paper; tau is not.
"""

import functools
from pathlib import Path

import pandas as pd

from margincons.errors import UnknownNameError

_FOLDER = Path(__file__).parent


def paper_models(dataset: str = "") -> pd.DataFrame:
    """The paper's 32 networks, indexed by its code for each.

    Args:
        dataset: "cifar10" or "cifar100"; both when empty.

    Returns:
        Columns as in models.csv, and "model_id", the zoo's id; empty for the five that the authors trained themselves.
        "rb_clean_acc" and "rb_autoattack_acc" are RobustBench's, percentages. "est_rob_acc_500" is a percentage;
        "logit_margin_thr_95tpr" and "adv_logit_margin_p99" are logits.

    Raises:
        UnknownNameError: If the paper has no networks of that dataset.
    """
    models = _read("models").set_index("code")
    if dataset and dataset not in set(models["dataset"]):
        raise UnknownNameError("dataset of the paper's table", dataset, models["dataset"].unique())
    return models[models["dataset"] == dataset] if dataset else models.copy()


def paper_value(model_id: str, quantity: str) -> float:
    """One value of `paper_models` for a network of the zoo; NaN where it is not quoted, or there is no such network.

    Raises:
        UnknownNameError: If `paper_models` has no such column of numbers.
    """
    models = paper_models()
    numbers = models.select_dtypes("number")
    if quantity not in numbers:
        raise UnknownNameError("number of the paper", quantity, numbers.columns)
    found = numbers.loc[(models["model_id"] == model_id) & (models["model_id"] != ""), quantity]
    return float(found.iloc[0]) if len(found) else float("nan")


def paper_values(topic: str) -> pd.DataFrame:
    """Further numbers of one topic: "epsilon_sweep", "scores", "pseudo_margin", "sanity", "adaptive_attack" and others.

    Returns:
        Columns "dataset", "code" (of a network in `paper_models`, else an architecture, or empty), "quantity", "at"
        (the epsilon, score, attack or number of images it belongs to), "value" and "source".

    Raises:
        UnknownNameError: If there is no such topic.
    """
    values = _read("values")
    if topic not in set(values["topic"]):
        raise UnknownNameError("topic of the paper", topic, values["topic"].unique())
    return values[values["topic"] == topic].drop(columns="topic").reset_index(drop=True)


@functools.cache
def _read(name: str) -> pd.DataFrame:
    table = pd.read_csv(_FOLDER / f"{name}.csv")
    words = table.columns[table.dtypes.map(lambda kind: not pd.api.types.is_numeric_dtype(kind))]
    table[words] = table[words].fillna("")
    if name == "models":
        prefix = "robustbench/" + table["dataset"] + "/Linf/"
        table["model_id"] = (prefix + table["robustbench_id"]).where(table["robustbench_id"] != "", "")
    return table
