"""Tests of every registered dataset, generated or in its real layout on disk."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from object_discovery.data import DATASETS
from object_discovery.data.datasets.scenes import ScenesDataModule
from object_discovery.train import parse
from object_discovery.training.fit import train
from tests.data.scene_files import make_scenes, write_own

GENERATED = {"tetrominoes", "multi_dsprites", "scenes"}
WITHOUT_MASKS = {"clevr", "shapes3d", "sketchy"}
SMALL: dict[str, Any] = {
    "train_size": 6,
    "val_size": 3,
    "test_size": 3,
    "batch_size": 3,
    "num_workers": 0,
    "resolution": 16,
}


def data_root(name: str, root: Path) -> str | None:
    """Write a few scenes in the layout of a dataset; return None for generated datasets."""
    if name in GENERATED:
        return None
    if name == "clevr_with_masks":
        images, labels = make_scenes([1, 2, 3, 4, 5, 6] * 4)
        write_own(root / "clevr.h5", images, labels, name, entities=11)
        return str(root)
    layout = importlib.import_module(f"tests.data.layouts.{name}")
    return str(getattr(layout, f"write_{name}")(root))


@pytest.mark.parametrize("name", list(DATASETS))
def test_batches_have_the_documented_keys_shapes_and_types(name: str, tmp_path: Path) -> None:
    data = DATASETS[name](data_root=data_root(name, tmp_path), **SMALL)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert data.has_masks == ("mask" in batch) == (name not in WITHOUT_MASKS)
    assert data.describe().startswith(name)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for other in loader:
            assert other.keys() == batch.keys()
            assert other["image"].shape[1:] == (3, 16, 16)
            for key in {"image", "mask", "classes", "entities"} & other.keys():
                assert other[key].dtype == torch.uint8
                assert other[key].shape[-2:] == (16, 16)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - GENERATED))
def test_missing_files_raise_one_line(name: str, tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        data = DATASETS[name](data_root=str(root), **SMALL)
        with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
            data.setup()
        assert str(root) in str(caught.value)


@pytest.mark.parametrize("name", list(DATASETS))
def test_training_runs_on_every_dataset(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    flags = {**SMALL, "dataset": name, "max_steps": 20, "val_interval": 10, "num_slots": 3, "num_pictures": 2}
    root = data_root(name, tmp_path / "data")
    if root:
        flags["data_root"] = root
    argv = [f"--{key}={value}" for key, value in {**flags, "out": tmp_path / "run"}.items()]
    scores = train(parse(argv))
    assert ("val/fg_ari" in scores) == (name not in WITHOUT_MASKS)
    assert scores["val/mse"] >= 0
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()


def test_generated_scenes_have_the_requested_number_of_objects() -> None:
    data = ScenesDataModule(min_objects=4, max_objects=4, train_size=4, resolution=64, num_workers=0)
    masks = data.train_set[[0, 1, 2, 3]]["mask"]
    assert [len(torch.unique(mask)) - 1 for mask in masks] == [4] * 4
