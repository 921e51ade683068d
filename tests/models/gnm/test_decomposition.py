import pytest
import torch
from torch import Tensor

from object_discovery.models.gnm.decomposition import (
    SceneDecomposition,
    box_corners,
    build_decomposition,
    count_objects_per_map,
)
from object_discovery.models.gnm.local_latents import ObjectLatents
from object_discovery.models.gnm.renderer import composite, transform_objects

SIZE = 16


def decompose_squares(num_slots: int) -> tuple[SceneDecomposition, Tensor]:
    """Decompose a large red square behind a small green one and an absent blue one, on grey."""
    glimpses = torch.ones(3, 4, 4, 4)
    glimpses[:, :3] = torch.eye(3)[:, :, None, None]
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, -0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]])
    presence, depth = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[[30.0], [-30.0], [0.0]]])
    background = torch.full((1, 3, SIZE, SIZE), 0.5)
    object_images = transform_objects(glimpses, presence, boxes, depth, SIZE)
    objects = ObjectLatents(presence, torch.zeros(1, 3, 4), depth, torch.arange(6.0).view(1, 3, 2))
    scene = build_decomposition(objects, boxes, object_images, background, torch.ones(1, 5), num_slots)
    return scene, composite(object_images, background).image


def test_nearer_object_occludes_farther_one_in_masks() -> None:
    scene, image = decompose_squares(4)
    labels = scene.discovery.labels[0]
    expected = torch.full((SIZE, SIZE), 3)
    expected[4:12, 4:12] = 0
    expected[8:12, 4:8] = 1
    assert torch.equal(labels, expected)
    torch.testing.assert_close(scene.image, image)
    masks, colours = scene.discovery.masks, scene.discovery.slot_images
    assert colours is not None
    torch.testing.assert_close((masks[:, :, None] * colours).sum(1), image)
    assert colours[0, 1, :, 9, 5].tolist() == pytest.approx([0, 1, 0], abs=1e-5)
    assert colours[0, 3, :, 0, 0].tolist() == [0.5, 0.5, 0.5]


def test_boxes_presence_and_depth_are_in_slot_order() -> None:
    scene, _ = decompose_squares(4)
    assert scene.presence.tolist() == [[1, 1, 0]]
    assert scene.depth[0, :2].tolist() == [30, -30]
    assert scene.boxes[0, :2].tolist() == [[4, 4, 12, 12], [4, 8, 8, 12]]
    assert scene.discovery.slots[0, :2].tolist() == [[0, 1, 0, 0, 0], [2, 3, 0, 0, 0]]
    assert scene.discovery.slots[0, 3].tolist() == [1] * 5
    assert scene.counts.tolist() == [2]


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_objects_without_a_slot_are_part_of_the_background(num_slots: int) -> None:
    scene, image = decompose_squares(num_slots)
    masks, colours = scene.discovery.masks, scene.discovery.slot_images
    assert colours is not None
    assert masks.shape[1] == scene.boxes.shape[1] + 1 == num_slots
    torch.testing.assert_close(masks.sum(1), torch.ones(1, SIZE, SIZE))
    torch.testing.assert_close((masks[:, :, None] * colours).sum(1), image)
    assert scene.counts.tolist() == [2]


def test_box_corners_are_clipped_to_the_image() -> None:
    assert box_corners(torch.tensor([[1.0, 0.5, 1.0, -1.0]]), 8).tolist() == [[4, 0, 8, 2]]


def test_count_objects_per_map_with_arbitrary_labels() -> None:
    masks = torch.tensor([[[0, 7], [7, 254]], [[255, 255], [0, 0]], [[1, 2], [3, 4]]], dtype=torch.uint8)
    assert count_objects_per_map(masks).tolist() == [2, 0, 4]
