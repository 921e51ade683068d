"""Slot-centric reference frames (Invariant Slot Attention, Biza et al. 2023).

Shapes are encoded and decoded relative to the position and the size of the attention of each slot.

Shapes: B images, K slots, D slot size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.layers.compositing import alpha_composite
from object_discovery.layers.convolutions import SameConvTranspose2d
from object_discovery.layers.spatial_transform import spatial_transform

_EXTENT = 5.0  # half the size of a window, in standard deviations of the attention; a uniform disc spans 2
_HALF_SIZES = (0.08, 1.6)  # smallest and largest half size of a window, in half image sizes
_CENTRE_RANGE = 0.5  # bound of the correction of the centre, in half sizes of the window
_LOG_SIZE_RANGE = 0.7  # bound of the correction of the logarithm of the size
_OUTSIDE_LOGIT = -1e4  # outside the window of a slot; there its mask is 0, unless the pixel is in no window
_GRID = 16  # height and width of the first layer of the decoder
_FREQUENCIES = 4  # octaves of sines and cosines of the positions in a window
_GLIMPSE = 14  # height and width of the attention in the frame of a slot
_HIDDEN = 128  # hidden size of the shape encoder


class SlotFrames(NamedTuple):
    """Reference frames of slots."""

    centres: Tensor
    """y and x of the centre, in [-1, 1] over the image, `(B, K, 2)`."""
    sizes: Tensor
    """Standard deviation of the position, the same for y and x, in half image sizes, `(B, K)`."""


def slot_frames(attention: Tensor, size: int) -> SlotFrames:
    """Compute the centre of mass of the attention of each slot, and its standard deviation.

    Args:
        attention: `(B, K, h * w)`, at least 0.
        size: h and w.

    Returns:
        The frames. The variance is the mean of those of y and x, plus that of the positions within a cell; the centre
        of a slot without attention is that of the image.

    Reference:
        Biza et al., Invariant Slot Attention: Object Discovery with Slot-Centric Reference Frames, ICML 2023,
        arXiv 2302.04973 (translation and scale, equations 2 and 3; here the scale is isotropic).

    Example:
        >>> attention = torch.zeros(1, 1, 3, 3)
        >>> attention[..., 1:, 2] = 1
        >>> frames = slot_frames(attention.flatten(2), 3)
        >>> frames.centres, frames.sizes
        (tensor([[[0.3333, 0.6667]]]), tensor([[0.3043]]))
    """
    maps = attention.float().view(*attention.shape[:2], size, size)
    maps = maps / maps.sum((2, 3), keepdim=True).clamp_min(1e-6)
    positions = cell_centres(size, maps.device).to(maps)
    marginals = torch.stack([maps.sum(3), maps.sum(2)], 2)  # of y and x, (B, K, 2, h)
    centres = marginals @ positions
    variance = (marginals @ positions.square() - centres.square()).mean(2).clamp_min(0)
    return SlotFrames(centres, (variance + (2 / size) ** 2 / 12).sqrt())


def cell_centres(size: int, device: torch.device | None = None) -> Tensor:
    """Return the centres of `size` equal cells of [-1, 1].

    Example:
        >>> cell_centres(4)
        tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    return (torch.arange(size, device=device) + 0.5) * (2 / size) - 1


class ShapeEncoder(nn.Module):
    """Encodes the attention of each slot in its frame as an addition to the slot.

    The mean of features that a slot is tells little about its outline; its attention does.

    Args:
        slot_size: D.

    Example:
        >>> attention = torch.rand(2, 5, 64)
        >>> ShapeEncoder(16)(attention, slot_frames(attention, 8), 8).shape
        torch.Size([2, 5, 16])
    """

    def __init__(self, slot_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(_GLIMPSE**2, slot_size)
        self.mlp = nn.Sequential(nn.Linear(_GLIMPSE**2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, slot_size))

    def forward(self, attention: Tensor, frames: SlotFrames, size: int) -> Tensor:
        """Encode attention `(B, K, h * w)`, of h = w = `size`, as `(B, K, D)`."""
        half_sizes = (_EXTENT * frames.sizes).clamp(*_HALF_SIZES).flatten()
        scale = half_sizes.reciprocal()  # the image, seen from the window of the slot, is a box
        y, x = (-frames.centres.flatten(0, 1) * scale[:, None]).unbind(1)
        boxes = torch.stack([scale, scale, x, y], 1)
        maps = attention.float().reshape(-1, 1, size, size)
        glimpses = spatial_transform(maps, boxes, _GLIMPSE).flatten(1)
        glimpses = F.layer_norm(glimpses, glimpses.shape[1:]).to(self.linear.weight.dtype)
        shapes: Tensor = self.linear(glimpses) + self.mlp(glimpses)
        return shapes.view(*attention.shape[:2], -1)


class SlotCentricDecoder(nn.Module):
    """Decodes RGB and alpha logits of each slot in its frame, places them in the image, and composites the slots.

    A slot is decoded to 32 x 32 pixels of a window of 10 standard deviations of its attention, which are interpolated
    to the image. Shapes are therefore decoded independently of position and size, small objects in as much detail as
    large ones, and at the same cost at any resolution. Outside its window a slot has no weight.

    Args:
        resolution: Height and width of the images.
        slot_size: D.
        channels: Channels of the layers.

    Reference:
        Biza et al. 2023, arXiv 2302.04973, for the frames; Eslami et al., Attend, Infer, Repeat, NeurIPS 2016, arXiv
        1603.08575, for decoding in a window.

    Example:
        >>> decoder = SlotCentricDecoder(64, slot_size=16)
        >>> frames = SlotFrames(torch.zeros(2, 5, 2), torch.full((2, 5), 0.2))
        >>> image, slot_images, masks = decoder(torch.zeros(2, 5, 16), frames)
        >>> image.shape, slot_images.shape, masks.shape
        (torch.Size([2, 3, 64, 64]), torch.Size([2, 5, 3, 64, 64]), torch.Size([2, 5, 64, 64]))
    """

    def __init__(self, resolution: int, slot_size: int, channels: int = 32) -> None:
        super().__init__()
        self.resolution = resolution
        self.correction = nn.Linear(slot_size, 3)
        self.content = nn.Linear(slot_size + 3, channels)
        self.gain = nn.Linear(slot_size, channels)
        positions = cell_centres(_GRID)[:, None]
        phases = positions * torch.pi / 2 * 2.0 ** torch.arange(_FREQUENCIES)
        waves = torch.cat([positions, phases.sin(), phases.cos()], 1)  # of y, and of x
        grid = [waves[:, None].expand(-1, _GRID, -1), waves.expand(_GRID, -1, -1)]
        self.register_buffer("grid", torch.cat(grid, 2), persistent=False)
        self.position = nn.Linear(2 * waves.shape[1], channels, bias=False)
        self.layers = nn.Sequential(
            nn.ReLU(inplace=True),
            SameConvTranspose2d(channels, channels, 5),
            nn.ReLU(inplace=True),
            SameConvTranspose2d(channels, channels, 5),
            nn.ReLU(inplace=True),
            SameConvTranspose2d(channels, 4, 4, 2),
        )

    def init_neutral(self) -> None:
        """Initialise the weights such that frames are not corrected, and all slots have the same gain of positions."""
        for layer in (self.correction, self.gain):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def windows(self, slots: Tensor, frames: SlotFrames) -> Tensor:
        """Compute the window of each slot: y and x of the centre in [-1, 1], half the size; `(B, K, 3)`, float32."""
        correction = self.correction(slots).float().tanh()
        half_sizes = (_EXTENT * frames.sizes * (_LOG_SIZE_RANGE * correction[..., 2]).exp()).clamp(*_HALF_SIZES)
        centres = frames.centres + _CENTRE_RANGE * correction[..., :2] * half_sizes[..., None]
        return torch.cat([centres, half_sizes[..., None]], -1)

    def forward(self, slots: Tensor, frames: SlotFrames, active: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Decode slots.

        Args:
            slots: `(B, K, D)`.
            frames: Their frames.
            active: Which slots are active, bool `(B, K)`; at least one of each image. None: all.

        Returns:
            Image `(B, 3, H, W)`, slot images `(B, K, 3, H, W)` and masks `(B, K, H, W)`, which sum to 1 over the slots.
            All float32. Slot images and masks are 0 outside the windows.
        """
        windows = self.windows(slots, frames)
        decoded = self.layers(self._broadcast(slots, windows))
        y, x, half_size = windows.flatten(0, 1).unbind(1)
        boxes = torch.stack([half_size, half_size, x, y], 1)
        placed = spatial_transform(decoded, boxes, self.resolution).transpose(1, 2).float()
        inside = self._inside(windows.flatten(0, 1))
        placed = torch.cat([placed[:, :3], placed[:, 3:].masked_fill(~inside[:, None], _OUTSIDE_LOGIT)], 1)
        return alpha_composite(placed.view(*slots.shape[:2], *placed.shape[1:]), active)

    def _broadcast(self, slots: Tensor, windows: Tensor) -> Tensor:
        """Broadcast slots to the grid of their windows, as `a(slot, window) + (1 + b(slot)) * c(position)`."""
        content = self.content(torch.cat([slots, windows[..., :2].to(slots), windows[..., 2:].log().to(slots)], -1))
        gain = 1 + self.gain(slots)
        positions = self.position(self.get_buffer("grid").to(self.position.weight))
        features: Tensor = content[:, :, None, None] + gain[:, :, None, None] * positions
        return features.flatten(0, 1).permute(0, 3, 1, 2)

    def _inside(self, windows: Tensor) -> Tensor:
        """Return which pixels are in each window `(M, 3)`, bool `(M, H, W)`."""
        pixels = cell_centres(self.resolution, windows.device)
        centres, half_sizes = windows[:, :2], windows[:, 2:, None]
        within = (pixels - centres[..., None]).abs() <= half_sizes  # (M, 2, H)
        return within[:, 0, :, None] & within[:, 1, None]
