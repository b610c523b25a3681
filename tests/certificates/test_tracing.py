import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from margincons.certificates import relu_graph
from margincons.errors import UnsupportedLayerError

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Of(nn.Module):
    """A network given by its forward pass."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, images):
        return self.function(self, images)


class Masked(nn.Module):
    """A network with an argument more than images."""

    def forward(self, images, scale=2.0):
        return (scale * images).flatten(1)


class Counting(nn.Module):
    """A network that never gives the same logits twice."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images):
        self.calls += 1
        return (images + self.calls).flatten(1)


def read_and_overwritten(hidden):
    return 3 * hidden + hidden.relu_()


def accumulated(hidden, factors):
    for factor in factors:
        hidden *= factor
        hidden += hidden
    hidden -= 1
    hidden /= 5
    return hidden


class Overwritten(nn.Module):
    """A network that goes on to read a hidden layer after it was written on."""

    def __init__(self, write):
        super().__init__()
        self.first, self.write, self.last = nn.Conv2d(3, 3, 1), write, nn.Conv2d(3, 3, 1)

    def forward(self, images):
        hidden = self.first(images)
        return (self.write(hidden) + self.last(hidden)).flatten(1)


def pooled(module):
    return nn.Sequential(module, nn.Flatten())


READABLE = {
    "strided, dilated, grouped convolution": pooled(nn.Conv2d(3, 6, 3, stride=2, padding=(1, 2), dilation=2, groups=3)),
    "average pooling with padding": pooled(nn.AvgPool2d(3, stride=2, padding=1)),
    "average pooling with a divisor": pooled(nn.AvgPool2d(2, padding=1, divisor_override=3)),
    "average pooling, padding not counted": pooled(nn.AvgPool2d((2, 4), count_include_pad=False)),
    "adaptive average pooling": pooled(nn.AdaptiveAvgPool2d((4, None))),
    "no bias": nn.Sequential(nn.Conv2d(3, 2, 8, bias=False), nn.Flatten(), nn.Linear(2, 4, bias=False)),
    "batch norm of vectors": nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.BatchNorm1d(7, affine=False)),
    "identity and dropout": nn.Sequential(nn.Identity(), nn.Dropout(), nn.Flatten()),
    "view by size": Of(lambda self, x: x.view(x.size(0), -1)),
    "reshape by shape": Of(lambda self, x: x.reshape(x.shape[0], -1)),
    "functional pooling": Of(lambda self, x: torch.flatten(F.adaptive_avg_pool2d(F.avg_pool2d(x, 2), 1), 1)),
    "functional linear": Of(lambda self, x: F.linear(x.flatten(1), torch.ones(4, 192), torch.arange(4.0))),
    "constants on either side": Of(lambda self, x: (2 - (1 + x) * 3).flatten(1) / 4),
    "difference of branches": Of(lambda self, x: (x.relu() - self.layer(x)).flatten(1), layer=nn.Conv2d(3, 3, 1)),
    "read before it is overwritten": Of(lambda self, x: read_and_overwritten(1 - 2 * x).flatten(1)),
    "overwritten and written again": Of(lambda self, x: accumulated(1 - x, [2, 3]).flatten(1)),
    "argument with a default": Masked(),
    "in-place sum": Of(lambda self, x: self.layer(x).add_(x).relu_().flatten(1), layer=nn.Conv2d(3, 3, 1)),
}


@pytest.mark.parametrize("name", READABLE)
def test_graph_and_network_give_the_same_logits(name):
    network = READABLE[name].eval()
    with torch.no_grad():
        expected = network(IMAGES)
    assert_close(relu_graph(network, IMAGES)(IMAGES), expected.double(), rtol=1e-4, atol=1e-5)


def test_a_residual_network_with_every_kind_of_layer_is_read(residual):
    images = torch.rand(6, 1, 2, 2)
    network = residual(0)
    with torch.no_grad():
        assert_close(relu_graph(network, images)(images), network(images).double(), rtol=1e-5, atol=1e-6)


UNREADABLE = {
    "1 (MaxPool2d)": nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid()),
    "0 (Conv2d): these options of it are not covered (padding mode 'reflect')": pooled(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    ),
    "0 (AdaptiveAvgPool2d): these options": nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten()),
    "softmax": Of(lambda self, x: x.flatten(1).softmax(dim=1)),
    "mul: two branches meet": Of(lambda self, x: (x * x).flatten(1)),
    "truediv: the constant changes the shape, or": Of(lambda self, x: (1 / x).flatten(1)),
    "flatten: these options of it are not covered (the batch axis changes)": Of(lambda self, x: x.flatten(0)),
    "it cannot be traced (module is not installed": Of(lambda self, x: nn.Flatten()(nn.ReLU()(x))),
    "mul_: it overwrites the images": Of(lambda self, x: x.flatten(1).mul_(2)),
    "control flow": Of(lambda self, x: x.flatten(1) if x.sum() > 0 else -x.flatten(1)),
    "it is not logits (n, k)": nn.ReLU(),
    "0 (AvgPool2d): these options of it are not covered (ceil_mode": pooled(nn.AvgPool2d(3, ceil_mode=True)),
    "(ceil_mode, or padding that is not counted)": pooled(nn.AvgPool2d(2, padding=(0, 1), count_include_pad=False)),
    "1 (AvgPool2d): these options of it are not covered (images without": nn.Sequential(
        nn.Flatten(1, 2), nn.AvgPool2d(2)
    ),
    "mean: it is none of these, write it as AdaptiveAvgPool2d": Of(lambda self, x: x.mean((2, 3))),
    "cat: it is none of these": Of(lambda self, x: torch.cat([x, x], dim=1).flatten(1)),
    "add: it is none of these": Of(lambda self, x: torch.add(x, x, alpha=2).flatten(1)),
    "sub_: it overwrites the images": Of(lambda self, x: x.sub_(0.5).flatten(1)),
    "its logits for 5 images have shape (1, 960), expected (5, 192)": Of(lambda self, x: x.reshape(1, -1)),
    "Of: its logits differ": Of(lambda self, x: (x / x.shape[0]).flatten(1)),
    "Counting: its logits differ": Counting(),
}


@pytest.mark.parametrize("layer", UNREADABLE)
def test_the_first_layer_that_cannot_be_read_is_named(layer):
    with pytest.raises(UnsupportedLayerError) as error:
        relu_graph(UNREADABLE[layer].eval(), IMAGES)
    assert layer in str(error.value)


WRITES = {
    "module": nn.ReLU(inplace=True),
    "function": lambda hidden: F.relu(hidden, inplace=True),
    "function with an underscore": torch.relu_,
    "method": lambda hidden: hidden.relu_(),
    "of a view": lambda hidden: hidden.flatten(1).relu_().view(-1, 3, 8, 8),
    "behind a layer that does nothing": nn.Sequential(nn.Dropout(), nn.ReLU(inplace=True)),
    "operator": lambda hidden: operator.iadd(hidden, (hidden - 99).relu()),  # 0 wherever it is looked at
}


@pytest.mark.parametrize("write", WRITES)
def test_reading_what_was_overwritten_in_place_is_refused(write):
    with pytest.raises(
        UnsupportedLayerError, match=r"last \(Conv2d\): it reads what a layer before it has overwritten"
    ):
        relu_graph(Overwritten(WRITES[write]).eval(), IMAGES)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_misread_layer_that_black_images_hide_is_found_on_random_ones(scale):
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False))
    network[1].weight.data *= scale
    network[1].register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(UnsupportedLayerError, match="its logits differ from those of its traced layers"):
        relu_graph(network, torch.zeros(3, 3, 8, 8))


def test_a_misread_layer_that_random_images_hide_is_found_on_the_given_ones():
    network = Of(lambda self, x: x.flatten(1))
    network.register_forward_hook(lambda module, args, output: output + (output.amin(dim=1, keepdim=True) == 1))
    with pytest.raises(UnsupportedLayerError, match="its logits differ from those of its traced layers"):
        relu_graph(network, torch.cat([IMAGES, torch.ones(1, 3, 8, 8)]))


def test_training_mode_is_refused():
    with pytest.raises(UnsupportedLayerError, match=r"1 \(BatchNorm2d\): it is in training mode"):
        relu_graph(nn.Sequential(nn.Conv2d(3, 2, 8), nn.BatchNorm2d(2), nn.Flatten()), IMAGES)


def test_a_graph_that_disagrees_with_its_network_is_refused():
    network = Of(lambda self, x: x.flatten(1))
    network.register_forward_hook(lambda module, args, output: output + 1)  # invisible to tracing
    with pytest.raises(UnsupportedLayerError, match="its logits differ from those of its traced layers by 1"):
        relu_graph(network, IMAGES)


def test_the_network_itself_is_left_alone():
    network = pooled(nn.Conv2d(3, 2, 3)).eval()
    network(IMAGES)
    relu_graph(network, IMAGES)
    assert network[0].weight.dtype == torch.float32
    assert network[0].weight.requires_grad
