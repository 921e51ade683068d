import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from object_discovery import GNM
from object_discovery.data.datasets.multi_dsprites import generate_multi_dsprites
from object_discovery.models.gnm.cluster_init import (
    PROPOSAL_SIZE,
    ObjectProposals,
    propose_objects,
)
from object_discovery.models.gnm.decomposition import count_objects_per_map
from object_discovery.models.gnm.local_latents import ObjectHead, where_to_boxes
from tests.models.tiny import SIZE, TINY, make_images


def make_rectangles(*rectangles: tuple[int, int, int, int]) -> torch.Tensor:
    """Fill rectangles (x, y, width, height) with red, green and blue on a black image of 40 x 40."""
    images = torch.zeros(1, 3, 40, 40)
    for index, (x, y, width, height) in enumerate(rectangles):
        images[0, index % 3, y : y + height, x : x + width] = 1
    return images


def pixel_boxes(proposals: ObjectProposals, grid: int) -> torch.Tensor:
    """Width, height and centre of the valid proposals, in pixels of images of 40 x 40."""
    boxes = where_to_boxes(proposals.where, grid)[proposals.valid]
    return torch.cat([boxes[:, :2] * 40, (boxes[:, 2:] + 1) * 20], -1)


def test_boxes_have_the_centre_and_scaled_extent_of_objects() -> None:
    images = make_rectangles((4, 24, 12, 12), (26, 6, 8, 4))
    proposals = propose_objects(images, torch.zeros_like(images), 0.1, 2)
    assert proposals.valid.tolist() == [[False, True, True, False]]
    expected = torch.tensor([[8.0, 4.0, 30.0, 8.0], [12.0, 12.0, 10.0, 30.0]])
    boxes = pixel_boxes(proposals, 2)
    torch.testing.assert_close(boxes[:, 2:], expected[:, 2:], atol=0.05, rtol=0)
    torch.testing.assert_close(boxes[:, :2], expected[:, :2] * 5 / 12**0.5, atol=0.05, rtol=0)


def test_separate_objects_of_the_same_colour_are_two_proposals() -> None:
    images = torch.zeros(1, 3, 40, 40)
    images[:, 0, 4:10, 4:10] = images[:, 0, 26:32, 26:32] = 1
    assert propose_objects(images, torch.zeros_like(images), 0.1, 2).valid.tolist() == [[True, False, False, True]]


def test_image_of_background_only_has_no_proposal() -> None:
    images = torch.rand(3, 3, 40, 40)
    assert not propose_objects(images, images, 0.1, 4).valid.any()


def test_two_objects_in_one_cell_are_assigned_to_two_cells() -> None:
    images = make_rectangles((2, 2, 6, 6), (12, 12, 6, 6))  # both in the first of 2 x 2 cells
    proposals = propose_objects(images, torch.zeros_like(images), 0.1, 2)
    assert proposals.valid.sum() == 2
    centres = pixel_boxes(proposals, 2)[:, 2:]
    torch.testing.assert_close(centres.sort(0).values, torch.tensor([[5.0, 5.0], [15.0, 15.0]]), atol=0.6, rtol=0)


def test_larger_component_is_assigned_first_and_one_without_a_cell_is_dropped() -> None:
    images = make_rectangles((0, 0, 4, 4), (6, 0, 6, 6))  # both are in reach of the first of 2 x 2 cells only
    proposals = propose_objects(images, torch.zeros_like(images), 0.1, 2)
    assert proposals.valid.tolist() == [[True, False, False, False]]
    torch.testing.assert_close(proposals.colours[0, 0], torch.tensor([0.0, 1, 0]))


def test_proposals_are_the_same_under_autocast() -> None:
    images = make_rectangles((4, 24, 4, 12), (30, 6, 8, 4))
    expected = propose_objects(images, torch.zeros_like(images), 0.1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        proposals = propose_objects(images, torch.zeros_like(images), 0.1, 2)
    for field, expected_field in zip(proposals, expected, strict=True):
        assert torch.equal(field, expected_field)


def test_grid_finer_than_the_clustered_pixels() -> None:
    images = make_rectangles((4, 24, 12, 12))
    proposals = propose_objects(images, torch.zeros_like(images), 0.1, 21)
    assert proposals.valid.sum() == 1
    torch.testing.assert_close(pixel_boxes(proposals, 21)[0, 2:], torch.tensor([10.0, 30.0]), atol=0.05, rtol=0)


def test_proposals_match_most_sprites() -> None:
    """Most sprites have a proposal within 4 pixels of their centre (optimal matching), and most counts agree."""
    images, masks = generate_multi_dsprites(np.arange(40))
    pixels, labels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(masks)
    background = torch.stack([image[:, mask == 0].median(1).values for image, mask in zip(pixels, labels, strict=True)])
    proposals = propose_objects(pixels, background[:, :, None, None].expand_as(pixels), 0.1, 4)
    assert (proposals.valid.sum(1) == count_objects_per_map(labels)).float().mean() > 0.7
    is_matched = []
    for where, valid, mask in zip(proposals.where, proposals.valid, masks, strict=True):
        centres = ((where_to_boxes(where, 4)[valid][:, 2:] + 1) * 32).numpy()
        true_centres = [np.argwhere(mask == label)[:, ::-1].mean(0) for label in np.unique(mask) if label]
        distance = np.linalg.norm(centres[:, None] - np.array(true_centres)[None], axis=2)
        rows, columns = linear_sum_assignment(distance)
        is_matched += [*(distance[rows, columns] < 4), *[False] * (len(true_centres) - len(rows))]
    assert np.mean(is_matched) > 0.85


def test_proposals_have_the_colours_of_the_objects() -> None:
    images = make_rectangles((4, 24, 12, 12), (26, 6, 8, 4))
    proposals = propose_objects(images, torch.zeros_like(images), 0.1, 2)
    expected = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(proposals.colours[0], expected)


def test_vectors_are_zero_without_a_proposal() -> None:
    images = make_rectangles((4, 24, 12, 12))
    proposals = propose_objects(images, torch.zeros_like(images), 0.1, 2)
    vectors = proposals.vectors()
    assert vectors.shape == (1, 4, PROPOSAL_SIZE)
    assert vectors[0, 2].tolist() == pytest.approx([1, *proposals.where[0, 2].tolist(), 2, -2, -2])
    assert not vectors[0, [0, 1, 3]].any()


def test_initial_posterior_equals_the_proposals() -> None:
    torch.manual_seed(0)
    head = ObjectHead(8, 3, presence_bound=6.0, scale=-0.4)
    for layer in (head.where, head.presence):
        torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(head.presence.bias)
    images = make_rectangles((4, 24, 12, 12), (26, 6, 8, 4))
    proposals = propose_objects(images, torch.zeros_like(images), 0.1, 2)
    objects = head(torch.randn(1, 4, 8), 0.5, proposals)
    torch.testing.assert_close(objects.where.mean[proposals.valid], proposals.where[proposals.valid])
    torch.testing.assert_close(objects.where.mean[~proposals.valid], torch.tensor([[-0.4, 0.0, 0.0, 0.0]] * 2))
    assert (objects.presence > 0).equal(proposals.valid)
    assert (objects.presence.abs() < 3).all()  # half of presence_bound


def test_without_cluster_init_there_are_no_proposals() -> None:
    """The published model has neither proposals nor their layer."""
    settings = {**TINY["gnm"], "cluster_init": False}
    assert GNM(**settings).seed_layer is None
    torch.manual_seed(0)
    model, images = GNM(**settings).eval(), make_images()
    torch.testing.assert_close(model.infer(images).objects.presence, model.head(model.encoder(images)).presence)


def test_untrained_model_finds_objects_given_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = GNM(**TINY["gnm"]).eval()
    images = torch.zeros(1, 3, SIZE, SIZE)
    images[:, 0, 9:14, 2:7] = 1
    monkeypatch.setattr(model.background, "decode", lambda latent: torch.zeros(1, 3, SIZE, SIZE))
    objects = model.infer(images).objects
    assert (objects.presence > 0).tolist() == [[False, False, True, False]]
    centre = where_to_boxes(objects.where.mean, 2)[0, 2, 2:]
    torch.testing.assert_close(centre, torch.tensor([-0.4375, 0.4375]), atol=0.1, rtol=0)


def test_background_of_the_proposals_leaves_no_gradient_free_weights_in_the_autocast_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Older releases of torch cache weights that autocast casts under `no_grad`, and reuse them in the same step."""
    model = GNM(**TINY["gnm"])
    decode, is_safe = model.background.decode, []

    def record_and_decode(latent: torch.Tensor) -> torch.Tensor:
        is_safe.append(torch.is_grad_enabled() or not torch.is_autocast_cache_enabled())
        return decode(latent)

    monkeypatch.setattr(model.background, "decode", record_and_decode)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.losses({"image": make_images()})["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert is_safe == [True, True]
    assert all(parameter.grad is not None for parameter in model.parameters())
