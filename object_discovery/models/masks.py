"""Choice of the masks of models whose decoder outputs RGB and alpha of each slot."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from object_discovery.base_params import MaskSource
from object_discovery.discovery import Discovery
from object_discovery.layers.compositing import mask_inactive_slots
from object_discovery.layers.mixture import necessary_slots, posterior_masks


def prune_slots(discovery: Discovery, images: Tensor, min_gain: float) -> Discovery:
    """Set the slots that explain next to nothing to 0, and give their pixels to the others.

    Args:
        discovery: Output of a model, with the masks of its decoder as `masks`, and slot images.
        images: Its input, `(B, 3, H, W)`, in [0, 1].
        min_gain: Least gain of a slot in log-likelihood, in nats per pixel, see `layers.mixture.necessary_slots`. 0:
            keep all.

    Returns:
        The discovery with zero vectors and masks for those slots, the masks of the others renormalised, and the image
        composited by these.
    """
    if not min_gain:
        return discovery
    assert discovery.slot_images is not None
    necessary = necessary_slots(discovery.masks, discovery.slot_images, images, min_gain)
    masks = mask_inactive_slots(discovery.masks.flatten(2), necessary).view_as(discovery.masks)
    image = (discovery.slot_images * masks[:, :, None]).sum(1)
    return discovery._replace(slots=discovery.slots * necessary[..., None], masks=masks, image=image)


def choose_masks(discovery: Discovery, images: Tensor, source: MaskSource) -> Discovery:
    """Add the decoder and posterior masks to a discovery, and choose its `masks`.

    Args:
        discovery: Output of a model, with the masks of its decoder as `masks`, and slot images.
        images: Its input, `(B, 3, H, W)`, in [0, 1].
        source: `decoder`: the weights by which the slot images are composited. `posterior`: the probability of each
            slot given the pixel, see `layers.mixture`. `attention`: the attention of the slots, resized bilinearly.

    Returns:
        The discovery with `masks`, `decoder_masks` and `posterior_masks`.
    """
    assert discovery.slot_images is not None
    decoder_masks = discovery.masks
    posterior = posterior_masks(decoder_masks, discovery.slot_images, images)
    masks = posterior if source == "posterior" else decoder_masks
    if source == "attention":
        assert discovery.attention is not None
        masks = F.interpolate(discovery.attention, images.shape[-2:], mode="bilinear", align_corners=False)
    return discovery._replace(masks=masks, decoder_masks=decoder_masks, posterior_masks=posterior)
