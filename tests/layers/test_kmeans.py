import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from object_discovery.layers.kmeans import kmeans


def points(images: int = 3, far: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(images, 1, 5, 4, generator=generator) * 3
    return (centres + torch.randn(images, 12, 5, 4, generator=generator)).flatten(1, 2) + far


def error(x: torch.Tensor, labels: torch.Tensor) -> float:
    """The sum of squared distances from the means, in numpy."""
    values, names = x.double().numpy(), labels.numpy()
    return float(sum(((values[names == k] - values[names == k].mean(0)) ** 2).sum() for k in np.unique(names)))


@pytest.mark.parametrize("far", [0.0, 1000.0])
def test_clusters_are_as_good_as_those_of_scikit_learn(far: float) -> None:
    torch.manual_seed(0)
    x = points(far=far)
    labels, centres = kmeans(x, 5, restarts=8)
    for image, one in enumerate(x):
        expected = KMeans(5, n_init=20, random_state=0).fit(one.double().numpy()).inertia_
        assert error(one, labels[image]) <= expected * 1.001
        means = torch.stack([one[labels[image] == k].mean(0) for k in range(5)])
        torch.testing.assert_close(centres[image], means - one.mean(0), atol=1e-3, rtol=1e-4)


def test_more_starts_are_never_worse_and_a_seed_gives_the_same() -> None:
    x = points()
    torch.manual_seed(1)
    one = kmeans(x, 7, restarts=1)[0]
    torch.manual_seed(1)
    many = kmeans(x, 7, restarts=6)[0]
    torch.manual_seed(1)
    assert torch.equal(kmeans(x, 7, restarts=6)[0], many)
    assert all(error(a, m) <= error(a, o) + 1e-6 for a, o, m in zip(x, one, many, strict=True))


def test_equal_points_and_as_many_clusters_as_points() -> None:
    labels, centres = kmeans(torch.ones(1, 6, 2), 3)
    assert labels.max() < 3
    assert centres.isfinite().all()
    assert sorted(kmeans(points(1)[:, :4], 4)[0][0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 7])
def test_wrong_numbers_of_clusters_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"`num_clusters` to be from 1 to 6, but got {count}"):
        kmeans(torch.rand(1, 6, 2), count)
