import itertools
import subprocess
import sys

import numpy as np
import torch
from torch import Tensor

from object_discovery.visualization.background import background_slot
from object_discovery.visualization.matching import slot_colours


def row(*labels: int) -> Tensor:
    return torch.tensor([[labels]])


def test_without_true_masks_slot_k_gets_k_plus_1_and_the_background_0() -> None:
    labels = torch.arange(4).expand(2, 1, 4)
    assert slot_colours(labels, torch.tensor([0, 2]), 4).tolist() == [[0, 2, 3, 4], [1, 2, 0, 4]]


def test_matched_slots_get_the_labels_of_their_objects() -> None:
    colours = slot_colours(row(2, 2, 0, 1, 1), torch.tensor([2]), 3, row(0, 0, 9, 4, 4))
    assert colours.tolist() == [[9, 4, 0]]


def test_unmatched_slots_get_labels_of_no_object_of_the_image() -> None:
    labels, masks = row(0, 1, 2, 3, 3, 4), row(0, 1, 3, 3, 3, 0)
    colours = slot_colours(labels, torch.tensor([0]), 6, masks)
    assert colours.tolist() == [[0, 1, 2, 3, 4, 5]]  # slot 3 covers most of object 3, so slot 2 is left over


def test_background_slot_stays_the_background_though_it_overlaps_an_object() -> None:
    colours = slot_colours(row(0, 0, 0, 1), torch.tensor([0]), 2, row(5, 5, 5, 5))
    assert colours.tolist() == [[0, 5]]


def test_ignored_pixels_do_not_count() -> None:
    ignored = slot_colours(row(0, 1, 1, 1, 1, 2), torch.tensor([0]), 3, row(0, 1, 255, 255, 255, 1))
    assert ignored.tolist() == [[0, 1, 2]]  # both slots have an IoU of 1/2
    counted = slot_colours(row(0, 1, 1, 1, 1, 2), torch.tensor([0]), 3, row(0, 1, 0, 0, 0, 1))
    assert counted.tolist() == [[0, 2, 1]]


def test_unmatched_slots_of_images_with_254_objects_have_no_free_label() -> None:
    masks = torch.arange(255).view(1, 15, 17)
    labels = torch.zeros_like(masks)
    labels[0, 0, :2] = torch.tensor([1, 2])
    assert slot_colours(labels, torch.tensor([0]), 3, masks).tolist() == [[0, 0, 1]]


def test_matching_maximises_the_sum_of_ious() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, masks = torch.randint(0, 4, (2, 20, 3, 4), generator=generator)
    background = background_slot(labels, 4)
    colours = slot_colours(labels, background, 4, masks)
    for image in range(20):
        foreground = [slot for slot in range(4) if slot != background[image]]
        iou = np.zeros((3, 3))
        for (i, slot), obj in itertools.product(enumerate(foreground), (1, 2, 3)):
            predicted, true = labels[image] == slot, masks[image] == obj
            iou[i, obj - 1] = (predicted & true).sum() / (predicted | true).sum().clamp_min(1)
        best = max(sum(iou[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(3)))
        chosen = colours[image, foreground].tolist()
        score = sum(iou[i, label - 1] for i, label in enumerate(chosen) if label in (1, 2, 3))
        np.testing.assert_allclose(score, best)
        assert len(set(chosen)) == 3
        assert colours[image, background[image]] == 0


def test_visualization_needs_neither_lightning_nor_torchmetrics() -> None:
    program = (
        "import sys, object_discovery.visualization; sys.exit(bool({'lightning', 'torchmetrics'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
