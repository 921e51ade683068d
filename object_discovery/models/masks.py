"""Choice of the masks of models whose decoder outputs RGB and alpha of each slot."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from object_discovery.base_params import MaskSource
from object_discovery.discovery import Discovery
from object_discovery.layers.mixture import posterior_masks


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
