import pytest
import torch
from torch import nn

from margincons.certificates import exact_margins
from margincons.certificates.witnesses import push_over
from margincons.threat import vector_norm


def plateau():
    """Class 1 leads by 0.1 max(x2 - 0.25, 0) - max(0.5 - x1, 0): level on a whole rectangle, ahead beside it."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False)).eval()
    network[1].weight.data = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    network[1].bias.data = torch.tensor([0.5, -0.25])
    network[3].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.1]])
    return network


class Kinked(nn.Module):
    """Two ReLU layers and two shortcuts: many regions meet at an incumbent."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, images):
        hidden = self.first(images.flatten(1)).relu()
        return self.head(hidden + self.second(hidden).relu() - 0.5 * images.flatten(1))


def test_where_neither_outwards_nor_the_slope_leads_over_the_boundary_a_climb_does():
    result = exact_margins(plateau(), torch.tensor([0.0, 0.25]).view(1, 1, 1, 2), norm="L1")
    assert result.upper.item() == pytest.approx(0.5, abs=2e-6)
    assert result.witness.success.all()
    assert result.witness.upper.item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(("seed", "norm"), [(13, "L1"), (18, "Linf"), (18, "L2"), (108, "L1")])
def test_incumbents_at_kinks_and_in_corners_have_witnesses_next_to_them(seed, norm):
    torch.manual_seed(seed)
    network, images = Kinked().eval(), torch.rand(4, 1, 2, 2)
    images[2:] = images[2:].round()
    result = exact_margins(network, images, norm=norm)
    found = result.upper.isfinite()
    assert found.any()
    assert result.witness.success[found].all()
    assert (vector_norm(result.witness.adversarial - result.incumbent, "L2")[found] < 1e-3).all()


def test_what_is_no_incumbent_is_left_alone_and_a_level_plateau_has_no_witness():
    """The first image is next to where class 1 leads, the second has only ties within 0.01."""
    network, images = plateau(), torch.tensor([[0.4999, 0.25], [0.9, 0.1]]).view(2, 1, 1, 2)
    labels, found = torch.zeros(2, dtype=torch.long), torch.tensor([False, True])
    witness = push_over(network, images, images, labels, found=found, norm="Linf")
    assert not witness.success.any()
    assert torch.equal(witness.adversarial, images)
    assert push_over(network, images, images, labels, found=~found, norm="Linf").success.tolist() == [True, False]
