"""Data augmentation of batches on the device, images and label maps alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from object_discovery.discovery import Batch


def augment(
    batch: Batch, *, flip: bool = False, crop: float | None = None, generator: torch.Generator | None = None
) -> Batch:
    """Flip and crop each image of a batch at random, and its label maps in the same way.

    `objects` are dropped, as their coordinates would be wrong; other entries are unchanged. Random numbers are sampled
    on the CPU, so that a seed gives the same crops on every device.

    Args:
        batch: Images uint8 `(B, 3, H, W)` under `image`, and any label maps uint8 `(B, H, W)`.
        flip: Flip images horizontally with probability 1/2.
        crop: Smallest relative area of crops of the same aspect ratio, in (0, 1]; area and position are uniform. Crops
            are resized to the image size, label maps to the nearest pixel. None: no crop.
        generator: Random number generator on the CPU. None: the global one.

    Returns:
        A new batch of the same shapes and types.

    Raises:
        ValueError: If `crop` is not in (0, 1].

    Example:
        >>> images = torch.arange(4, dtype=torch.uint8).expand(8, 3, 4, 4)
        >>> generator = torch.Generator().manual_seed(0)
        >>> augment({"image": images}, flip=True, generator=generator)["image"][:2, 0, 0].tolist()
        [[3, 2, 1, 0], [0, 1, 2, 3]]
    """
    if crop is not None and not 0 < crop <= 1:
        raise ValueError(f"Expected argument `crop` to be in (0, 1], but got {crop!r}")
    image = batch["image"]
    maps = [key for key, value in batch.items() if _is_label_map(value, image)]
    numbers = torch.rand(4, len(image), generator=generator).to(image.device, non_blocking=True)
    pixels = {key: batch[key] for key in ("image", *maps)}
    if crop is not None and crop < 1:
        grid = _crop_grid(numbers, crop, image.shape[-2], image.shape[-1])
        pixels = {key: _sample(value, grid) for key, value in pixels.items()}
    if flip:
        flipped = numbers[3] < 0.5
        pixels = {key: _flip(value, flipped) for key, value in pixels.items()}
    moved = flip or (crop is not None and crop < 1)
    return {key: value for key, value in {**batch, **pixels}.items() if not (moved and key == "objects")}


def _is_label_map(value: Tensor, image: Tensor) -> bool:
    return value.dtype == torch.uint8 and value.shape == (len(image), *image.shape[-2:])


def _crop_grid(numbers: Tensor, crop: float, height: int, width: int) -> Tensor:
    """Return the sampling grid of random crops for `grid_sample`, `(B, H, W, 2)`."""
    side = (crop + (1 - crop) * numbers[0]).sqrt()
    centres = (1 - side) * (2 * numbers[1:3] - 1)
    ys, xs = (
        side[:, None] * ((2 * torch.arange(size, device=side.device) + 1) / size - 1) + centre[:, None]
        for size, centre in zip((height, width), centres, strict=True)
    )
    return torch.stack([xs[:, None, :].expand(-1, height, -1), ys[:, :, None].expand(-1, -1, width)], dim=-1)


def _sample(pixels: Tensor, grid: Tensor) -> Tensor:
    """Sample images `(B, C, H, W)` bilinearly, label maps `(B, H, W)` at the nearest pixel."""
    mode = "bilinear" if pixels.ndim == 4 else "nearest"
    planes = (pixels if pixels.ndim == 4 else pixels[:, None]).float()
    sampled = F.grid_sample(planes, grid, mode=mode, padding_mode="border", align_corners=False)
    return sampled.round_().clamp_(0, 255).byte().reshape(pixels.shape)


def _flip(pixels: Tensor, flipped: Tensor) -> Tensor:
    return torch.where(flipped.view(-1, *[1] * (pixels.ndim - 1)), pixels.flip(-1), pixels)
