"""Neighbours against scikit-learn's."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.testing import assert_close

from margincons.costly_scores import neighbour_distance
from margincons.errors import UsageError


@pytest.mark.parametrize("k", [1, 5, 40])
def test_the_distance_is_that_of_scikit_learn_on_features_of_unit_length(k):
    features, known = torch.randn(30, 8, dtype=torch.float64), torch.randn(40, 8, dtype=torch.float64)
    unit, others = (rows / rows.norm(dim=1, keepdim=True) for rows in (features, known))
    distances, _ = NearestNeighbors(n_neighbors=k).fit(others.numpy()).kneighbors(unit.numpy())
    assert_close(neighbour_distance(features, known, k=k), torch.from_numpy(distances[:, k - 1]))
    assert_close(neighbour_distance(7 * features, 3 * known, k=k), torch.from_numpy(distances[:, k - 1]))


def test_a_known_image_is_its_own_nearest_neighbour():
    known = torch.randn(6, 4)
    assert (neighbour_distance(known, known, k=1) < 1e-6).all()


@pytest.mark.parametrize("k", [0, 7])
def test_more_neighbours_than_there_are_images_are_refused(k):
    with pytest.raises(UsageError, match="Expected a neighbour from 1 to 6"):
        neighbour_distance(torch.randn(2, 4), torch.randn(6, 4), k=k)
