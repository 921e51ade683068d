"""Pixel decoder for slots of frozen features, as in the experiments with the covariance loss on COCO."""

from __future__ import annotations

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from object_discovery.layers.compositing import alpha_composite
from object_discovery.layers.position import PositionEmbedding
from object_discovery.models.dinosaur.decoded import Decoded

_GRID = 8


class PixelDecoder(nn.Module):
    """Spatial broadcast decoder on an 8 x 8 grid: three-layer MLP, then upsampling by transposed convolutions.

    Args:
        slot_size: Dimension D of the slots.
        size: Height and width S of the reconstruction.
        channels: Channels of the MLP and of the convolutions.

    Reference:
        Stange et al., Exploring the Role of the Bottleneck in Slot-Based Models Through Covariance Regularization,
        2023, arXiv 2306.02577.

    Example:
        >>> import torch
        >>> image, masks, slot_images = PixelDecoder(16, size=32)(torch.zeros(2, 3, 16))
        >>> image.shape, masks.shape, slot_images.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 32, 32]), torch.Size([2, 3, 3, 32, 32]))
    """

    def __init__(self, slot_size: int, size: int = 128, channels: int = 32) -> None:
        super().__init__()
        self.size = size
        self.position = PositionEmbedding(_GRID, _GRID, slot_size)
        self.mlp = nn.Sequential(
            nn.Linear(slot_size, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )
        layers: list[nn.Module] = []
        for stride in [2] * max(0, math.ceil(math.log2(size / _GRID))) + [1]:
            layers += [nn.ConvTranspose2d(channels, channels, 5, stride, 2, output_padding=stride - 1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(channels, 4, 3, padding=1))

    def forward(
        self,
        slots: Tensor,
        *,
        attention: Tensor | None = None,
        features: Tensor | None = None,
        active: Tensor | None = None,
        with_masks: bool = True,
    ) -> Decoded:
        """Decode slots into images of S x S pixels.

        Args:
            slots: `(B, K, D)`.
            attention: Unused.
            features: Unused.
            active: Which slots have a mask, bool `(B, K)`; at least one of each image. None: all.
            with_masks: Return the masks, which cost nothing here.
        """
        grid = slots.flatten(0, 1)[:, None, None] + self.position().permute(1, 2, 0)  # (B K, 8, 8, D)
        decoded = self.layers(self.mlp(grid).permute(0, 3, 1, 2))[..., : self.size, : self.size]
        image, slot_images, masks = alpha_composite(
            rearrange(decoded, "(b k) c h w -> b k c h w", b=len(slots)), active
        )
        return Decoded(image, masks, slot_images)

    def masks(
        self,
        slots: Tensor,
        *,
        attention: Tensor | None = None,
        features: Tensor | None = None,
        active: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the masks `(B, K, S, S)` and the slot images `(B, K, 3, S, S)`."""
        decoded = self(slots, active=active)
        return decoded.masks, decoded.slot_images

    def target(self, images: Tensor | None, features: Tensor) -> Tensor:
        """Return what is to be predicted: the images at S x S pixels."""
        if images is None:
            raise ValueError("Expected a batch with `image`, as pixels are to be reconstructed, but it has none")
        return downsample(images, self.size)


def pixel_inputs(feature_size: int, slot_size: int, norm_eps: float = 1e-5) -> nn.Module:
    """Build the MLP from features `(B, N, F)` to the inputs of Slot Attention `(B, N, D)` for the pixel decoder.

    Example:
        >>> import torch
        >>> pixel_inputs(768, 64)(torch.zeros(2, 196, 768)).shape
        torch.Size([2, 196, 64])
    """
    return nn.Sequential(
        nn.LayerNorm(feature_size, eps=norm_eps),
        nn.Linear(feature_size, slot_size),
        nn.ReLU(),
        nn.LayerNorm(slot_size, eps=norm_eps),
        nn.Linear(slot_size, slot_size),
        nn.ReLU(),
        nn.Linear(slot_size, slot_size),
    )


def downsample(images: Tensor, size: int) -> Tensor:
    """Downsample images `(B, 3, H, W)` to `(B, 3, size, size)` with antialiasing.

    Example:
        >>> import torch
        >>> downsample(torch.rand(2, 3, 224, 224), 128).shape
        torch.Size([2, 3, 128, 128])
    """
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def upsample(slot_images: Tensor, masks: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Upsample slot images and masks to the size of the images, and composite them.

    Args:
        slot_images: `(B, K, 3, S, S)`.
        masks: `(B, K, S, S)`.
        size: Height and width R of the result.

    Returns:
        Image `(B, 3, R, R)`, slot images `(B, K, 3, R, R)` and masks `(B, K, R, R)`.
    """
    masks = F.interpolate(masks, (size, size), mode="bilinear", align_corners=False)
    flat = F.interpolate(slot_images.flatten(0, 1), (size, size), mode="bilinear", align_corners=False)
    slot_images = flat.view(*slot_images.shape[:3], size, size)
    return (slot_images * masks[:, :, None]).sum(1), slot_images, masks
