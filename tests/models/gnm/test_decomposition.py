import pytest
import torch
from torch import Tensor

from object_discovery.models.gnm.decomposition import Scene, corners, count_objects_per_map, decompose
from object_discovery.models.gnm.local_latents import Objects
from object_discovery.models.gnm.renderer import arrange, blend

SIZE = 16


def squares(num_slots: int) -> tuple[Scene, Tensor]:
    """Take apart a large red square behind a small green one, and a blue one that is not there, on grey."""
    glimpses = torch.ones(3, 4, 4, 4)
    glimpses[:, :3] = torch.eye(3)[:, :, None, None]
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, -0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]])
    presence, depth = torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[[30.0], [-30.0], [0.0]]])
    background = torch.full((1, 3, SIZE, SIZE), 0.5)
    layers = arrange(glimpses, presence, boxes, depth, SIZE)
    objects = Objects(presence, torch.zeros(1, 3, 4), depth, torch.arange(6.0).view(1, 3, 2))
    scene = decompose(objects, boxes, layers, background, torch.ones(1, 5), num_slots)
    return scene, blend(layers, background).image


def test_masks_follow_the_order_of_depth() -> None:
    scene, image = squares(4)
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


def test_what_belongs_to_an_object_comes_in_the_order_of_the_slots() -> None:
    scene, _ = squares(4)
    assert scene.presence.tolist() == [[1, 1, 0]]
    assert scene.depth[0, :2].tolist() == [30, -30]
    assert scene.boxes[0, :2].tolist() == [[4, 4, 12, 12], [4, 8, 8, 12]]
    assert scene.discovery.slots[0, :2].tolist() == [[0, 1, 0, 0, 0], [2, 3, 0, 0, 0]]
    assert scene.discovery.slots[0, 3].tolist() == [1] * 5
    assert scene.counts.tolist() == [2]


@pytest.mark.parametrize("num_slots", [1, 2, 3])
def test_what_has_no_slot_is_background(num_slots: int) -> None:
    scene, image = squares(num_slots)
    masks, colours = scene.discovery.masks, scene.discovery.slot_images
    assert colours is not None
    assert masks.shape[1] == scene.boxes.shape[1] + 1 == num_slots
    torch.testing.assert_close(masks.sum(1), torch.ones(1, SIZE, SIZE))
    torch.testing.assert_close((masks[:, :, None] * colours).sum(1), image)
    assert scene.counts.tolist() == [2]


def test_boxes_end_at_the_border() -> None:
    assert corners(torch.tensor([[1.0, 0.5, 1.0, -1.0]]), 8).tolist() == [[4, 0, 8, 2]]


def test_labels_are_counted_whatever_their_numbers() -> None:
    masks = torch.tensor([[[0, 7], [7, 254]], [[255, 255], [0, 0]], [[1, 2], [3, 4]]], dtype=torch.uint8)
    assert count_objects_per_map(masks).tolist() == [2, 0, 4]
