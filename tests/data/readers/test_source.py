import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from object_discovery.data.dataset import StoredScenes
from object_discovery.data.readers.source import SceneSource


class Photographs(SceneSource):
    """Scene i has (4 + i) x 8 pixels; object k is pixel k of row 0, and pixel 7 is ignored."""

    def __len__(self) -> int:
        return 3

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.full((4 + index, 8, 3), 10 * index, np.uint8)

    def maps(self, index: int) -> dict[str, NDArray[np.uint8]]:
        mask = np.zeros((4 + index, 8), np.uint8)
        mask[0] = [0, 1, 2, 3, 0, 0, 0, 255]
        return {"mask": mask, "classes": mask // 2}

    def targets(self, index: int) -> dict[str, NDArray[np.float32]]:
        return {"objects": np.full((2, 19), index, np.float32)}


def test_objects_are_counted_without_background_and_ignored_pixels() -> None:
    assert Photographs().object_counts().tolist() == [3, 3, 3]
    assert Photographs().object_counts((0, 2, 4, 4)).tolist() == [2, 2, 2]
    assert Photographs().object_counts((1, 0, 3, 8)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("indices", [[0, 1, 2], [1, 1]])
def test_scenes_of_different_sizes_are_resized_to_one_batch(indices: list[int]) -> None:
    batch = StoredScenes(Photographs(), np.arange(3), None, resolution=8)[indices]
    assert batch.keys() == {"image", "mask", "classes", "objects"}
    assert batch["image"].shape == (len(indices), 3, 8, 8)
    assert batch["image"].is_contiguous()
    assert batch["image"][:, 0, 0, 0].tolist() == [10 * index for index in indices]
    assert batch["mask"][:, 0].tolist() == [[0, 1, 2, 3, 0, 0, 0, 255]] * len(indices)
    assert torch.equal(batch["classes"], batch["mask"] // 2)
    assert batch["objects"].shape == (len(indices), 2, 19)
    assert batch["objects"][:, 0, 0].tolist() == indices


def test_antialiasing_averages_the_pixels() -> None:
    class Stripes(Photographs):
        def image(self, index: int) -> NDArray[np.uint8]:
            image = np.zeros((4 + index, 8, 3), np.uint8)
            image[:, ::4] = 200
            return image

    sharp, smooth = (
        StoredScenes(Stripes(), np.arange(1), (0, 0, 4, 8), resolution=2, antialias=antialias)[[0]]["image"]
        for antialias in (False, True)
    )
    assert sharp.max() == 0  # sampled between two black columns
    assert smooth.min() > 30
