import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from object_discovery.data.datasets.tetrominoes import generate_tetrominoes
from object_discovery.layers.clustering import _similarity, appearance_clusters


def test_two_objects_of_equal_colour_are_separate_clusters() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[:, 0, 1:5, 1:5] = images[:, 0, 11:15, 11:15] = 1
    expected = torch.zeros(16, 16, dtype=torch.long)
    expected[1:5, 1:5], expected[11:15, 11:15] = 1, 2
    labels = appearance_clusters(images, 16, 3).argmax(1)[0]
    assert adjusted_rand_score(expected.flatten(), labels) == 1
    assert labels[0] == 0  # the first cluster is the largest


def test_clusters_of_tetrominoes_match_objects() -> None:
    images, masks = generate_tetrominoes(np.arange(40))
    predictions = appearance_clusters(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, 35, 4).argmax(1)
    scores = [adjusted_rand_score(mask.ravel(), labels) for mask, labels in zip(masks, predictions, strict=True)]
    assert np.mean(scores) > 0.95


@pytest.mark.parametrize("shift", [(1.0, 0.0), (2.0, -1.0), (0.1, 0.4)])
def test_clusters_are_invariant_to_scale_and_offset_of_colours(shift: tuple[float, float]) -> None:
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    scale, offset = shift
    torch.testing.assert_close(
        appearance_clusters(scale * images + offset, 12, 3), appearance_clusters(images, 12, 3), rtol=1e-3, atol=1e-3
    )


def test_assignments_are_in_unit_interval_for_constant_and_random_images() -> None:
    for images in (torch.zeros(1, 3, 8, 8), torch.rand(1, 3, 8, 8)):
        assignments = appearance_clusters(images, 8, 5)
        assert assignments.shape == (1, 5, 64)
        assert ((assignments >= 0) & (assignments <= 1)).all()


def test_clusters_below_min_gain_are_dropped() -> None:
    images = torch.zeros(3, 3, 20, 20)
    images[0, 0, 1:5, 1:5] = images[1, 0, 1:5, 1:5] = images[1, 1, 11:17, 11:17] = 1
    assignments = appearance_clusters(images, 20, 6, min_gain=0.005)
    assert (assignments.amax(2) > 0).tolist() == [[True] * active + [False] * (6 - active) for active in (2, 3, 1)]
    for assignment, image, active in zip(assignments, images, (2, 3, 1), strict=True):  # as with fewer clusters
        torch.testing.assert_close(assignment[:active], appearance_clusters(image[None], 20, active)[0])


def test_first_cluster_is_never_dropped() -> None:
    assignments = appearance_clusters(torch.rand(4, 3, 12, 12), 12, 3, min_gain=1.0)
    assert (assignments.amax(2) > 0).tolist() == [[True, False, False]] * 4


def test_each_centre_maximises_total_similarity() -> None:
    images = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    similarity = _similarity(images, 6)[0].double()
    max_similarity, rows = torch.zeros(36, dtype=torch.double), []
    for _ in range(3):
        totals = [float(torch.maximum(max_similarity, row).sum()) for row in similarity]
        rows.append(similarity[int(np.argmax(totals))])
        max_similarity = torch.maximum(max_similarity, rows[-1])
    similarities = torch.stack(rows)
    expected = similarities * similarities / similarities.sum(0)
    torch.testing.assert_close(appearance_clusters(images, 6, 3)[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_clusters_are_independent_of_default_dtype() -> None:
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    expected = appearance_clusters(images, 20, 4)
    torch.set_default_dtype(torch.bfloat16)  # as Lightning does with `bf16-true`
    try:
        assert torch.equal(appearance_clusters(images, 20, 4), expected)
    finally:
        torch.set_default_dtype(torch.float32)
