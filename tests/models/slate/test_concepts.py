import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from object_discovery import ConceptLibrary
from object_discovery.models.slate.concepts import kmeans


def blobs(num_clusters: int = 4, size: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_clusters).repeat(size)
    centres = 20 * torch.eye(num_clusters, 5)
    return centres[labels] + torch.randn(len(labels), 5, generator=generator), labels


def test_clusters_are_those_that_were_there() -> None:
    points, labels = blobs()
    torch.manual_seed(0)
    centres, clusters = kmeans(points, 4)
    assert adjusted_rand_score(labels, clusters) == 1
    for index in range(4):
        torch.testing.assert_close(centres[index], points[clusters == index].mean(0))


def test_the_spread_is_about_that_of_scikit_learn() -> None:
    points = torch.rand(300, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    centres, clusters = kmeans(points, 6, num_iterations=300)
    spread = float((points - centres[clusters]).square().sum())
    oracle = KMeans(6, n_init=10, random_state=0).fit(points.numpy())
    assert oracle.inertia_ * 0.99 <= spread <= oracle.inertia_ * 1.15


def test_equal_points_make_no_trouble() -> None:
    centres, clusters = kmeans(torch.ones(5, 3), 3)
    assert centres.isfinite().all()
    assert clusters.shape == (5,)


@pytest.mark.parametrize("count", [0, 6])
def test_there_must_be_as_many_points_as_clusters(count: int) -> None:
    with pytest.raises(ValueError, match=f"`num_clusters` to be from 1 to the number of points 5, but got {count}"):
        kmeans(torch.randn(5, 3), count)


def test_scenes_have_a_slot_of_each_concept() -> None:
    points, _ = blobs()
    torch.manual_seed(0)
    library = ConceptLibrary(points.view(50, 4, 5), 4)
    scenes = library.sample(30)
    assert scenes.shape == (30, 4, 5)
    for index in range(4):
        members = library.members(index)
        assert (scenes[:, index, None] == members).all(-1).any(1).all()
    assert len({str(scene) for scene in scenes.tolist()}) > 20
    assert library.sample(2, concepts=[1, 1]).shape == (2, 2, 5)
    assert (library.sample(9, concepts=[3])[:, :1, None] == library.members(3)).all(-1).any(2).all()


@pytest.mark.parametrize("concept", [-1, 4])
def test_unknown_concepts_are_refused(concept: int) -> None:
    library = ConceptLibrary(blobs()[0].view(50, 4, 5), 4)
    with pytest.raises(ValueError, match=f"concepts to be from 0 to 3, but got {concept}"):
        library.sample(1, concepts=[concept])


def test_empty_concepts_are_refused() -> None:
    library = ConceptLibrary(torch.ones(3, 2, 4), 2)
    with pytest.raises(ValueError, match=r"concept \d to have slots, but it is empty: ask for fewer concepts"):
        library.sample(1)
