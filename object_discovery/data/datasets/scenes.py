"""Ray-cast rooms with spheres, cubes and cylinders, as in CLEVR, generated on the fly at any resolution."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from object_discovery.data.datamodule import SceneDataModule
from object_discovery.data.dataset import SceneGenerator
from object_discovery.data.raycast.layout import (
    MAX_OBJECTS,
    Layout,
    arrange_in_rows,
    sample_layouts,
    set_prediction_targets,
)
from object_discovery.data.raycast.primary import cast_primary, make_geometry
from object_discovery.data.raycast.renderer import render
from object_discovery.data.raycast.textures import sample_textures
from object_discovery.data.splits import PublishedSplit
from object_discovery.recommended import RECOMMENDED

VARIANTS = ("plain", "textured")
"""CLEVR's colours on a gray floor, or procedural materials on objects and floor, as in ClevrTex."""
COUNTS = (3, MAX_OBJECTS)
"""Least and largest number of objects, as published."""

SIZE = 128
"""Default height and width of a scene in pixels."""

_VISIBILITY_SIZE = 64  # visibility is decided at this resolution, so that scenes are the same at any
_MIN_PIXELS = 10
_ROUNDS = 32
_CHUNKS = {"cpu": 32}  # scenes per chunk, which fit into the cache; 1024 on other devices


class RenderedScenes(NamedTuple):
    """Rendered images and ground truth."""

    image: Tensor
    """uint8 `(B, H, W, 3)`."""
    mask: Tensor
    """Label maps, uint8 `(B, H, W)`: 0 the floor, 1 to n the objects."""
    depth: Tensor
    """float32 `(B, H, W)`: depth along the optical axis in scene units."""
    objects: Tensor
    """Targets of set prediction, float32 `(B, 10, 19)`; see `set_prediction_targets`."""


def render_scenes(
    indices: npt.ArrayLike,
    seed: int = 0,
    variant: str = "plain",
    counts: tuple[int, int] = COUNTS,
    resolution: int = SIZE,
    device: torch.device | str = "cpu",
) -> RenderedScenes:
    """Render rooms with spheres, cubes and cylinders of rubber and metal, with shadows and occlusion.

    Camera, lights, shapes, sizes, colours and crop are those of CLEVR after the published crop. Objects do not touch,
    and each covers at least 10 / 64^2 of the image: 10 pixels at 64 x 64, 40 at 128 x 128. Layouts are the same for
    both variants and at any resolution.

    Args:
        indices: Indices of the scenes, `(B,)`, at least 0.
        seed: Seed of the dataset, at least 0.
        variant: `plain` or `textured`.
        counts: Least and largest number of objects, 1 to 10.
        resolution: Height and width in pixels.
        device: Where to render.

    Returns:
        Images, label maps, depth and properties of objects, on the device.

    Raises:
        ValueError: If the variant does not exist, or the counts are out of range.

    Reference:
        Johnson et al., CLEVR, arXiv:1612.06890; Karazija et al., ClevrTex, arXiv:2111.10265.

    Example:
        >>> scenes = render_scenes([0, 1], counts=(3, 3), resolution=64)
        >>> scenes.image.shape, scenes.mask.unique().tolist()
        (torch.Size([2, 64, 64, 3]), [0, 1, 2, 3])
    """
    if variant not in VARIANTS:
        raise ValueError(f"Expected argument `variant` to be one of {', '.join(VARIANTS)}, but got {variant!r}")
    if not 1 <= counts[0] <= counts[1] <= MAX_OBJECTS:
        raise ValueError(
            f"Expected argument `counts` to be ascending and between 1 and {MAX_OBJECTS}, but got {counts}"
        )
    scenes = np.asarray(indices, dtype=np.int64)
    layout = sample_visible_layouts(scenes, seed, counts, device)
    chunk = _CHUNKS.get(torch.device(device).type, 1024)
    parts = [
        _render(layout.take(chunk_indices), scenes[chunk_indices], seed, variant, resolution, device)
        for chunk_indices in np.split(np.arange(len(scenes)), range(chunk, len(scenes), chunk))
    ]
    image, mask, depth = (torch.cat(part) for part in zip(*parts, strict=True))
    return RenderedScenes(image, mask, depth, torch.from_numpy(set_prediction_targets(layout)).to(device))


def sample_visible_layouts(
    indices: npt.NDArray[np.int64],
    seed: int = 0,
    counts: tuple[int, int] = COUNTS,
    device: torch.device | str = "cpu",
    rounds: int = _ROUNDS,
) -> Layout:
    """Sample layouts in which every object is visible.

    By rejection sampling; after `rounds` trials the objects are small and placed in rows.

    Args:
        indices: Indices of the scenes, `(B,)`, at least 0.
        seed: Seed of the dataset, at least 0.
        counts: Least and largest number of objects, 1 to 10.
        device: Device of the visibility test.
        rounds: Number of trials.

    Returns:
        The layouts.
    """
    layout = arrange_in_rows(sample_layouts(indices, seed, counts, trial=0)[0])
    todo = np.arange(len(indices))
    for trial in range(rounds):
        if not len(todo):
            break
        sampled, good = sample_layouts(indices[todo], seed, counts, trial)
        good[good] = _visible(sampled.take(np.flatnonzero(good)), device)
        for field, new in zip(layout, sampled, strict=True):
            field[todo[good]] = new[good]
        todo = todo[~good]
    return layout


def _visible(layout: Layout, device: torch.device | str) -> npt.NDArray[np.bool_]:
    """Return in which scenes all objects are visible, `(B,)`."""
    labels, _ = cast_primary(make_geometry(layout, device), _VISIBILITY_SIZE)
    scene = torch.arange(len(labels), device=labels.device)[:, None]
    bins = (labels.flatten(1) + (1 + MAX_OBJECTS) * scene).flatten()
    pixels = bins.bincount(minlength=(1 + MAX_OBJECTS) * len(labels)).view(-1, 1 + MAX_OBJECTS)[:, 1:]
    return np.asarray(((pixels.cpu().numpy() >= _MIN_PIXELS) | ~layout.present).all(1))


def _render(
    layout: Layout, scenes: npt.NDArray[np.int64], seed: int, variant: str, resolution: int, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    materials = sample_textures(scenes, seed, device) if variant == "textured" else None
    geometry = make_geometry(layout, device)
    material, colour = (torch.from_numpy(field).to(device) for field in (layout.material, layout.colour))
    return render(geometry, material, colour, resolution, materials)


def _render_arrays(
    indices: npt.NDArray[np.int64], seed: int, variant: str, counts: tuple[int, int], resolution: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], dict[str, npt.NDArray[np.float32]]]:
    """Render images, label maps and `objects` as arrays."""
    scenes = render_scenes(indices, seed, variant, counts, resolution)
    return scenes.image.numpy(), scenes.mask.numpy(), {"objects": scenes.objects.numpy()}


class ScenesDataModule(SceneDataModule):
    """Rooms with spheres, cubes and cylinders (see `SceneDataModule` for files, splits and filters).

    The variants are `plain` (the default) and `textured`. Without `data_root` scenes are rendered, see `render_scenes`,
    at `resolution`, with numbers of objects within the filters. They have `objects` `(10, 19)` float32 for set
    prediction, see `set_prediction_targets`. A file is split as CLEVR with masks: the first 70,000 scenes for training,
    the next 320 for testing, the rest for validation.

    Example:
        >>> data = ScenesDataModule(batch_size=2, num_workers=0)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader()))["image"].shape
        torch.Size([2, 3, 128, 128])

    Reference:
        Johnson et al., CLEVR, arXiv:1612.06890; Karazija et al., ClevrTex, arXiv:2111.10265.
    """

    name = "scenes"
    recommended = RECOMMENDED["scenes"]
    published: ClassVar[PublishedSplit] = PublishedSplit(train=70_000, test=320)
    variants: ClassVar[tuple[str, ...]] = VARIANTS

    @classmethod
    def _scene_generator(
        cls, seed: int, variant: str | None, counts: tuple[int, int], resolution: int
    ) -> SceneGenerator | None:
        assert variant is not None
        least, most = max(counts[0], COUNTS[0]), min(counts[1], COUNTS[1])
        if least > most:
            return None
        return partial(_render_arrays, seed=seed, variant=variant, counts=(least, most), resolution=resolution)
