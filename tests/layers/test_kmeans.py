import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from object_discovery.layers.kmeans import kmeans


def make_points(images: int = 3, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(images, 1, 5, 4, generator=generator) * 3
    return (centres + torch.randn(images, 12, 5, 4, generator=generator)).flatten(1, 2) + offset


def squared_error(x: torch.Tensor, labels: torch.Tensor) -> float:
    """Sum of squared distances from the cluster means, in NumPy."""
    array, names = x.double().numpy(), labels.numpy()
    return float(sum(((array[names == k] - array[names == k].mean(0)) ** 2).sum() for k in np.unique(names)))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_error_is_at_most_that_of_scikit_learn(offset: float) -> None:
    torch.manual_seed(0)
    x = make_points(offset=offset)
    labels, centres = kmeans(x, 5, restarts=8)
    for image, points in enumerate(x):
        expected = KMeans(5, n_init=20, random_state=0).fit(points.double().numpy()).inertia_
        assert squared_error(points, labels[image]) <= expected * 1.001
        means = torch.stack([points[labels[image] == k].mean(0) for k in range(5)])
        torch.testing.assert_close(centres[image], means - points.mean(0), atol=1e-3, rtol=1e-4)


def test_restarts_lower_the_error_and_a_seed_is_reproducible() -> None:
    x = make_points()
    torch.manual_seed(1)
    single = kmeans(x, 7, restarts=1)[0]
    torch.manual_seed(1)
    best = kmeans(x, 7, restarts=6)[0]
    torch.manual_seed(1)
    assert torch.equal(kmeans(x, 7, restarts=6)[0], best)
    assert all(
        squared_error(points, labels) <= squared_error(points, single_labels) + 1e-6
        for points, single_labels, labels in zip(x, single, best, strict=True)
    )


def test_equal_points_and_one_cluster_per_point() -> None:
    labels, centres = kmeans(torch.ones(1, 6, 2), 3)
    assert labels.max() < 3
    assert centres.isfinite().all()
    assert sorted(kmeans(make_points(1)[:, :4], 4)[0][0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 7])
def test_number_of_clusters_out_of_range_raises(count: int) -> None:
    with pytest.raises(ValueError, match=f"`num_clusters` to be from 1 to 6, but got {count}"):
        kmeans(torch.rand(1, 6, 2), count)
