import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from object_discovery.data.dataset import GeneratedScenes, StoredScenes
from object_discovery.data.datasets.tetrominoes import TetrominoesDataModule, generate_tetrominoes
from object_discovery.data.readers.hdf5_scenes import SceneFile
from tests.data.scene_files import make_scenes, write_published


def ramp(indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Scenes of 4 x 4 pixels with consecutive values, the same in all channels and the label map."""
    pixels = (16 * indices[:, None] + np.arange(16)).astype(np.uint8).reshape(-1, 4, 4)
    return pixels[..., None].repeat(3, -1), pixels


def test_batches_are_uint8_with_channels_first() -> None:
    scenes = GeneratedScenes(generate_tetrominoes, start=5, size=4, resolution=35)
    images, masks = generate_tetrominoes([7, 5])
    batch = scenes[[2, 0]]
    assert {key: value.dtype for key, value in batch.items()} == {"image": torch.uint8, "mask": torch.uint8}
    np.testing.assert_array_equal(batch["image"].numpy(), images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch["mask"].numpy(), masks)
    assert batch["image"].is_contiguous()


def test_a_single_scene_has_no_batch_axis() -> None:
    scenes = GeneratedScenes(generate_tetrominoes, start=0, size=4, resolution=35)
    assert scenes[3]["image"].shape == (3, 35, 35)
    assert torch.equal(scenes[-1]["mask"], scenes[3]["mask"])
    assert len(list(scenes)) == len(scenes) == 4  # type: ignore[call-overload]


@pytest.mark.parametrize("index", [4, -5])
def test_indices_out_of_range_raise(index: int) -> None:
    with pytest.raises(IndexError, match=f"below 4, but got {index}"):
        GeneratedScenes(generate_tetrominoes, start=0, size=4, resolution=35)[index]


def test_generated_scenes_can_be_pickled() -> None:
    scenes = TetrominoesDataModule(train_size=3).train_set
    assert torch.equal(pickle.loads(pickle.dumps(scenes))[2]["image"], scenes[2]["image"])


def test_resizing_is_bilinear_for_images_and_nearest_for_masks() -> None:
    batch = GeneratedScenes(ramp, start=0, size=1, resolution=2)[[0]]
    # at half the size a pixel is the mean of four; a label is that of the pixel at the lower right
    assert batch["image"][0, 0].tolist() == [[3, 5], [11, 13]]  # rounded from 2.5, 4.5, 10.5, 12.5
    assert batch["mask"][0].tolist() == [[5, 7], [13, 15]]


def test_resizing_does_not_antialias() -> None:
    batch = GeneratedScenes(ramp, start=0, size=1, resolution=1)[[0]]
    assert batch["image"][0, 0].item() == round((5 + 6 + 9 + 10) / 4)


def test_stored_scenes_are_cropped_and_can_be_pickled(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3, 2])
    write_published(tmp_path / "scenes.h5", images, labels, entities=4)
    scenes = StoredScenes(SceneFile(tmp_path / "scenes.h5"), np.array([3, 1, 2]), crop=(3, 4, 20, 20), resolution=20)
    for dataset in (scenes, pickle.loads(pickle.dumps(scenes))):
        batch = dataset[[0, 2]]
        np.testing.assert_array_equal(batch["image"], images[[3, 2], 3:23, 4:24].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(batch["mask"], labels[[3, 2], 3:23, 4:24])
    assert len(scenes) == 3
