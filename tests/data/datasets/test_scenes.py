import numpy as np
import pytest
import torch
import torch.nn.functional as F

from object_discovery.data.datasets import scenes
from object_discovery.data.datasets.scenes import VARIANTS, ScenesDataModule, render_scenes, sample_visible_layouts
from object_discovery.data.raycast.layout import DISTANCE, SIZES
from object_discovery.data.raycast.primary import cast_primary, make_geometry


@pytest.fixture(scope="module")
def drawn() -> scenes.RenderedScenes:
    return render_scenes(np.arange(40), seed=3, resolution=64)


def test_shapes_types_and_ranges(drawn: scenes.RenderedScenes) -> None:
    assert (drawn.image.shape, drawn.image.dtype) == ((40, 64, 64, 3), torch.uint8)
    assert (drawn.mask.shape, drawn.mask.dtype) == ((40, 64, 64), torch.uint8)
    assert (drawn.depth.shape, drawn.depth.dtype) == ((40, 64, 64), torch.float32)
    assert (drawn.objects.shape, drawn.objects.dtype) == ((40, 10, 19), torch.float32)
    assert drawn.depth.min() > 5
    assert ((drawn.objects >= 0) & (drawn.objects <= 1)).all()
    assert drawn.image.float().flatten(1).std(1).min() > 5


def test_every_object_can_be_seen(drawn: scenes.RenderedScenes) -> None:
    for mask, objects in zip(drawn.mask, drawn.objects, strict=True):
        number = int(objects[:, -1].sum())
        assert 3 <= number <= 10
        pixels = mask.flatten().bincount(minlength=11).tolist()
        assert min(pixels[: 1 + number]) >= 10
        assert sum(pixels[1 + number :]) == 0


def test_objects_keep_their_distance(drawn: scenes.RenderedScenes) -> None:
    for objects in drawn.objects.double().numpy():
        real = objects[objects[:, -1] == 1]
        positions, size = 6 * real[:, :2] - 3, real[:, 3:5] @ np.array(SIZES[::-1])
        gap = np.linalg.norm(positions[:, None] - positions, axis=-1) - size - size[:, None]
        assert gap[~np.eye(len(real), dtype=bool)].min() > DISTANCE - 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_scene_depends_on_its_number_and_seed_only(variant: str) -> None:
    together = render_scenes(np.arange(40), seed=3, variant=variant, resolution=32)
    for some in ([7], [38, 7, 21]):
        for field, again in zip(together, render_scenes(some, seed=3, variant=variant, resolution=32), strict=True):
            assert torch.equal(field[some], again)
    other = render_scenes(np.arange(40), seed=4, variant=variant, resolution=32)
    assert (other.mask != together.mask).flatten(1).any(1).all()


def test_variants_show_the_same_objects_in_other_materials() -> None:
    plain, textured = (render_scenes(np.arange(8), variant=variant, resolution=64) for variant in VARIANTS)
    assert torch.equal(plain.mask, textured.mask)
    assert torch.equal(plain.depth, textured.depth)
    assert torch.equal(plain.objects, textured.objects)
    assert (plain.image != textured.image).float().flatten(1).mean(1).min() > 0.5


def test_counts_narrow_the_number_of_objects() -> None:
    mask = render_scenes(np.arange(30), counts=(3, 4), resolution=64).mask
    assert set(mask.flatten(1).amax(1).tolist()) == {3, 4}


def test_objects_that_find_no_place_are_set_out_in_rows() -> None:
    layout = sample_visible_layouts(np.arange(200), counts=(10, 10), rounds=0)
    labels, _ = cast_primary(make_geometry(layout), 64)
    pixels = torch.stack([(labels == label).flatten(1).sum(1) for label in range(1, 11)], dim=1)
    assert pixels.min() >= 10


def test_full_rooms_need_no_rows() -> None:
    layout = sample_visible_layouts(np.arange(60), counts=(10, 10))
    assert (layout.size.max(1) == 1).mean() > 0.9


def test_no_scenes_are_empty_arrays() -> None:
    empty = render_scenes([], resolution=16)
    assert [len(field) for field in empty] == [0, 0, 0, 0]


@pytest.mark.parametrize("counts", [(0, 3), (5, 4), (3, 11)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Expected argument `counts` to be ascending and between 1 and 10"):
        render_scenes([0], counts=counts)


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected argument `variant` to be one of plain, textured, but got 'wood'"):
        render_scenes([0], variant="wood")


def test_the_data_module_draws_scenes_of_the_recommended_size() -> None:
    data = ScenesDataModule(batch_size=3, num_workers=0, variant="textured", train_size=6)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (3, 3, 128, 128)
    assert 3 <= int(batch["mask"].max()) <= 6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("resolution", [20, 33, 64])
def test_the_data_module_draws_at_the_resolution_asked_for(variant: str, resolution: int) -> None:
    data = ScenesDataModule(num_workers=0, variant=variant, resolution=resolution, data_seed=2, train_size=4)
    batch = data.train_set[[0, 3]]
    layout = sample_visible_layouts(np.array([0, 3]), seed=2, counts=(3, 6))
    assert torch.equal(batch["mask"], cast_primary(make_geometry(layout), resolution)[0])
    drawn = render_scenes([0, 3], seed=2, variant=variant, counts=(3, 6), resolution=resolution)
    assert torch.equal(batch["image"], drawn.image.permute(0, 3, 1, 2))
    full = render_scenes([0, 3], seed=2, variant=variant, counts=(3, 6))
    assert torch.equal(batch["objects"], full.objects)
    size = (resolution, resolution)
    small = F.interpolate(full.image.permute(0, 3, 1, 2).float(), size, mode="bilinear", antialias=True)
    assert (small - batch["image"].float()).abs().mean() < 6  # grey levels


def test_what_an_object_shows_grows_with_the_resolution() -> None:
    masks = {resolution: render_scenes(np.arange(40), resolution=resolution).mask for resolution in (64, 128, 192)}
    for resolution, mask in masks.items():
        pixels = torch.stack([mask.flatten(1).eq(label).sum(1) for label in range(1, 11)], dim=1)
        least = pixels[pixels > 0].min()
        assert least * (64 / resolution) ** 2 >= 7  # ten, to within what falls between the pixels
        assert torch.equal(pixels > 0, torch.arange(10) < masks[64].flatten(1).amax(1)[:, None])


def test_drawn_scenes_come_with_their_objects() -> None:
    data = ScenesDataModule(num_workers=0, resolution=32, data_seed=5, train_size=6)
    batch = data.train_set[[1, 3, 4]]
    drawn = render_scenes([1, 3, 4], seed=5, counts=(3, 6), resolution=32)
    assert torch.equal(batch["objects"], drawn.objects)
    assert batch["objects"][..., -1].sum(1).tolist() == batch["mask"].flatten(1).amax(1).tolist()
    assert data.train_set[3]["objects"].shape == (10, 19)
