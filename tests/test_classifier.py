"""The head of networks of every make is found and proven, or its absence is explained."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.attacks.autoattack_package import import_autoattack
from margincons.classifier import Classifier, first_logits
from margincons.errors import (
    BatchMemoryError,
    ForwardError,
    InPlaceError,
    NoHeadError,
    NonFiniteLogitsError,
    PixelRangeError,
    ShapeError,
    UsageError,
)
from margincons.zoo import load_model


class Cosine(nn.Module):
    """Logits are cosines between features and one direction per class."""

    def __init__(self, features, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features))

    def forward(self, features):
        return 20 * nn.functional.normalize(features) @ nn.functional.normalize(self.weight).T


class OwnLinear(nn.Module):
    """A linear layer of one's own making; the bias may be left out, or switched off by a flag of that name."""

    def __init__(self, features, classes, *, bias=None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features))
        self.bias = bias

    def forward(self, features):
        logits = features @ self.weight.T
        return logits + self.bias if isinstance(self.bias, nn.Parameter) else logits


class Backbone(nn.Module):
    """A body under another module's name, a head deep inside, and an unused linear layer registered last."""

    def __init__(self, head):
        super().__init__()
        self.inner = nn.ModuleDict({"body": body(), "top": nn.Sequential(nn.Identity(), head)})
        self.unused = nn.Linear(12, 10)

    def forward(self, images):
        return self.inner["top"](self.inner["body"](images))


class TwoHeads(nn.Module):
    """An auxiliary head of as many classes is called after the main one, or before it."""

    def __init__(self, *, auxiliary_last):
        super().__init__()
        self.body, self.auxiliary, self.main = body(), nn.Linear(12, 10), nn.Linear(12, 10)
        self.auxiliary_last = auxiliary_last

    def forward(self, images):
        features = self.body(images)
        order = [self.main, self.auxiliary] if self.auxiliary_last else [self.auxiliary, self.main]
        return {id(head): head(features) for head in order}[id(self.main)]


class Recalled(nn.Module):
    """The head is called once more, after the logits are made, on other features."""

    def __init__(self):
        super().__init__()
        self.body, self.head = body(), nn.Linear(12, 10)

    def forward(self, images):
        features = self.body(images)
        logits = self.head(input=features)  # by name, which a plain hook does not see
        self.head(features.flip(1))
        return logits


class Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList([plain(), plain(), plain()])

    def forward(self, images):
        return torch.stack([member(images) for member in self.members]).mean(dim=0)


class Tokens(nn.Module):
    """Patches are classified one by one and averaged, as in a vision transformer without a class token."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(8, 12), nn.Linear(12, 10)

    def forward(self, images):
        return self.head(self.embed(images[:, 0]).relu()).mean(dim=1)


class Constant(nn.Module):
    """No parameters at all."""

    def forward(self, images):
        return images.flatten(1)[:, :10]


def body():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 12), nn.ReLU())


def plain():
    return nn.Sequential(body(), nn.Linear(12, 10))


def images(n=5, shape=(1, 8, 8)):
    return torch.rand(n, *shape)


def robustbench(name):
    import_autoattack()
    from robustbench.model_zoo.architectures import dm_wide_resnet, resnet, wide_resnet

    return {
        "preact": lambda: dm_wide_resnet.DMPreActResNet(depth=18, width=0, num_classes=10),
        "resnet": resnet.ResNet18,
        "wide": lambda: wide_resnet.WideResNet(depth=10, widen_factor=1),
    }[name]()


WITH_HEAD = {
    "sequential": plain,
    "nested": lambda: Backbone(nn.Linear(12, 10)),
    "without a bias": lambda: Backbone(nn.Linear(12, 10, bias=False)),
    "own layer": lambda: Backbone(OwnLinear(12, 10)),
    "own layer with a bias": lambda: Backbone(OwnLinear(12, 10, bias=nn.Parameter(torch.randn(10)))),
    "own layer with a flag called bias": lambda: Backbone(OwnLinear(12, 10, bias=False)),
    "weight norm": lambda: Backbone(nn.utils.parametrizations.weight_norm(nn.Linear(12, 10))),
    "auxiliary head first": lambda: TwoHeads(auxiliary_last=False),
    "auxiliary head last": lambda: TwoHeads(auxiliary_last=True),
    "head called again": Recalled,
    "1x1 convolution": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "dropout behind": lambda: nn.Sequential(plain(), nn.Dropout(0.5)),
    "tokens": Tokens,
    "decision-preserving": lambda: load_model("digits/rescaled"),
}
WITHOUT_HEAD = {
    "ensemble": (Ensemble, "its last linear layer 'members.2.1'"),
    "cosine head": (lambda: Backbone(Cosine(12, 10)), "its last linear layer 'inner.top.1'"),
    "tanh behind": (lambda: nn.Sequential(plain(), nn.Tanh()), "its last linear layer '0.1'"),
    "scaled logits": (lambda: nn.Sequential(plain(), nn.LogSoftmax(dim=1)), "its last linear layer '0.1'"),
    "maximum over positions": (
        lambda: nn.Sequential(nn.Conv2d(1, 10, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        "its last linear layer '0'",
    ),
    "grouped convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 20, 3), nn.Conv2d(20, 10, 1, groups=2), nn.AvgPool2d(6), nn.Flatten()),
        "its last linear layer '1'",
    ),
    "no parameters": (Constant, "no layer that was used has one row of weights for each of 10 classes"),
    "only an unused layer": (
        lambda: nn.ModuleDict({"used": Constant(), "unused": nn.Linear(12, 10)}),
        "no layer that was used",
    ),
}


@pytest.mark.parametrize("make", WITH_HEAD.values(), ids=WITH_HEAD)
def test_the_head_that_was_used_is_found_and_gives_the_logits(make):
    network = make()
    classifier, inputs = Classifier(network, images(2)), images(7)
    outputs = classifier(inputs, batch_size=3)
    assert_close(outputs.logits, network(inputs))
    assert_close(classifier.head(outputs.features), outputs.logits, rtol=1e-4, atol=1e-5)
    assert_close(outputs.predicted, network(inputs).argmax(dim=1))
    assert classifier.head.weight.shape == (10, outputs.features.shape[1])
    assert not outputs.logits.requires_grad
    assert not outputs.features.requires_grad


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "width"), [("preact", 512), ("resnet", 512), ("wide", 64)])
def test_the_head_of_robustbenchs_architectures_is_found(name, width):
    network = robustbench(name)
    classifier, inputs = Classifier(network, images(2, (3, 32, 32))), images(3, (3, 32, 32))
    outputs = classifier(inputs)
    assert outputs.features.shape == (3, width)
    assert_close(classifier.head(outputs.features), network(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "reason"), WITHOUT_HEAD.values(), ids=WITHOUT_HEAD)
def test_without_a_head_features_are_refused_with_the_reason_and_logits_still_work(make, reason):
    network = make()
    if isinstance(network, nn.ModuleDict):
        network.forward = network["used"].forward
    classifier, inputs = Classifier(network, images(2)), images()
    assert classifier.head is None
    outputs = classifier(inputs)
    assert outputs.features is None
    assert_close(outputs.logits, network(inputs))
    with pytest.raises(NoHeadError, match="Expected a network that ends in a linear layer, but") as caught:
        classifier.features(inputs)
    assert reason in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "compiled",
    [
        torch.jit.script,
        lambda network: torch.jit.trace(network, images(2)),
        lambda network: torch.compile(network, backend="eager"),
        lambda network: nn.Sequential(nn.Identity(), torch.compile(network, backend="eager")),
    ],
)
def test_a_compiled_network_has_no_head_that_can_be_watched_and_its_logits_still_work(compiled):
    network = compiled(plain().eval())
    classifier, inputs = Classifier(network, images(2)), images()
    for _ in range(2):
        assert_close(classifier.logits(inputs), network(inputs))
    with pytest.raises(NoHeadError, match="a compiled network does not show what passes its layers; features are una"):
        classifier.features(inputs)


def test_a_head_after_a_compiled_part_is_found():
    network = nn.Sequential(torch.compile(nn.Flatten(), backend="eager"), nn.Linear(64, 10))
    assert Classifier(network, images(2)).features(images()).shape == (len(images()), 64)


def test_where_memory_runs_out_it_is_said_and_a_search_may_be_tried_with_fewer_images():
    class Full(nn.Module):
        def forward(self, inputs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BatchMemoryError, match="to fit into the memory of cpu, got CUDA out of memory"):
        Classifier(Full(), images(2))
    with pytest.raises(torch.OutOfMemoryError):
        first_logits(Full(), images(2))


def test_no_hook_stays_behind_and_a_batch_changes_nothing():
    network = plain()
    classifier, inputs = Classifier(network, images(2)), images(6)
    whole, parts = classifier(inputs), classifier(inputs, batch_size=1)
    assert_close(whole.logits, parts.logits)
    assert_close(whole.features, parts.features)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_the_network_is_put_into_eval_mode():
    network = nn.Sequential(plain(), nn.Dropout(0.5)).train()
    classifier, inputs = Classifier(network, images(2)), images(1)
    assert not any(module.training for module in network.modules())
    assert_close(classifier.logits(inputs), classifier.logits(inputs))  # batch norm would refuse a batch of one


def test_a_call_is_made_in_eval_mode_and_leaves_the_network_as_it_was():
    network, inputs = nn.Sequential(plain(), nn.Dropout(0.5)), images()
    classifier = Classifier(network, inputs)
    expected = classifier(inputs)
    network[0].train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for given in (inputs, inputs.double()):
        assert_close(classifier(given).logits, expected.logits)
        assert_close(classifier(given).features, expected.features)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == [
        module in set(network[0].modules()) for module in network.modules()
    ]


def test_the_last_layers_input_gives_the_features():
    network = plain()
    inputs = images()
    assert_close(Classifier(network, inputs).features(inputs), network[0](inputs))


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_counted(broken):
    network, inputs = Constant(), images(4)
    classifier = Classifier(network, inputs)
    network.forward = lambda batch: batch.flatten(1)[:, :10].masked_fill(batch[:, 0, :1, 0] > 0.5, broken)
    inputs[:, 0, 0, 0] = torch.tensor([0.2, 0.9, 0.1, 0.8])
    with pytest.raises(NonFiniteLogitsError, match="NaN or infinity on 2 of 4 images"):
        classifier(inputs)
    with pytest.raises(NonFiniteLogitsError):
        Classifier(network, inputs)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (lambda batch: batch, r"\(2, 1, 8, 8\)"),
        (lambda batch: batch.sum(), r"\(\)"),
        (lambda batch: batch.flatten(1)[:1], r"\(1, 64\)"),
        (lambda batch: (batch, batch), "tuple"),
        (lambda batch: SimpleNamespace(logits=batch), "SimpleNamespace; wrap .* forward returns its .logits"),
    ],
)
def test_an_output_that_is_not_logits_is_refused(output, got):
    network = Constant()
    network.forward = output
    with pytest.raises(ShapeError, match=rf"Expected the network's output to be logits \(n, k\), got {got}"):
        Classifier(network, images(2))


def test_images_that_do_not_fit_the_network_are_named_with_their_shape():
    with pytest.raises(ShapeError, match=r"what the network takes, got \(2, 3, 32, 32\): .*channels"):
        Classifier(plain(), images(2, (3, 32, 32)))


@pytest.mark.parametrize("first", [nn.Conv2d(1, 4, 8), nn.Conv2d(3, 4, 8), nn.Conv2d(2, 4, 8), nn.Identity()])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_three_channels_for_a_network_of_one_are_refused_with_the_way_out(first, channels):
    takes = getattr(first, "in_channels", 1)
    network = nn.Sequential(first, nn.Flatten(), nn.Linear(4 if isinstance(first, nn.Conv2d) else 64, 10))
    given = images(2, (channels, 8, 8))
    before = given.clone()
    if takes == channels:
        assert Classifier(network, given).head is not None
        return
    with pytest.raises(ShapeError) as caught:
        Classifier(network, given)
    told = str(caught.value).endswith(
        "; it takes one channel: a folder's pictures are read in three, store grey ones in an .npz."
    )
    assert told == (takes == 1 and channels == 3)
    assert_close(given, before)


def test_images_out_of_range_and_an_empty_example_are_refused():
    classifier = Classifier(plain(), images(2))
    with pytest.raises(PixelRangeError, match="divide by 255"):
        classifier(255 * images())
    with pytest.raises(PixelRangeError):
        Classifier(plain(), images() - 0.5)
    with pytest.raises(ShapeError, match="one image or more"):
        Classifier(plain(), images(0))


def test_an_empty_batch_gives_empty_outputs():
    outputs = Classifier(plain(), images(2))(images(0))
    assert outputs.logits.shape == (0, 10)
    assert outputs.features.shape == (0, 12)


def test_a_network_that_writes_into_its_images_or_fails_in_its_own_code_is_refused_and_harms_nothing():
    class Writes(nn.Module):
        def forward(self, inputs):
            return inputs.sub_(0.25).flatten(1)

    class Fails(nn.Module):
        def forward(self, inputs):
            raise LookupError("no such layer")

    images = torch.full((2, 1, 2, 2), 0.5)
    with pytest.raises(
        InPlaceError, match="its forward pass changed them in place; clone them first, or use inplace=F"
    ):
        Classifier(Writes(), images)
    assert (images == 0.5).all()
    with pytest.raises(
        ForwardError, match=r"images \(2, 1, 2, 2\) to logits, its forward pass failed: LookupError: no such"
    ):
        Classifier(Fails(), images)


def test_a_batch_of_no_images_is_refused():
    classifier = Classifier(load_model("digits/mlp"), torch.rand(2, 1, 8, 8))
    with pytest.raises(UsageError, match="Expected a batch size of one image or more, got 0"):
        classifier(torch.rand(2, 1, 8, 8), batch_size=0)
