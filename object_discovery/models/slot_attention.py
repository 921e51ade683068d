"""Slot Attention autoencoder.

Reference:
    Locatello et al., Object-Centric Learning with Slot Attention, NeurIPS 2020, arXiv 2006.15055.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from object_discovery.discovery import Batch, Discovery
from object_discovery.layers.compositing import pixel_entropy
from object_discovery.layers.decoder import BroadcastDecoder
from object_discovery.layers.mixture import MixtureLoss
from object_discovery.layers.slot_centric import ShapeEncoder, SlotCentricDecoder, slot_frames
from object_discovery.layers.weight_init import init_weights
from object_discovery.models.masks import choose_masks, prune_slots
from object_discovery.models.slot_model import DEFAULT_OPTIONS, SlotModel, SlotOptions, build_encoder
from object_discovery.params import SlotAttentionParams
from object_discovery.schedules import linear_anneal


def encoder_shape(resolution: int) -> tuple[list[int], list[int]]:
    """Return channels and strides of the recommended encoder, with at most 32 x 32 output positions.

    Returns:
        Channels and strides of four convolutions.

    Example:
        >>> encoder_shape(128)
        ([32, 32, 32, 32], [2, 2, 1, 1])
    """
    halvings = max(0, math.ceil(math.log2(resolution / 32)))
    strides = [2] * halvings + [1] * max(2, 4 - halvings)
    return [32] * len(strides), strides


def decoder_shape(resolution: int) -> tuple[list[int], list[int], int]:
    """Return channels and strides of the default spatial broadcast decoder, and the stride of its last layer.

    Returns:
        Channels and strides of the transposed convolutions, and the final stride.

    Example:
        >>> decoder_shape(64)
        ([32, 32, 32], [1, 1, 1], 4)
    """
    if resolution < 48:
        return [32, 32, 32], [1, 1, 1], 3
    return [32, 32, 32], [1, 1, 1] if resolution < 96 else [1, 2, 1], 4


class SlotAttentionModel(SlotModel[SlotAttentionParams]):
    """Slot Attention autoencoder: CNN encoder, Slot Attention, spatial broadcast decoder (Locatello et al. 2020).

    Args:
        params: The hyperparameters.
        **settings: Fields of `SlotAttentionParams`, in place of `params`.

    Raises:
        ValueError: If the decoder does not reach the resolution, or a value is out of range.

    Example:
        >>> import torch
        >>> model = SlotAttentionModel(num_slots=4, resolution=35)
        >>> discovery = model(torch.rand(2, 3, 35, 35))
        >>> discovery.masks.shape, discovery.image.shape  # masks sum to 1 over the slots
        (torch.Size([2, 4, 35, 35]), torch.Size([2, 3, 35, 35]))
    """

    model_type: ClassVar[str] = "sa"
    params_class: ClassVar[type[SlotAttentionParams]] = SlotAttentionParams

    def __init__(self, params: SlotAttentionParams | None = None, **settings: Any) -> None:
        super().__init__(params, **settings)
        p = self.params
        self.encoder = build_encoder(p, *encoder_shape(p.resolution))
        self.slot_attention = self.build_slot_attention(self.encoder.feature_size)
        self.shape_encoder = ShapeEncoder(p.slot_size) if p.slot_centric else None
        self.decoder = SlotCentricDecoder(p.resolution, p.slot_size) if p.slot_centric else self._build_decoder()
        self.mixture_loss = MixtureLoss() if p.reconstruction_loss == "mixture" else None
        if p.weight_init == "torch":
            self.slot_attention.reset_slots(standard_normal=True)
        init_weights(p.weight_init, (self.encoder, self.slot_attention, self.decoder), self.slot_attention)
        if p.encoder_residual:
            self.encoder.init_as_identity()
        if isinstance(self.decoder, SlotCentricDecoder):
            self.decoder.init_neutral()

    def _build_decoder(self) -> BroadcastDecoder:
        p = self.params
        channels, strides, final_stride = decoder_shape(p.resolution)
        strides = p.decoder_strides or strides
        final_stride = p.decoder_final_stride or (1 if p.decoder_strides else final_stride)
        return BroadcastDecoder(
            p.resolution,
            p.slot_size,
            p.broadcast_size or -(-p.resolution // (math.prod(strides) * final_stride)),
            p.decoder_channels or channels,
            strides,
            kernel_size=p.decoder_kernel or 5,
            final_kernel_size=p.decoder_final_kernel or final_stride + 2,
            final_stride=final_stride,
            frequencies=p.position_frequencies,
        )

    def discover(self, images: Tensor, options: SlotOptions) -> Discovery:
        """Do the work of `forward`, on images whose shape has been checked."""
        discovery = self._discover(images, options)
        if self.params.image_range == "signed":
            assert discovery.image is not None
            assert discovery.slot_images is not None
            discovery = discovery._replace(image=(discovery.image + 1) / 2, slot_images=(discovery.slot_images + 1) / 2)
        if not self.training:
            discovery = prune_slots(discovery, images, self.params.prune_gain)
        return choose_masks(discovery, images, self.params.mask_source)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the reconstruction loss, in the pixel range of the network, see `reconstruction_loss`."""
        images = batch["image"]
        self.check_images(images)
        discovery = self._discover(images)
        assert discovery.image is not None
        target = self._to_network_range(images).float()
        losses = {"loss": F.mse_loss(discovery.image, target)}
        if self.mixture_loss is not None:
            assert discovery.slot_images is not None
            loss = self.mixture_loss(discovery.masks, discovery.slot_images, target)
            losses = {"loss": loss, "mse": losses["loss"].detach(), "sigma": self.mixture_loss.sigma}
        if self.training:
            losses = self._add_mask_losses(losses, discovery.masks)
        return self.regularize(losses, discovery.slots)

    def _add_mask_losses(self, losses: dict[str, Tensor], masks: Tensor) -> dict[str, Tensor]:
        """Add the entropy of the masks and the share of the foreground, with their weights at this step."""
        p = self.params
        warmup = linear_anneal(self.slot_steps, 0.0, 1.0, p.entropy_start, p.entropy_start + p.entropy_warmup)
        if warmup and p.entropy_weight:
            entropy = pixel_entropy(masks).mean()
            losses = {**losses, "loss": losses["loss"] + warmup * p.entropy_weight * entropy, "mask_entropy": entropy}
        if warmup and p.foreground_weight and p.cluster_init and p.clusters == "objects":
            foreground = 1 - masks[:, 0].mean()  # the first cluster is the background
            loss = losses["loss"] + warmup * p.foreground_weight * foreground
            losses = {**losses, "loss": loss, "foreground": foreground}
        return losses

    def _discover(self, images: Tensor, options: SlotOptions = DEFAULT_OPTIONS) -> Discovery:
        """Do the work of `discover`, with images in the pixel range of the network."""
        features = self.encoder(self._to_network_range(images))
        clusters = self.image_clusters(images, self.encoder.size, options, self.params.clusters)
        slots, attention = self.attend_slots(features, options, clusters)
        active = self.active_mask(slots)
        if isinstance(self.decoder, SlotCentricDecoder):
            assert self.shape_encoder is not None
            frames = slot_frames(attention, self.encoder.size)
            shapes = self.shape_encoder(attention, frames, self.encoder.size)
            slots = slots + (shapes if active is None else shapes * active[..., None])
            image, slot_images, masks = self.decoder(slots, frames, active)
        else:
            image, slot_images, masks = self.decoder(slots, active)
        attention = rearrange(attention, "b k (h w) -> b k h w", h=self.encoder.size)
        return Discovery(
            slots,
            masks,
            image,
            slot_images,
            attention,
            cluster_masks=self.cluster_masks(clusters, self.params.resolution),
        )

    def _to_network_range(self, images: Tensor) -> Tensor:
        """Convert images from [0, 1] to the pixel range of the network."""
        return images if self.params.image_range == "unit" else images * 2 - 1
