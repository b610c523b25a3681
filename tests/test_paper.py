"""The paper's known numbers: what is empty stays empty, every one has a source, and they agree among themselves."""

import math

import pandas as pd
import pytest

from margincons.errors import UnknownNameError
from margincons.paper import paper_models, paper_value, paper_values
from margincons.zoo import list_models

TOPICS = (
    "epsilon_sweep",
    "scores",
    "pseudo_margin",
    "sanity",
    "standard_networks",
    "adaptive_attack",
    "robust_accuracy",
    "fab_cost",
    "correlation",
)
ADDEPALLI = "robustbench/cifar10/Linf/Addepalli2021Towards_RN18"


def test_the_paper_has_nineteen_and_thirteen_networks_five_of_them_its_own():
    models = paper_models()
    assert models["dataset"].value_counts().to_dict() == {"cifar10": 19, "cifar100": 13}
    assert models.index.is_unique
    own = models[models["self_trained"] != ""]
    assert len(own) == 5
    assert set(own["model_id"]) == {""}


def test_the_other_networks_are_in_the_zoo_under_the_id_that_is_given():
    ids = paper_models()["model_id"]
    assert set(ids[ids != ""]) <= set(list_models("robustbench/"))


def test_every_number_names_its_source():
    assert (paper_models()["source"].str.len() > 10).all()
    assert all((paper_values(topic)["source"].str.len() > 10).all() for topic in TOPICS)


def test_percentages_and_correlations_are_on_their_own_scales():
    models = paper_models()
    percentages = models[["acc", "rob_acc", "rb_clean_acc", "rb_autoattack_acc", "auroc", "aupr", "fpr95"]].stack()
    assert percentages.dropna().between(1, 100).all()
    assert models["kendall_tau"].dropna().between(-1, 1).all()
    assert (models["rb_autoattack_acc"] < models["rb_clean_acc"]).sum() == (models["model_id"] != "").sum()


def test_a_value_that_is_not_known_is_nan_and_so_is_one_of_a_network_that_the_paper_lacks():
    assert paper_value(ADDEPALLI, "kendall_tau") == 0.82
    assert paper_value(ADDEPALLI, "fpr95") == 13.26
    assert math.isnan(paper_value("robustbench/cifar10/Linf/Xu2023Exploring_WRN-28-10", "kendall_tau"))
    assert math.isnan(paper_value("digits/trades", "kendall_tau"))
    assert math.isnan(paper_value("", "rob_acc"))  # five networks of the paper have no id
    draft = paper_values("pseudo_margin").query("code == 'XU80' and quantity == 'aupr' and at == 'logit_margin'")
    assert draft["value"].isna().tolist() == [True]


def test_the_same_number_in_both_files_is_the_same_number():
    scores = paper_values("scores").query("at == 'logit_margin'").set_index("code")["value"]
    before = (
        paper_values("pseudo_margin").query("at == 'logit_margin' and code == 'DI0'").set_index("quantity")["value"]
    )
    models = paper_models()
    assert scores.to_dict() == models["kendall_tau"].dropna().to_dict()
    assert before.to_dict() == models.loc["DI0", before.index].to_dict()
    sweep = paper_values("epsilon_sweep").query("at == '8/255'").set_index("quantity")["value"]
    assert (models.loc["AD10", ["auroc", "aupr"]] / 100).astype(float).round(2).to_dict() == sweep.to_dict()


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_the_paper_s_summary_of_its_robust_accuracies_follows_from_its_table(dataset):
    said = paper_values("robust_accuracy").query("dataset == @dataset").set_index("quantity")["value"]
    table = paper_models(dataset)
    off = (table["est_rob_acc_500"] - table["rob_acc"]).dropna()
    assert len(off) == said["networks"]
    assert (off > 0).sum() == pytest.approx(said["networks_above_autoattack"], abs=1)
    assert off.mean() == pytest.approx(said["mean_difference_points"], abs=0.06)


def test_its_thresholds_run_over_the_range_that_the_paper_states():
    assert paper_models()["logit_margin_thr_95tpr"].agg(["min", "max"]).tolist() == [1.20, 11.04]


def test_what_is_handed_out_may_be_changed_without_harm():
    for take in (paper_models, lambda: paper_models("cifar10"), lambda: paper_values("scores")):
        taken = take()
        taken["source"] = "mine"
        assert "mine" not in set(take()["source"])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: paper_models("imagenet"), "Unknown dataset of the paper's table 'imagenet'; the nearest are: cifar10"),
        (
            lambda: paper_value(ADDEPALLI, "tau"),
            "Unknown number of the paper 'tau'; the nearest are: aupr, auroc, kendall_tau",
        ),
        (lambda: paper_value(ADDEPALLI, "architecture"), "Unknown number of the paper 'architecture'"),
        (lambda: paper_values("score"), "Unknown topic of the paper 'score'; the nearest are: scores"),
    ],
)
def test_what_the_paper_has_not_is_refused_by_name(call, text):
    with pytest.raises(UnknownNameError) as caught:
        call()
    assert text in str(caught.value)


def test_words_that_are_missing_are_empty_text_not_nan():
    models = paper_models()
    words = models.select_dtypes(exclude="number")
    assert not words.isna().any(axis=None)
    assert isinstance(models.loc["DI0", "self_trained"], str)
    assert pd.isna(models.loc["DI0", "est_rob_acc_500"])
