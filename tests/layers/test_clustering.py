import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from object_discovery.data.datasets.tetrominoes import generate_tetrominoes
from object_discovery.layers.clustering import appearance_clusters


def test_two_objects_of_one_colour_are_two_clusters_and_the_background_is_one() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[:, 0, 1:5, 1:5] = images[:, 0, 11:15, 11:15] = 1
    expected = torch.zeros(16, 16, dtype=torch.long)
    expected[1:5, 1:5], expected[11:15, 11:15] = 1, 2
    found = appearance_clusters(images, 16, 3).argmax(1)[0]
    assert adjusted_rand_score(expected.flatten(), found) == 1
    assert found[0] == 0  # the first cluster is the largest


def test_clusters_of_tetrominoes_are_mostly_pieces() -> None:
    images, masks = generate_tetrominoes(np.arange(40))
    found = appearance_clusters(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, 35, 4).argmax(1)
    scores = [adjusted_rand_score(mask.ravel(), labels) for mask, labels in zip(masks, found, strict=True)]
    assert np.mean(scores) > 0.95


@pytest.mark.parametrize("shift", [(1.0, 0.0), (2.0, -1.0), (0.1, 0.4)])
def test_range_of_colours_does_not_matter(shift: tuple[float, float]) -> None:
    images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    scale, offset = shift
    torch.testing.assert_close(
        appearance_clusters(scale * images + offset, 12, 3), appearance_clusters(images, 12, 3), rtol=1e-3, atol=1e-3
    )


def test_shares_are_finite_and_bounded_even_where_there_is_nothing_to_see() -> None:
    for images in (torch.zeros(1, 3, 8, 8), torch.rand(1, 3, 8, 8)):
        shares = appearance_clusters(images, 8, 5)
        assert shares.shape == (1, 5, 64)
        assert ((shares >= 0) & (shares <= 1)).all()


def test_clusters_that_explain_little_are_left_out() -> None:
    images = torch.zeros(3, 3, 20, 20)
    images[0, 0, 1:5, 1:5] = images[1, 0, 1:5, 1:5] = images[1, 1, 11:17, 11:17] = 1
    shares = appearance_clusters(images, 20, 6, min_gain=0.005)
    assert (shares.amax(2) > 0).tolist() == [[True] * used + [False] * (6 - used) for used in (2, 3, 1)]
    for found, image, used in zip(shares, images, (2, 3, 1), strict=True):  # as if no others had been asked for
        torch.testing.assert_close(found[:used], appearance_clusters(image[None], 20, used)[0])


def test_the_first_cluster_always_stays() -> None:
    shares = appearance_clusters(torch.rand(4, 3, 12, 12), 12, 3, min_gain=1.0)
    assert (shares.amax(2) > 0).tolist() == [[True, False, False]] * 4


def test_greedy_choice_covers_most() -> None:
    """Centre by centre, no other pixel would have added more likeness."""
    from object_discovery.layers.clustering import _similarity

    images = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    likeness = _similarity(images, 6)[0].double()
    nearest, rows = torch.zeros(36, dtype=torch.double), []
    for _ in range(3):
        covered = [float(torch.maximum(nearest, row).sum()) for row in likeness]
        rows.append(likeness[int(np.argmax(covered))])
        nearest = torch.maximum(nearest, rows[-1])
    chosen = torch.stack(rows)
    expected = chosen * chosen / chosen.sum(0)
    torch.testing.assert_close(appearance_clusters(images, 6, 3)[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_positions_are_exact_whatever_the_default_precision() -> None:
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    expected = appearance_clusters(images, 20, 4)
    torch.set_default_dtype(torch.bfloat16)  # as Lightning does with `bf16-true`
    try:
        assert torch.equal(appearance_clusters(images, 20, 4), expected)
    finally:
        torch.set_default_dtype(torch.float32)
