import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from object_discovery import ConceptLibrary


def blobs(num_clusters: int = 4, size: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_clusters).repeat(size)
    centres = 20 * torch.eye(num_clusters, 5)
    return centres[labels] + torch.randn(len(labels), 5, generator=generator), labels


def test_concepts_recover_the_true_clusters() -> None:
    points, labels = blobs()
    torch.manual_seed(0)
    library = ConceptLibrary(points.view(50, 4, 5), 4)
    assert adjusted_rand_score(labels, library.concepts) == 1


@pytest.mark.parametrize("count", [0, 7])
def test_number_of_concepts_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"`num_concepts` to be from 1 to the number of slots 6, but got {count}"):
        ConceptLibrary(torch.randn(2, 3, 4), count)


def test_sampled_scenes_have_a_slot_of_each_concept() -> None:
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


def test_inactive_slots_are_not_clustered() -> None:
    slots = torch.randn(5, 3, 4)
    library = ConceptLibrary(torch.cat([slots, torch.zeros(5, 2, 4)], 1), 2)
    assert torch.equal(library.slots, slots.flatten(0, 1))
    assert library.concepts.shape == (15,)
