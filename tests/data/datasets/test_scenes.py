import numpy as np
import pytest
import torch
import torch.nn.functional as F

from object_discovery.data.datasets import scenes
from object_discovery.data.datasets.scenes import VARIANTS, ScenesDataModule, render_scenes, sample_visible_layouts
from object_discovery.data.raycast.layout import DISTANCE, SIZES
from object_discovery.data.raycast.primary import cast_primary, make_geometry


@pytest.fixture(scope="module")
def rendered() -> scenes.RenderedScenes:
    return render_scenes(np.arange(40), seed=3, resolution=64)


def test_shapes_types_and_ranges(rendered: scenes.RenderedScenes) -> None:
    assert (rendered.image.shape, rendered.image.dtype) == ((40, 64, 64, 3), torch.uint8)
    assert (rendered.mask.shape, rendered.mask.dtype) == ((40, 64, 64), torch.uint8)
    assert (rendered.depth.shape, rendered.depth.dtype) == ((40, 64, 64), torch.float32)
    assert (rendered.objects.shape, rendered.objects.dtype) == ((40, 10, 19), torch.float32)
    assert rendered.depth.min() > 5
    assert ((rendered.objects >= 0) & (rendered.objects <= 1)).all()
    assert rendered.image.float().flatten(1).std(1).min() > 5


def test_every_object_is_visible(rendered: scenes.RenderedScenes) -> None:
    for mask, objects in zip(rendered.mask, rendered.objects, strict=True):
        number = int(objects[:, -1].sum())
        assert 3 <= number <= 10
        pixels = mask.flatten().bincount(minlength=11).tolist()
        assert min(pixels[: 1 + number]) >= 10
        assert sum(pixels[1 + number :]) == 0


def test_objects_have_the_minimum_distance(rendered: scenes.RenderedScenes) -> None:
    for objects in rendered.objects.double().numpy():
        present = objects[objects[:, -1] == 1]
        positions, size = 6 * present[:, :2] - 3, present[:, 3:5] @ np.array(SIZES[::-1])
        gap = np.linalg.norm(positions[:, None] - positions, axis=-1) - size - size[:, None]
        assert gap[~np.eye(len(present), dtype=bool)].min() > DISTANCE - 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_scenes_depend_on_index_and_seed_only(variant: str) -> None:
    batch = render_scenes(np.arange(40), seed=3, variant=variant, resolution=32)
    for indices in ([7], [38, 7, 21]):
        for field, subset_field in zip(
            batch, render_scenes(indices, seed=3, variant=variant, resolution=32), strict=True
        ):
            assert torch.equal(field[indices], subset_field)
    other = render_scenes(np.arange(40), seed=4, variant=variant, resolution=32)
    assert (other.mask != batch.mask).flatten(1).any(1).all()


def test_variants_differ_in_materials_only() -> None:
    plain, textured = (render_scenes(np.arange(8), variant=variant, resolution=64) for variant in VARIANTS)
    assert torch.equal(plain.mask, textured.mask)
    assert torch.equal(plain.depth, textured.depth)
    assert torch.equal(plain.objects, textured.objects)
    assert (plain.image != textured.image).float().flatten(1).mean(1).min() > 0.5


def test_counts_limit_the_number_of_objects() -> None:
    mask = render_scenes(np.arange(30), counts=(3, 4), resolution=64).mask
    assert set(mask.flatten(1).amax(1).tolist()) == {3, 4}


def test_objects_are_arranged_in_rows_if_sampling_fails() -> None:
    layout = sample_visible_layouts(np.arange(200), counts=(10, 10), rounds=0)
    labels, _ = cast_primary(make_geometry(layout), 64)
    pixels = torch.stack([(labels == label).flatten(1).sum(1) for label in range(1, 11)], dim=1)
    assert pixels.min() >= 10


def test_ten_objects_are_rarely_arranged_in_rows() -> None:
    layout = sample_visible_layouts(np.arange(60), counts=(10, 10))
    assert (layout.size.max(1) == 1).mean() > 0.9


def test_no_indices_give_empty_arrays() -> None:
    empty = render_scenes([], resolution=16)
    assert [len(field) for field in empty] == [0, 0, 0, 0]


@pytest.mark.parametrize("counts", [(0, 3), (5, 4), (3, 11)])
def test_invalid_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Expected argument `counts` to be ascending and between 1 and 10"):
        render_scenes([0], counts=counts)


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected argument `variant` to be one of plain, textured, but got 'wood'"):
        render_scenes([0], variant="wood")


def test_data_module_renders_at_the_recommended_resolution() -> None:
    data = ScenesDataModule(batch_size=3, num_workers=0, variant="textured", train_size=6)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (3, 3, 128, 128)
    assert 3 <= int(batch["mask"].max()) <= 6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("resolution", [20, 33, 64])
def test_data_module_renders_at_the_given_resolution(variant: str, resolution: int) -> None:
    data = ScenesDataModule(num_workers=0, variant=variant, resolution=resolution, data_seed=2, train_size=4)
    batch = data.train_set[[0, 3]]
    layout = sample_visible_layouts(np.array([0, 3]), seed=2, counts=(3, 6))
    assert torch.equal(batch["mask"], cast_primary(make_geometry(layout), resolution)[0])
    expected = render_scenes([0, 3], seed=2, variant=variant, counts=(3, 6), resolution=resolution)
    assert torch.equal(batch["image"], expected.image.permute(0, 3, 1, 2))
    full = render_scenes([0, 3], seed=2, variant=variant, counts=(3, 6))
    assert torch.equal(batch["objects"], full.objects)
    size = (resolution, resolution)
    downsampled = F.interpolate(full.image.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
    assert (downsampled - batch["image"].float()).abs().mean() < 6  # grey levels


def test_visible_pixels_of_objects_scale_with_the_resolution() -> None:
    masks = {resolution: render_scenes(np.arange(40), resolution=resolution).mask for resolution in (64, 128, 192)}
    for resolution, mask in masks.items():
        pixels = torch.stack([mask.flatten(1).eq(label).sum(1) for label in range(1, 11)], dim=1)
        smallest = pixels[pixels > 0].min()
        assert smallest * (64 / resolution) ** 2 >= 7  # 10 visible pixels, up to rasterisation
        assert torch.equal(pixels > 0, torch.arange(10) < masks[64].flatten(1).amax(1)[:, None])


def test_batches_have_the_objects_of_the_scenes() -> None:
    data = ScenesDataModule(num_workers=0, resolution=32, data_seed=5, train_size=6)
    batch = data.train_set[[1, 3, 4]]
    expected = render_scenes([1, 3, 4], seed=5, counts=(3, 6), resolution=32)
    assert torch.equal(batch["objects"], expected.objects)
    assert batch["objects"][..., -1].sum(1).tolist() == batch["mask"].flatten(1).amax(1).tolist()
    assert data.train_set[3]["objects"].shape == (10, 19)
