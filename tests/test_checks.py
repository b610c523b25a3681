"""Checks before work: each one sees its own fault, and none sees one in a sound network."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.cautions import (
    BatchDependentWarning,
    ChanceAccuracyWarning,
    DynamicWarning,
    NoHeadWarning,
    ProbabilitiesWarning,
    RandomisedWarning,
    TrainingModeWarning,
    VanishingGradientsWarning,
)
from margincons.checks import check_before_work, heard, warn_before_work
from margincons.classifier import Classifier
from margincons.data import load_images
from margincons.errors import (
    ClassesError,
    LabelRangeError,
    NoGradientError,
    NonFiniteLogitsError,
    ShapeError,
    UnsupportedLayerError,
    UsageError,
)
from margincons.passes import CountPasses
from margincons.zoo import list_models, load_model

IMAGES = load_images("digits", n=40)


def checked(model, images=IMAGES, **options):
    return check_before_work(Classifier(model, images.inputs[:2]), images, **options)


class Changed(nn.Module):
    """A sound network whose output, or input, something is done to."""

    def __init__(self, after=lambda logits: logits, before=lambda inputs: inputs):
        super().__init__()
        self.network, self.after, self.before = load_model("digits/mlp"), after, before

    def forward(self, inputs):
        return self.after(self.network(self.before(inputs)))


def stubborn(module):
    """The module, deaf to eval()."""
    module.train()
    module.train = lambda mode=True: module
    return module


class Purified(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = load_model("digits/mlp")

    def forward(self, inputs):
        with torch.enable_grad():
            moved = inputs.detach().requires_grad_()
            slope = torch.autograd.grad(self.network(moved).sum(), moved)[0]
        return self.network(inputs - 0.001 * slope)


def with_dropout():
    return nn.Sequential(nn.Flatten(), stubborn(nn.Dropout(0.2)), load_model("digits/mlp")[1:])


def with_batch_statistics():
    return nn.Sequential(nn.BatchNorm2d(1, affine=False, track_running_stats=False), load_model("digits/mlp"))


def relabelled(labels):
    return replace(IMAGES, labels=labels)


@pytest.mark.parametrize("model_id", [name for name in list_models("digits/") if name != "digits/masked"])
@pytest.mark.parametrize("loss", ["logit gap", "cross-entropy"])
def test_the_bundled_networks_pass_every_check(model_id, loss):
    assert checked(load_model(model_id), loss=loss) == []


@pytest.mark.parametrize(
    ("model", "kinds", "text"),
    [
        (
            lambda: Changed(before=lambda inputs: inputs + 0.1 * torch.randn_like(inputs)),
            {RandomisedWarning},
            "Two passes over 32 images differ, by up to 0.",
        ),
        (with_dropout, {RandomisedWarning, TrainingModeWarning}, "of the largest logit and in "),
        (
            with_dropout,
            {RandomisedWarning, TrainingModeWarning},
            "1 modules are still in training mode after eval(), first 1 (Dropout); does it override train()?",
        ),
        (with_batch_statistics, {BatchDependentWarning}, "Logits change with the batch, by up to 0."),
        (Purified, {DynamicWarning}, "The network computes gradients in its own forward pass; attacks may fail"),
        (
            lambda: Changed(lambda logits: logits.softmax(dim=1)),
            {ProbabilitiesWarning, VanishingGradientsWarning, NoHeadWarning},
            "Outputs all lie in [0, 1] and sum to 1, as probabilities do; leave out the last softmax",
        ),
        (
            lambda: Changed(lambda logits: logits.sigmoid()),
            {ProbabilitiesWarning, NoHeadWarning},
            "Outputs all lie in [0, 1], as probabilities do",
        ),
        (
            lambda: Changed(lambda logits: (4 * logits).round() / 4 + 0 * logits),
            {VanishingGradientsWarning, NoHeadWarning},
            "The gradient of the logit gap vanishes on 32 of 32 images (100%); an attack has nothing to climb there",
        ),
        (
            lambda: Changed(lambda logits: logits + (logits - logits.detach()) * 1e30 * 1e30),
            {VanishingGradientsWarning},
            "vanishes on 32 of 32",
        ),
        (
            lambda: Changed(before=lambda inputs: (inputs.detach() - 1e-4 * inputs.detach()) + 1e-4 * inputs),
            {VanishingGradientsWarning},
            "The gradient of the logit gap vanishes on ",
        ),
        (
            lambda: Changed(lambda logits: logits.log_softmax(dim=1) + logits.logsumexp(dim=1, keepdim=True).tanh()),
            {NoHeadWarning},
            "No features: what its last linear layer 'network.5' gives differs from the logits",
        ),
        (
            lambda: nn.Sequential(Changed(), nn.Linear(10, 10, bias=False).requires_grad_(False)),
            {ChanceAccuracyWarning},
            " of the first 32 images are classified as labelled, as guessing would do; do labels count the classes",
        ),
    ],
)
def test_each_doubtful_network_is_named_and_nothing_else_is(model, kinds, text):
    found = checked(model())
    assert {type(one) for one in found} - {NoHeadWarning, ChanceAccuracyWarning} == kinds - {
        NoHeadWarning,
        ChanceAccuracyWarning,
    }
    assert kinds <= {type(one) for one in found}
    assert any(text in str(one) for one in found)


class Ensemble(nn.Module):
    """The mean of the probabilities, as logarithms, of several networks: no linear layer gives its logits."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(load_model(name) for name in ("digits/mlp", "digits/standard"))

    def forward(self, inputs):
        return torch.stack([member(inputs).softmax(dim=1) for member in self.members]).mean(dim=0).log()


def test_an_ensemble_without_a_head_is_told_what_its_record_will_lack():
    (only,) = checked(Ensemble())
    assert isinstance(only, NoHeadWarning)
    assert str(only).startswith("No features: what its last linear layer 'members.1.7' gives differs from the logits")
    assert str(only).endswith(
        "the record has no feature margins and no feature distances; everything else is measured."
    )


def test_the_cross_entropy_vanishes_where_logits_are_multiplied_and_the_logit_gap_does_not():
    model = load_model("digits/masked")
    (only,) = checked(model, loss="cross-entropy")
    inputs = IMAGES.inputs[:32].clone().requires_grad_()
    logits = model(inputs)
    (gradient,) = torch.autograd.grad(
        nn.functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum"), inputs
    )
    lost = int((gradient.flatten(1) == 0).all(dim=1).sum())
    assert f"The gradient of the cross-entropy vanishes on {lost} of 32 images ({lost / 32:.0%})" in str(only)
    assert lost > 16
    assert checked(model, loss="logit gap") == []


@pytest.mark.parametrize(
    ("model", "images", "error", "text"),
    [
        (
            load_model("digits/mlp"),
            relabelled(IMAGES.labels + 1),
            LabelRangeError,
            "Expected labels 0 to 9, one per logit of the network, got 1 to 10; do they count from 1?",
        ),
        (
            load_model("digits/mlp"),
            relabelled(IMAGES.labels - 1),
            LabelRangeError,
            "one per logit of the network, got -1 to 8; is the network trained for these images?",
        ),
        (
            load_model("digits/mlp"),
            relabelled(torch.where(torch.arange(40) == 39, 99, 0)),
            LabelRangeError,
            "got 0 to 99; is the network",
        ),
        (
            nn.Sequential(load_model("digits/mlp"), nn.Linear(10, 100)),
            IMAGES,
            ClassesError,
            "Expected a network with 10 logits for digits, got 100; was it trained for other images?",
        ),
        (
            Changed(lambda logits: torch.where(torch.arange(len(logits))[:, None] == 7, torch.nan, logits)),
            IMAGES,
            NonFiniteLogitsError,
            "Expected finite logits, got NaN or infinity on 1 of 32 images",
        ),
    ],
)
def test_what_makes_a_measurement_pointless_is_refused(model, images, error, text):
    with pytest.raises(error) as caught:
        checked(model, images)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            lambda: Changed(lambda logits: logits.detach()),
            "but they do not depend on them; does the network detach them",
        ),
        (lambda: Changed(before=lambda inputs: torch.from_numpy(inputs.numpy())), "Can't call numpy() on Tensor that"),
        (lambda: Changed(before=lambda inputs: inputs.detach()), "but they do not depend on them;"),
        (lambda: Changed(lambda logits: logits.exp().add_(1)), "modified by an inplace operation"),
    ],
)
def test_a_network_that_cannot_be_differentiated_is_refused_before_an_attack_fails_on_it(model, reason):
    for loss in ("logit gap", "cross-entropy"):
        with pytest.raises(NoGradientError) as caught:
            checked(model(), loss=loss)
    assert reason in str(caught.value)


def test_a_layer_that_no_certificate_reads_is_refused_before_work_where_one_is_wanted():
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))
    few = replace(IMAGES, inputs=IMAGES.inputs[:8], labels=IMAGES.labels[:8])
    classifier = Classifier(smooth, few.inputs)
    assert warn_before_work(classifier, few, {"certificate": None}) == []
    with pytest.raises(UnsupportedLayerError, match="GELU"):
        warn_before_work(classifier, few, {"certificate": "crown"})


def test_images_of_another_shape_are_refused():
    model, images = load_model("digits/standard"), IMAGES
    for wrong in (images.inputs.expand(-1, 3, -1, -1), nn.functional.pad(images.inputs, (1, 1, 1, 1))):
        with pytest.raises(ShapeError, match="Expected the images to be what the network takes, got"):
            checked(model, replace(images, inputs=wrong))


def test_images_of_ones_own_may_have_fewer_classes_than_the_network():
    mine = replace(IMAGES, name="mine", labels=IMAGES.labels.clamp(max=8))
    assert checked(load_model("digits/mlp"), mine) == []


@pytest.mark.parametrize("name", ["digits", "cifar100", "imagenet"])
def test_a_file_of_ones_own_may_be_called_as_a_known_data_set(name):
    model = nn.Sequential(load_model("digits/mlp"), nn.Linear(10, 50))
    assert all(isinstance(one, ChanceAccuracyWarning) for one in checked(model, replace(IMAGES, name=name)))
    with pytest.raises(ClassesError, match=f"logits for {name}, got 50"):
        checked(model, replace(IMAGES, name=f"{name}/test"))


def test_few_images_say_nothing_of_accuracy():
    few = replace(IMAGES, inputs=IMAGES.inputs[:15], labels=(IMAGES.labels[:15] + 1) % 10)
    assert checked(load_model("digits/mlp"), few) == []
    (only,) = checked(load_model("digits/mlp"), relabelled((IMAGES.labels + 1) % 10))
    assert isinstance(only, ChanceAccuracyWarning)


def test_checks_draw_no_random_number_change_nothing_and_cost_a_few_passes():
    model = Changed(before=lambda inputs: inputs + torch.randn_like(inputs))
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    counting = CountPasses(model)
    classifier = Classifier(counting, IMAGES.inputs[:2])
    looked = counting.forward_images
    torch.set_rng_state(before)
    check_before_work(classifier, IMAGES)
    assert_close(torch.get_rng_state(), before)
    assert_close(dict(model.state_dict()), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert counting.forward_images - looked <= 4 * 32 + 2
    assert counting.backward_images <= 32


def test_cautions_before_work_are_warnings_and_what_a_record_keeps():
    classifier = Classifier(Ensemble(), IMAGES.inputs[:2])
    with pytest.warns(NoHeadWarning) as seen:
        kept = warn_before_work(classifier, IMAGES, {"epsilon": None, "batch_size": 8})
    assert kept == [{"name": "NoHeadWarning", "text": str(seen[0].message)}]
    with pytest.warns(VanishingGradientsWarning, match=r"of the cross-entropy vanishes on \d of 8 images"):
        warn_before_work(
            Classifier(load_model("digits/masked"), IMAGES.inputs[:2]), IMAGES, {"epsilon": 0.1, "batch_size": 8}
        )


def test_fab_is_refused_on_a_network_that_draws_at_random():
    noisy = Changed(before=lambda inputs: inputs + 0.1 * torch.randn_like(inputs))
    classifier = Classifier(noisy, IMAGES.inputs[:2])
    for attack in ("fab_paper", "fab_targeted"):
        with pytest.raises(UsageError, match="a network that says the same twice"):
            warn_before_work(classifier, IMAGES, {"attack": attack})
    with pytest.warns(RandomisedWarning):
        warn_before_work(classifier, IMAGES, {"attack": "minimum_norm"})


def test_cautions_during_work_are_heard_once_by_name_and_given_again():
    with pytest.warns(UserWarning) as seen:
        with heard() as found:
            for number in range(3):
                warnings.warn(NoHeadWarning(f"number {number}"), stacklevel=1)
            assert found == []
        assert [one["text"].split(";")[0] for one in found] == ["number 0"]
    assert [str(one.message).split(";")[0] for one in seen] == ["number 0", "number 1", "number 2"]
    with pytest.raises(KeyError), heard():
        raise KeyError
