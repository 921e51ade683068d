"""Hungarian matching of slots to true objects, so that both are shown in the same colour."""

from __future__ import annotations

from itertools import chain, repeat

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from object_discovery.discovery import IGNORED


def slot_colours(labels: Tensor, background: Tensor, num_slots: int, masks: Tensor | None = None) -> Tensor:
    """Choose the label, an index into `palette`, in whose colour each slot is shown.

    The background slot gets 0. Without true masks slot k gets k + 1, the same in every image. With true masks the
    other slots are matched one to one with the true objects of their image (Hungarian matching on IoU): a matched slot
    gets the label of its object. Unmatched slots, and slots without overlap with their object, get the lowest labels
    that no object of the image has, or 0 if all 254 are taken.

    Args:
        labels: Slot of each pixel, `(B, H, W)`, integers from 0 to `num_slots` - 1.
        background: Background slot of each image, `(B,)`.
        num_slots: Number of slots, K.
        masks: True label maps, `(B, H, W)`, integers; 0 is the background, 255 is ignored. None: unknown.

    Returns:
        Labels `(B, K)`, int64, from 0 to 254.

    Example:
        >>> labels, background = torch.tensor([[[0, 1, 2]]]), torch.tensor([1])
        >>> slot_colours(labels, background, 3).tolist()
        [[1, 0, 3]]
        >>> slot_colours(labels, background, 3, masks=torch.tensor([[[7, 0, 0]]])).tolist()
        [[7, 0, 1]]
    """
    if masks is None:
        colours = torch.arange(1, num_slots + 1, device=labels.device).repeat(len(labels), 1)
        return colours.scatter_(1, background[:, None], 0)
    images = zip(labels, background.tolist(), masks.to(labels.device), strict=True)
    return torch.stack([_match_colours(*image, num_slots) for image in images])


def _match_colours(labels: Tensor, background: int, mask: Tensor, num_slots: int) -> Tensor:
    """Choose the label of each slot `(K,)` of one image, given its label maps `(H, W)`."""
    iou = _pairwise_iou(labels, mask, num_slots)
    iou[background] = 0
    slots, objects = linear_sum_assignment(iou.numpy(), maximize=True)
    matched = {slot: obj + 1 for slot, obj in zip(slots.tolist(), objects.tolist(), strict=True) if iou[slot, obj] > 0}
    present = set(mask.flatten().tolist())
    unused = chain((label for label in range(1, IGNORED) if label not in present), repeat(0))
    others = {slot: next(unused) for slot in range(num_slots) if slot not in matched and slot != background}
    return torch.tensor([{background: 0, **matched, **others}[slot] for slot in range(num_slots)]).to(labels.device)


def _pairwise_iou(labels: Tensor, mask: Tensor, num_slots: int) -> Tensor:
    """Compute the IoU of each slot with each true object of one image, `(K, 254)`, float64, on the CPU."""
    index = labels.long() * (IGNORED + 1) + mask.long()
    counts = torch.bincount(index.flatten(), minlength=num_slots * (IGNORED + 1)).view(num_slots, -1)[:, :IGNORED].cpu()
    union = counts.sum(1, keepdim=True) + counts.sum(0) - counts
    return (counts.double() / union.clamp_min(1))[:, 1:]
