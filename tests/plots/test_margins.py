"""Pictures of the plane."""

import matplotlib.pyplot as plt
import pytest
import torch

from margincons.plots.margins import plane_circles


@pytest.mark.parametrize(("radii", "places"), [([0.2, 0.1, 0.3], "213"), ([0.1, 0.2, 0.3], "123")])
def test_a_point_keeps_its_letter_whatever_its_place(radii, places):
    points, (figure, axes) = torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.8, 0.2]]), plt.subplots()
    plane_circles(axes, points, torch.tensor(radii))
    texts = [note.get_text() for note in axes.texts]
    assert texts[::2] == ["A", "B", "C"]
    assert texts[1::2] == list(places)
    assert [circle.radius for circle in axes.patches] == pytest.approx(radii)
    plt.close(figure)
