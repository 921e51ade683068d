"""Slot-centric reference frames (Invariant Slot Attention, Biza et al. 2023) for the decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CORRECTION_SCALE = 0.3  # of the predicted offset of the centre, in half image sizes


def slot_centres(attention: Tensor, size: int) -> Tensor:
    """Compute the centre of mass of the attention of each slot.

    Args:
        attention: `(B, K, h * w)`, at least 0.
        size: h and w.

    Returns:
        Centres `(B, K, 2)`, y and x in [-1, 1] over the image.

    Reference:
        Biza et al., Invariant Slot Attention: Object Discovery with Slot-Centric Reference Frames, ICML 2023,
        arXiv 2302.04973 (the translation of equation 2).

    Example:
        >>> attention = torch.zeros(1, 1, 3, 3)
        >>> attention[..., 1:, 2] = 1
        >>> slot_centres(attention.flatten(2), 3)
        tensor([[[0.3333, 0.6667]]])
    """
    maps = attention.float().view(*attention.shape[:2], size, size)
    maps = maps / maps.sum((2, 3), keepdim=True).clamp_min(1e-6)
    positions = cell_centres(size, maps.device).to(maps)
    return torch.stack([maps.sum(3) @ positions, maps.sum(2) @ positions], dim=-1)


def cell_centres(size: int, device: torch.device | None = None) -> Tensor:
    """Return the centres of `size` equal cells of [-1, 1].

    Example:
        >>> cell_centres(4)
        tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    return (torch.arange(size, device=device) + 0.5) * (2 / size) - 1


class SlotCentricBroadcast(nn.Module):
    """Spatial broadcast with positions relative to the centre of each slot.

    Computes `a(slot) + (1 + b(slot)) * c(position - centre)` with linear maps a, b and c, where the position comes with
    its sines and cosines, and the centre is that of the attention plus an offset, a linear map of the slot. Shapes are
    therefore decoded independently of their position.

    Args:
        size: Height and width h of the broadcast.
        slot_size: D.
        channels: C.
        frequencies: Octaves of sines and cosines, F; the lowest has half a period over the image.
        extent: Extent of the grid relative to the image; above 1 where the output of the decoder is cropped.

    Reference:
        Biza et al. 2023, arXiv 2302.04973, here for the decoder alone and without scale.

    Example:
        >>> layer = SlotCentricBroadcast(8, slot_size=16, channels=32, frequencies=4)
        >>> layer(torch.zeros(2, 3, 16), torch.zeros(2, 3, 2)).shape
        torch.Size([6, 32, 8, 8])
    """

    def __init__(self, size: int, slot_size: int, channels: int, frequencies: int = 4, extent: float = 1.0) -> None:
        super().__init__()
        self.content = nn.Linear(slot_size, channels)
        self.gain = nn.Linear(slot_size, channels)
        self.correction = nn.Linear(slot_size, 2)
        self.position = nn.Linear(2 + 4 * frequencies, channels, bias=False)
        # the output is cropped at the bottom and the right: the grid and the image share the top left corner
        self.register_buffer("grid", (cell_centres(size) + 1) * extent - 1, persistent=False)
        self.register_buffer("frequencies", torch.pi / 2 * 2.0 ** torch.arange(frequencies), persistent=False)

    def forward(self, slots: Tensor, centres: Tensor) -> Tensor:
        """Broadcast slots `(B, K, D)` around centres `(B, K, 2)` to features `(B * K, C, h, h)`."""
        centres = centres + _CORRECTION_SCALE * self.correction(slots).float()
        relative = self.get_buffer("grid") - centres[..., None]  # (B, K, 2, h)
        phases = relative[..., None] * self.get_buffer("frequencies")
        features = torch.cat([relative[..., None], phases.sin(), phases.cos()], dim=-1)  # (B, K, 2, h, 1 + 2 F)
        features = features.to(self.position.weight.dtype)
        # A linear map of the features of y and x is the sum of a map for rows and one for columns.
        rows, columns = self.position.weight.chunk(2, dim=1)
        y, x = features[:, :, 0] @ rows.T, features[:, :, 1] @ columns.T  # (B, K, h, C)
        position = y[:, :, :, None] + x[:, :, None]
        result: Tensor = self.content(slots)[:, :, None, None] + position * (1 + self.gain(slots))[:, :, None, None]
        return result.flatten(0, 1).permute(0, 3, 1, 2)
