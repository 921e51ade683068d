import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from object_discovery.data.datasets.sketchy import VIEWS, SketchyDataModule, SketchyImages, views
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.layouts.sketchy import EPISODES, STEPS, write_sketchy
from tests.data.layouts.sketchy import VIEWS as WRITTEN


def values(data: SketchyDataModule, split: str) -> list[tuple[int, int]]:
    """List the episode (red) and the number (green) of every image of a split."""
    dataset = getattr(data, f"{split}_set")
    images = [dataset[index]["image"] for index in range(len(dataset))]
    return [(int(image[0, 0, 0]), int(image[1, 0, 0])) for image in images]


def expected_values(episodes: list[int]) -> list[tuple[int, int]]:
    return [(e, 100 * step + view) for e in episodes for step in range(STEPS) for view in range(14)]


@pytest.mark.parametrize("subfolder", ["", "processed"])
def test_splits_are_read_from_the_folders(tmp_path: Path, subfolder: str) -> None:
    data = SketchyDataModule(data_root=str(write_sketchy(tmp_path) / subfolder), val_size=None)
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        assert values(data, split) == expected_values(EPISODES[folder])
    assert not data.has_masks


def test_images_equal_the_files(tmp_path: Path) -> None:
    data = SketchyDataModule(data_root=str(write_sketchy(tmp_path)), batch_size=3, num_workers=0)
    batch = next(iter(data.val_dataloader()))
    assert batch.keys() == {"image"}
    first = tmp_path / "processed" / "valid" / "ep000001" / "ep000001_t000_fl_c0.png"
    np.testing.assert_array_equal(batch["image"][0], np.asarray(Image.open(first)).transpose(2, 0, 1))
    assert batch["image"][0, 2, 5].tolist() == list(range(128))


def test_validation_split_is_the_last_training_episodes_without_a_folder_valid(tmp_path: Path) -> None:
    write_sketchy(tmp_path, {"train": list(range(14))})
    data = SketchyDataModule(data_root=str(tmp_path), val_size=None)
    assert values(data, "train") == expected_values(list(range(12)))
    assert values(data, "val") == expected_values([12, 13])
    with pytest.raises(DatasetNotFoundError, match="Expected a test split"):
        data.setup("test")


def test_one_training_episode_is_refused(tmp_path: Path) -> None:
    write_sketchy(tmp_path, {"train": [5]})
    with pytest.raises(UserError, match=r"Expected at least 2 episodes in .*train, .* but got 1"):
        SketchyDataModule(data_root=str(tmp_path)).setup("fit")


def test_other_files_are_ignored(tmp_path: Path) -> None:
    folder = write_sketchy(tmp_path) / "processed" / "train"
    (folder / "readme.txt").write_text("hello")
    (folder / "epilogue").mkdir()
    for name in ("ep000000_t000.png", "ep000009_t000_fl_full.png", "ep000000_t000_fl_c6.png", "thumbs.db"):
        (folder / "ep000000" / name).touch()
    assert len(SketchyImages(folder)) == 14 * STEPS * 3


def test_sources_can_be_pickled(tmp_path: Path) -> None:
    source = SketchyImages(write_sketchy(tmp_path) / "processed" / "train")
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.image(17), source.image(17))


def test_object_limits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="to be None, as sketchy has no masks to count objects in"):
        SketchyDataModule(data_root=str(write_sketchy(tmp_path)), max_objects=3).setup("fit")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match="none does not exist"):
        SketchyDataModule(data_root=str(tmp_path / "none")).setup("fit")
    with pytest.raises(DatasetNotFoundError, match=r"has none of them: .*download"):
        SketchyDataModule(data_root=str(tmp_path)).setup("fit")
    episode = "10000313341320364033_b615a417-ce34-41a8-8411-2a1ce3f3bd07"
    for file in (f"records/{episode}", episode, "records/lift_green.tfrecord", "lift_green-00000-of-00002.tar.bz2"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
        with pytest.raises(DatasetNotFoundError, match=r"published records: .*convert sketchy .*processed`"):
            SketchyDataModule(data_root=str(tmp_path)).setup("fit")
        (tmp_path / file).unlink()
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"train to hold images such as ep000000/.*, but found none"):
        SketchyDataModule(data_root=str(tmp_path)).setup("fit")


def test_damaged_images_are_refused(tmp_path: Path) -> None:
    write_sketchy(tmp_path)
    path = tmp_path / "processed" / "train" / "ep000000" / "ep000000_t000_fl_c0.png"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"not an image", b""):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError, match=r"ep000000_t000_fl_c0\.png"):
            SketchyDataModule(data_root=str(tmp_path)).setup("fit")


def test_views_equal_the_published_crops() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, 600, 960, 3)).astype(np.uint8)
    crops = views(left, right)
    assert sorted(crops) == sorted(VIEWS) == sorted(WRITTEN)
    for camera, central in (("fl", left[71:-81, 144:-144]), ("fr", right[91:-61, 144:-144])):
        assert central.shape == (448, 672, 3)
        expected_crops = {"full": central[:, 112:560]}
        for row, top in enumerate((0, 96)):
            for column, side in enumerate((0, 160, 320)):
                expected_crops[f"c{3 * row + column}"] = central[top : top + 352, side : side + 352]
        for name, crop in expected_crops.items():
            expected = np.asarray(Image.fromarray(crop).resize((128, 128), Image.Resampling.BILINEAR))
            np.testing.assert_array_equal(crops[f"{camera}_{name}"], expected)
            assert crops[f"{camera}_{name}"].dtype == np.uint8


def test_frames_of_other_shapes_are_refused() -> None:
    frame = np.zeros((600, 960, 3), np.uint8)
    with pytest.raises(ValueError, match=r"`front_left` to be uint8 \(600, 960, 3\), but got uint8 \(600, 959, 3\)"):
        views(frame[:, 1:], frame)
    with pytest.raises(ValueError, match=r"`front_right` to be uint8 .*, but got float64"):
        views(frame, frame / 255)  # type: ignore[arg-type]
