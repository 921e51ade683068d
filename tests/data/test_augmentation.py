"""Images and label maps are flipped and cropped alike, reproducibly, and only in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from object_discovery.data import TetrominoesDataModule
from object_discovery.data.augmentation import augment

SIZE = 60


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = 6) -> dict[str, Tensor]:
    shape = (count, SIZE, SIZE)
    pixels = torch.randint(0, 256, (4, *shape), generator=seeded(), dtype=torch.uint8)
    return {"image": pixels[:3].transpose(0, 1), "mask": pixels[3], "objects": torch.rand(count, 5, 19)}


def coordinates(count: int = 64) -> dict[str, Tensor]:
    """Images whose red and green are 4 times the column and row; label maps of the column and the row."""
    columns = torch.arange(SIZE, dtype=torch.uint8).expand(count, SIZE, SIZE)
    images = torch.stack([4 * columns, 4 * columns.mT, torch.zeros_like(columns)], dim=1)
    return {"image": images, "mask": columns.clone(), "classes": columns.mT.clone()}


@pytest.mark.parametrize("crop", [None, 1.0])
def test_without_flip_and_crop_batches_are_unchanged(crop: float | None) -> None:
    batch = noise()
    augmented = augment(batch, flip=False, crop=crop)
    assert augmented.keys() == batch.keys()
    assert all(torch.equal(augmented[key], batch[key]) for key in batch)


def test_a_crop_of_almost_the_whole_image_changes_it_by_at_most_one_grey_level() -> None:
    batch = noise()
    augmented = augment(batch, crop=1 - 1e-7)
    assert torch.equal(augmented["mask"], batch["mask"])
    assert (augmented["image"].int() - batch["image"].int()).abs().max() <= 1


def test_images_and_label_maps_are_flipped_together() -> None:
    batch = noise(count=64)
    augmented = augment(batch, flip=True, generator=seeded())
    mirrored = 0
    for number in range(64):
        flips = [
            dims for dims in ([], [-1]) if torch.equal(augmented["mask"][number], batch["mask"][number].flip(dims))
        ]
        assert len(flips) == 1
        assert torch.equal(augmented["image"][number], batch["image"][number].flip(flips[0]))
        mirrored += bool(flips[0])
    assert 20 <= mirrored <= 44
    assert "objects" not in augmented  # their coordinates would be wrong
    assert "objects" in batch


@pytest.mark.parametrize("flip", [False, True])
def test_images_and_label_maps_stay_aligned(flip: bool) -> None:
    augmented = augment(coordinates(), flip=flip, crop=0.2, generator=seeded())
    columns, rows = augmented["image"][:, 0] / 4, augmented["image"][:, 1] / 4
    assert (columns - augmented["mask"]).abs().max() <= 0.5 + 0.125 + 1e-4  # half a pixel, and rounding of the image
    assert (rows - augmented["classes"]).abs().max() <= 0.5 + 0.125 + 1e-4


def test_crops_have_the_aspect_ratio_and_uniform_area_and_position() -> None:
    maps = augment(coordinates(count=2000), crop=0.25, generator=seeded())
    left, right = (maps["mask"][:, 0, column].float() for column in (0, -1))
    top, bottom = (maps["classes"][:, row, 0].float() for row in (0, -1))
    widths, heights = right - left + 1, bottom - top + 1
    assert (widths - heights).abs().max() <= 2
    shares = (widths / SIZE) ** 2
    assert shares.min() == pytest.approx(0.25, abs=0.04)
    assert shares.max() > 0.95
    assert shares.mean() == pytest.approx(0.625, abs=0.03)
    assert [int(border) for border in (left.min(), top.min(), right.max(), bottom.max())] == [0, 0, SIZE - 1, SIZE - 1]
    assert (left / (SIZE - widths).clamp(min=1)).mean() == pytest.approx(0.5, abs=0.05)
    assert torch.corrcoef(torch.stack([left, top]) - (SIZE - widths) / 2)[0, 1].abs() < 0.1


def test_equal_seeds_give_equal_batches() -> None:
    batch = noise()
    first, same, other = (augment(batch, flip=True, crop=0.3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert first.keys() == same.keys() == {"image", "mask"}
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].dtype == first["mask"].dtype == torch.uint8


def test_images_without_label_maps_need_not_be_square() -> None:
    images = torch.arange(40, dtype=torch.uint8).view(1, 1, 1, 40).expand(4, 3, 20, 40)
    augmented = augment({"image": images}, crop=0.5, generator=seeded())["image"]
    assert augmented.shape == images.shape
    assert (augmented.int().diff(dim=-1) >= 0).all()
    assert torch.equal(augmented[:, :, 0], augmented[:, :, -1])


@pytest.mark.parametrize("crop", [0.0, -1.0, 1.5])
def test_invalid_crops_are_refused(crop: float) -> None:
    with pytest.raises(ValueError, match=r"Expected argument `crop` to be in \(0, 1\], but got"):
        augment(noise(), crop=crop)


class Recorder(LightningModule):
    """Records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: dict[str, list[dict[str, Tensor]]] = {"train": [], "val": []}

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.batches["train"].append(batch)
        return self.weight**2

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.batches["val"].append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


def fit(folder: Path, steps: int, resume: Path | None = None, **settings: Any) -> dict[str, list[dict[str, Tensor]]]:
    data = TetrominoesDataModule(batch_size=4, num_workers=0, train_size=12, val_size=4, **settings)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=1,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=2)],
    )
    model = Recorder()
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model.batches


@pytest.fixture
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")


@pytest.mark.usefixtures("_seed")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_only_training_batches_are_augmented_and_a_resumed_run_continues_identically(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", 4)
    uninterrupted = fit(tmp_path / "whole", 4, random_flip=True, random_crop=0.5)
    first = fit(tmp_path / "first", 2, random_flip=True, random_crop=0.5)
    second = fit(tmp_path / "second", 4, tmp_path / "first" / "step=2.ckpt", random_flip=True, random_crop=0.5)
    for batch, other_batch in zip(plain["val"], uninterrupted["val"], strict=True):
        assert torch.equal(batch["image"], other_batch["image"])
    for batch, other_batch in zip(plain["train"], uninterrupted["train"], strict=True):
        assert not torch.equal(batch["image"], other_batch["image"])
        assert not torch.equal(batch["mask"], other_batch["mask"])
    resumed = first["train"] + second["train"]
    assert len(resumed) == len(uninterrupted["train"]) == 4
    for batch, other_batch in zip(uninterrupted["train"], resumed, strict=True):
        assert torch.equal(batch["image"], other_batch["image"])
        assert torch.equal(batch["mask"], other_batch["mask"])


@pytest.mark.usefixtures("_seed")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_image_has_a_different_crop(tmp_path: Path) -> None:
    def constant(scenes: Any) -> Any:
        return np.broadcast_to(np.arange(35, dtype=np.uint8)[:, None], (len(scenes), 35, 35, 3)).copy(), np.zeros(
            (len(scenes), 35, 35), np.uint8
        )

    class Constant(TetrominoesDataModule):
        @classmethod
        def _scene_generator(cls, seed: int, variant: str | None, counts: tuple[int, int], resolution: int) -> Any:
            return constant

    data = Constant(batch_size=4, num_workers=0, train_size=8, val_size=4, random_crop=0.2)
    model = Recorder()
    Trainer(
        max_steps=4,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(model, datamodule=data)
    images = [image.numpy().tobytes() for batch in model.batches["train"] for image in batch["image"]]
    assert len(set(images)) == len(images) == 16
