from pathlib import Path
from typing import cast

import numpy as np
import pytest

from object_discovery.data.datasets.multi_dsprites import VARIANTS, MultiDSpritesDataModule
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.data.splits import PublishedSplit, find_splits, split_indices
from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from tests.data.scene_files import make_scenes, write_own, write_published

PUBLISHED = PublishedSplit(train=6, test=2)


def write(path: Path, size: int) -> None:
    images, labels = make_scenes([3] * size)
    write_published(path, images, labels, entities=4)


def split_scenes(root: Path, name: str = "tetrominoes", variant: str | None = None) -> dict[str, list[int]]:
    return {split: part.indices.tolist() for split, part in find_splits(root, name, variant, PUBLISHED).items()}


@pytest.mark.parametrize("size", [3, 4, 7, 8, 9, 10, 100])
def test_splits_are_disjoint_and_complete(size: int) -> None:
    splits, _ = split_indices(size, PUBLISHED)
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(size))
    assert all(len(scenes) for scenes in splits.values())


def test_a_file_with_all_published_scenes_is_split_as_published() -> None:
    splits, rule = split_indices(10, PUBLISHED)
    assert {split: scenes.tolist() for split, scenes in splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "test": [6, 7],
        "val": [8, 9],
    }
    assert rule == "as published: the first 6 scenes to train, the next 2 to test, the rest to validate"


def test_a_smaller_file_is_split_in_file_order() -> None:
    splits, rule = split_indices(100, PublishedSplit(train=60_000, test=320))
    assert [(int(s[0]), int(s[-1])) for s in splits.values()] == [(0, 69), (70, 84), (85, 99)]
    assert "70 / 15 / 15 %" in rule


def test_too_few_scenes_to_split_are_refused() -> None:
    with pytest.raises(UserError, match=r"at least 3 scenes .* but got 2"):
        split_indices(2, PUBLISHED)


@pytest.mark.parametrize("name", ["scenes.h5", "scenes.hdf5"])
def test_a_file_and_a_folder_with_it_are_the_same(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, 9)
    assert (
        split_scenes(tmp_path / name)
        == split_scenes(tmp_path)
        == {"train": [0, 1, 2, 3, 4, 5], "test": [6, 7], "val": [8]}
    )


def test_files_named_by_split_are_used_as_named(tmp_path: Path) -> None:
    for name, size in (("train.h5", 9), ("validation.h5", 4), ("test_set.h5", 2)):
        write(tmp_path / name, size)
    splits = find_splits(tmp_path, "tetrominoes", None, PUBLISHED)
    assert {split: (cast(SceneFile, part.source).path.name, len(part.indices)) for split, part in splits.items()} == {
        "train": ("train.h5", 9),
        "val": ("validation.h5", 4),
        "test": ("test_set.h5", 2),
    }


def test_without_a_validation_file_the_last_15_percent_of_training_are_for_validation(tmp_path: Path) -> None:
    write(tmp_path / "train.h5", 20)
    assert split_scenes(tmp_path) == {"train": list(range(17)), "val": [17, 18, 19]}


def test_a_training_file_of_one_scene_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.h5", 1)
    with pytest.raises(UserError, match=r"at least 2 scenes in train.h5, .* but got 1"):
        split_scenes(tmp_path)


def test_of_several_files_the_one_named_after_the_dataset_is_used(tmp_path: Path) -> None:
    write(tmp_path / "tetrominoes_train.h5", 5)
    (tmp_path / "clevr_with_masks_train.h5").touch()
    assert len(split_scenes(tmp_path)["train"]) == 3


def test_of_several_files_the_one_of_the_variant_is_used(tmp_path: Path) -> None:
    images, labels = make_scenes([2, 3, 4], 64, 64)
    for variant, entities in (("colored_on_colored", 5), ("colored_on_grayscale", 6)):
        write_published(tmp_path / f"multi_dsprites_{variant}.h5", images, labels, entities, entities_last=True)
    splits = find_splits(tmp_path, "multi_dsprites", "colored_on_colored", PUBLISHED)
    assert splits["train"].source.variant == "colored_on_colored"


def test_several_candidates_are_refused(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write(tmp_path / name, 5)
    with pytest.raises(UserError, match=r"one file, but .* holds a.h5, b.h5: give the one to use as `data_root`"):
        split_scenes(tmp_path)


def test_two_files_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train_a.h5", "train_b.h5"):
        write(tmp_path / name, 5)
    with pytest.raises(UserError, match=r"holds train_a.h5, train_b.h5"):
        split_scenes(tmp_path)


def test_a_missing_data_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"of tetrominoes, but .*nowhere does not exist"):
        split_scenes(tmp_path / "nowhere")


def test_a_folder_without_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetNotFoundError, match=r"HDF5 files \(.h5, .hdf5\) of tetrominoes, but found none at"):
        split_scenes(tmp_path)


@pytest.mark.parametrize("inside", ["", "tetrominoes_train.tfrecords"])
def test_tfrecords_are_refused_with_the_command_that_converts_them(tmp_path: Path, inside: str) -> None:
    (tmp_path / "tetrominoes_train.tfrecords").touch()
    with pytest.raises(
        DatasetNotFoundError, match=r"`object-discovery convert records .*_train.tfrecords .*_train.h5`"
    ):
        split_scenes(tmp_path / inside)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scenes.png").write_text("no HDF5")
    with pytest.raises(CorruptFileError):
        split_scenes(tmp_path / "scenes.png")


def test_another_dataset_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "scenes.h5", 5)
    with pytest.raises(UserError, match=r"hold multi_dsprites, but it holds tetrominoes: give `--dataset tetrominoes`"):
        split_scenes(tmp_path, "multi_dsprites")


def _write_variants(folder: Path, names: dict[str, str]) -> None:
    images, labels = make_scenes([1] * 4, 64, 64)
    for name, variant in names.items():
        write_own(folder / f"{name}.h5", images, labels, "multi_dsprites", 5, variant=variant)


@pytest.mark.parametrize("prefix", ["multi_dsprites_", ""])
@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_each_variant_is_found_in_a_folder_of_all(tmp_path: Path, prefix: str, variant: str | None) -> None:
    _write_variants(tmp_path, {f"{prefix}{name}": name for name in VARIANTS})
    data = MultiDSpritesDataModule(data_root=str(tmp_path), variant=variant)
    expected = variant or "colored_on_grayscale"  # the first is the default
    assert data.splits["train"].source.variant == data.variant == expected


def test_files_with_other_names_are_selected_by_content(tmp_path: Path) -> None:
    _write_variants(tmp_path, {f"{number}": name for number, name in enumerate(VARIANTS)})
    (tmp_path / "notes.h5").write_bytes(b"damaged")
    for variant in VARIANTS:
        splits = find_splits(tmp_path, "multi_dsprites", variant, PUBLISHED)
        assert splits["train"].source.variant == variant


def test_several_files_of_one_variant_are_ambiguous(tmp_path: Path) -> None:
    _write_variants(tmp_path, {"a": "binarized", "b": "binarized", "c": "colored_on_colored"})
    with pytest.raises(UserError, match=r"Expected one file, but .* holds a\.h5, b\.h5: give the one to use"):
        find_splits(tmp_path, "multi_dsprites", "binarized", PUBLISHED)


def test_another_variant_is_refused(tmp_path: Path) -> None:
    images, labels = make_scenes([2, 3, 4], 64, 64)
    write_own(tmp_path / "scenes.h5", images, labels, "multi_dsprites", 5, variant="colored_on_colored")
    with pytest.raises(UserError, match=r"variant binarized, but it holds colored_on_colored: give `--variant color"):
        split_scenes(tmp_path, "multi_dsprites", "binarized")
    assert split_scenes(tmp_path, "multi_dsprites", "colored_on_colored")["train"] == [0]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "scenes.h5", 0)
    with pytest.raises(UserError, match=r"hold scenes of tetrominoes, but it is empty"):
        split_scenes(tmp_path)
