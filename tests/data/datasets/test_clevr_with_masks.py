import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from object_discovery.data.datasets.clevr_with_masks import CLEVRWithMasksDataModule, CLEVRWithMasksFile
from object_discovery.data.splits import split_indices
from object_discovery.errors import CorruptFileError, DatasetNotFoundError
from tests.data.scene_files import Bytes, make_scenes, write_own, write_published

CROP = (29, 64, 192, 192)


def make_frames(counts: list[int]) -> tuple[Bytes, Bytes]:
    """Generate images of 240 x 320 pixels with an additional object, of the highest label, outside the crop."""
    images, labels = make_scenes(counts, 240, 320)
    for scene, count in enumerate(counts):
        labels[scene, 5:20, 5:20] = count + 1
    return images, labels


@pytest.fixture(params=["published", "own"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    images, labels = make_frames([6, 7, 3, 8, 6, 5, 2, 7])
    if request.param == "published":
        write_published(tmp_path / "clevr.h5", images, labels, entities=11)
    else:
        write_own(tmp_path / "clevr.h5", images, labels, "clevr_with_masks", entities=11, crop=CROP)
    return str(tmp_path)


def test_crop_is_rows_29_to_220_and_columns_64_to_255(root: str) -> None:
    images, labels = make_frames([6, 7, 3, 8, 6, 5, 2, 7])
    data = CLEVRWithMasksDataModule(data_root=root, resolution=192, max_objects=None)
    np.testing.assert_array_equal(data.train_set[1]["image"], images[1, 29:221, 64:256].transpose(2, 0, 1))
    np.testing.assert_array_equal(data.train_set[1]["mask"], labels[1, 29:221, 64:256])


def test_images_are_resized_bilinearly_and_masks_to_the_nearest_pixel(root: str) -> None:
    images, labels = make_frames([6, 7, 3, 8, 6, 5, 2, 7])
    scene = CLEVRWithMasksDataModule(data_root=root).train_set[0]
    # sampled at the centres of the pixels of the target: 1.5 x + 0.25 in pixels of the crop
    grid = (2 * (torch.arange(128) + 0.5) / 128 - 1).expand(128, 128)
    crop = torch.from_numpy(images[0, 29:221, 64:256]).permute(2, 0, 1)[None].float()
    expected = F.grid_sample(crop, torch.stack([grid, grid.T], -1)[None], align_corners=False)[0]
    assert scene["image"].shape == (3, 128, 128)
    assert (scene["image"].float() - expected).abs().max() <= 1  # uint8 is interpolated in integer arithmetic
    nearest = np.floor((np.arange(128) + 0.5) * 1.5).astype(int)
    np.testing.assert_array_equal(scene["mask"], labels[0, 29:221, 64:256][nearest][:, nearest])


def test_max_objects_counts_objects_in_the_crop(root: str) -> None:
    # the first six scenes are for training; two of them have more than 6 objects in the crop
    data = CLEVRWithMasksDataModule(data_root=root)
    assert len(data.train_set) == 4
    assert len(CLEVRWithMasksDataModule(data_root=root, max_objects=7).train_set) == 5
    assert len(CLEVRWithMasksDataModule(data_root=root, eval_max_objects=0).test_set) == 1


def test_images_of_other_sizes_are_not_cropped(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3], 64, 64)
    write_own(tmp_path / "clevr.h5", images, labels, "clevr_with_masks", entities=11)
    data = CLEVRWithMasksDataModule(data_root=str(tmp_path), resolution=64)
    np.testing.assert_array_equal(data.train_set[0]["image"], images[0].transpose(2, 0, 1))


def test_fit_crops_or_squashes_the_image(root: str) -> None:
    settings: dict[str, Any] = {"data_root": root, "resolution": 16, "max_objects": None}
    scenes = {fit: CLEVRWithMasksDataModule(fit=fit, **settings).train_set[0] for fit in (None, "crop", "squash")}
    np.testing.assert_array_equal(scenes["crop"]["mask"], scenes[None]["mask"])
    rows, columns = ((np.arange(16) + 0.5) * size / 16 for size in (240, 320))
    _, labels = make_frames([6])
    np.testing.assert_array_equal(scenes["squash"]["mask"], labels[0][rows.astype(int)][:, columns.astype(int)])


def test_images_of_other_sizes_may_be_cropped_to_the_central_square(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3], 32, 48)
    write_own(tmp_path / "clevr.h5", images, labels, "clevr_with_masks", entities=11)
    data = CLEVRWithMasksDataModule(data_root=str(tmp_path), resolution=32, fit="crop")
    np.testing.assert_array_equal(data.train_set[0]["image"], images[0, :, 8:40].transpose(2, 0, 1))


def test_published_splits() -> None:
    splits, _ = split_indices(100_000, CLEVRWithMasksDataModule.published)
    ranges = {split: (int(scenes[0]), int(scenes[-1])) for split, scenes in splits.items()}
    assert ranges == {"train": (0, 69_999), "test": (70_000, 70_319), "val": (70_320, 99_999)}


def write_factors(path: Path, own: bool) -> dict[str, Any]:
    """Write the factors of 8 scenes of 11 entities, the first the background, as in the published file."""
    rng = np.random.default_rng(0)
    is_object = np.arange(11) > 0
    is_object = is_object & (np.arange(11) <= np.array([6, 7, 3, 8, 6, 5, 0, 10])[:, None])
    sizes = {"size": 2, "material": 2, "shape": 3, "color": 8}
    factors: dict[str, Any] = {name: is_object * rng.integers(1, 1 + high, (8, 11)) for name, high in sizes.items()}
    factors = {name: codes.astype(np.uint8) for name, codes in factors.items()}
    factors |= {name: (is_object * rng.uniform(-3, 3, (8, 11))).astype(np.float32) for name in "xyz"}
    with h5py.File(path, "a") as file:
        for name, values in factors.items():
            file[f"factors/{name}" if own else name] = values if own else values[..., None]
    return factors


def test_files_without_factors_have_no_objects(root: str) -> None:
    data = CLEVRWithMasksDataModule(data_root=root, max_objects=None, resolution=16)
    assert data.train_set[0].keys() == {"image", "mask"}


def test_objects_equal_the_factors_of_the_file(root: str) -> None:
    path = Path(root) / "clevr.h5"
    with h5py.File(path) as file:
        own = "format" in file.attrs
    factors = write_factors(path, own)
    data = CLEVRWithMasksDataModule(data_root=root, max_objects=None, resolution=16, batch_size=2, num_workers=0)
    scenes = pickle.loads(pickle.dumps(data.train_set))[[0, 1, 2, 3]]["objects"]
    assert (scenes.shape, scenes.dtype) == ((4, 10, 19), torch.float32)
    assert scenes[..., 18].sum(1).tolist() == [6, 7, 3, 8]
    for scene, number in ((0, 6), (3, 8)):
        rows = scenes[scene, :number].numpy()
        entities = slice(1, 1 + number)
        for axis, name in enumerate("xyz"):
            np.testing.assert_allclose(6 * rows[:, axis] - 3, factors[name][scene, entities], atol=1e-5)
        for name, start, end in (("size", 3, 5), ("material", 5, 7), ("shape", 7, 10), ("color", 10, 18)):
            np.testing.assert_array_equal(rows[:, start:end].argmax(1) + 1, factors[name][scene, entities])
    assert data.test_set[0]["objects"][:, 18].sum() == 10
    assert not data.val_set[0]["objects"].any()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("color", np.full((8, 11), 9, np.uint8), "cannot describe the objects of scene 0 .*`codes`"),
        ("x", np.zeros((8, 7), np.float32), "expected x, y, z of each entity, but their shapes differ"),
    ],
)
def test_invalid_factors_are_refused(name: str, values: Any, message: str, tmp_path: Path) -> None:
    images, labels = make_scenes([1] * 8, 64, 64)
    path = tmp_path / "clevr.h5"
    write_own(path, images, labels, "clevr_with_masks", entities=11)
    write_factors(path, own=True)
    with h5py.File(path, "a") as file:
        del file[f"factors/{name}"]
        file[f"factors/{name}"] = values
    with pytest.raises(CorruptFileError, match=message):
        CLEVRWithMasksFile(path).targets(0)


def test_clevr_cannot_be_generated() -> None:
    with pytest.raises(DatasetNotFoundError, match=r"`data_root` to be .*, but got None: .*convert records"):
        CLEVRWithMasksDataModule().setup("fit")
