import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import adjusted_rand_score

from object_discovery.data.datasets.scenes import render_scenes
from object_discovery.data.datasets.tetrominoes import generate_tetrominoes
from object_discovery.layers.object_clusters import connected_components, object_clusters, smooth_background


def test_connected_components_equal_those_of_scipy() -> None:
    labels = torch.randint(0, 3, (8, 12, 15), generator=torch.Generator().manual_seed(0))
    for image, components in zip(labels, connected_components(labels), strict=True):
        assert (components > 0).equal(image > 0)
        for label in (1, 2):
            mask = image == label
            expected, count = ndimage.label(mask.numpy())
            pairs = set(zip(expected[mask.numpy()].tolist(), components[mask].tolist(), strict=True))
            assert len(pairs) == count == len({component for _, component in pairs})


def make_ramp(size: int = 32) -> torch.Tensor:
    """Return an image whose brightness rises from left to right and from top to bottom."""
    steps = torch.linspace(0, 1, size)
    return (0.3 + 0.2 * steps[:, None] + 0.3 * steps).expand(1, 3, -1, -1).clone()


def test_background_is_the_plane_behind_objects() -> None:
    images = make_ramp()
    plane = images.flatten(2).transpose(1, 2).clone()
    images[:, 0, 4:14, 4:14] = images[:, 1, 20:28, 18:30] = 1  # a fifth of the pixels
    background, similarity = smooth_background(images.flatten(2).transpose(1, 2), 32)
    torch.testing.assert_close(background, plane, rtol=0, atol=0.01)
    on_object = (images[0, 0] != images[0, 2]).flatten() | (images[0, 1] != images[0, 2]).flatten()
    assert float(similarity[0, on_object].max()) < 0.1 < 0.9 < float(similarity[0, ~on_object].min())


def test_a_shaded_background_is_one_cluster() -> None:
    images = make_ramp()
    images[:, 0, 4:10, 4:10] = 1
    labels = object_clusters(images, 32, 5, min_gain=0.001).argmax(1)[0]
    expected = torch.zeros(32, 32, dtype=torch.long)
    expected[4:10, 4:10] = 1
    assert labels.equal(expected.flatten())


def test_separate_objects_of_equal_colour_are_separate_clusters() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[:, 0, 2:5, 2:5] = images[:, 0, 7:11, 2:6] = 1
    expected = torch.zeros(16, 16, dtype=torch.long)
    expected[2:5, 2:5], expected[7:11, 2:6] = 2, 1  # the larger one first
    assert object_clusters(images, 16, 4).argmax(1)[0].equal(expected.flatten())


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("colours", [((1.0, 1.0, 1.0),) * 3, ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0))])
def test_small_objects_are_found_at_any_position(size: int, colours: tuple[tuple[float, ...], ...]) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        image, expected = torch.zeros(1, 3, 28, 28), torch.zeros(28, 28, dtype=torch.long)
        for label, colour in enumerate(colours, 1):
            y, x = generator.integers(1, 27 - size), 9 * label - 9 + generator.integers(0, 9 - size)
            image[0, :, y : y + size, x : x + size] = torch.tensor(colour)[:, None, None]
            expected[y : y + size, x : x + size] = label
        labels = object_clusters(image, 28, 4, min_gain=0.001).argmax(1)[0]
        assert adjusted_rand_score(expected.flatten(), labels) == 1


def test_clusters_of_tetrominoes_match_objects() -> None:
    images, masks = generate_tetrominoes(np.arange(40))
    labels = object_clusters(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, 35, 4, 0.001).argmax(1)
    scores = [adjusted_rand_score(mask.ravel(), label) for mask, label in zip(masks, labels, strict=True)]
    assert np.mean(scores) > 0.97


def test_the_floor_of_rendered_scenes_is_mostly_one_cluster() -> None:
    scenes = render_scenes(range(20), counts=(3, 6), resolution=64)
    clusters = object_clusters(scenes.image.permute(0, 3, 1, 2) / 255, 32, 7, 0.001)
    floor = scenes.mask[:, ::2, ::2].flatten(1) == 0
    shares = [float((label[f] == 0).float().mean()) for label, f in zip(clusters.argmax(1), floor, strict=True)]
    assert np.mean(shares) > 0.85


def test_clusters_of_next_to_no_pixels_are_dropped() -> None:
    images = torch.zeros(3, 3, 20, 20)
    images[0, 0, 1:5, 1:5] = images[1, 0, 1:5, 1:5] = images[1, 1, 11:17, 11:17] = 1
    images[2, 0, 7, 7] = 1
    clusters = object_clusters(images, 20, 6, min_gain=0.005)
    assert (clusters.amax(2) > 0).tolist() == [[True] * active + [False] * (6 - active) for active in (2, 3, 1)]


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.ones(1, 3, 1, 1)])
def test_assignments_are_in_unit_interval_and_exclusive(images: torch.Tensor) -> None:
    for count in (1, 5):
        clusters = object_clusters(images, images.shape[-1], count)
        assert clusters.shape == (len(images), count, images.shape[-1] ** 2)
        assert ((clusters >= 0) & (clusters <= 1)).all()
        assert ((clusters > 0).sum(1) <= 1).all()
        assert (clusters[:, 0] > 0).any(1).all()


def test_clusters_are_independent_of_default_dtype() -> None:
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    expected = object_clusters(images, 20, 4)
    torch.set_default_dtype(torch.bfloat16)  # as Lightning does with `bf16-true`
    try:
        assert torch.equal(object_clusters(images, 20, 4), expected)
    finally:
        torch.set_default_dtype(torch.float32)
