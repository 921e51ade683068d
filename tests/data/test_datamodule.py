from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from object_discovery.data import (
    DATASETS,
    CLEVRWithMasksDataModule,
    MultiDSpritesDataModule,
    SceneDataModule,
    TetrominoesDataModule,
)
from object_discovery.data.geometry import Crop
from object_discovery.data.readers.hdf5_scenes import SceneFile
from object_discovery.errors import DatasetNotFoundError, UserError
from object_discovery.params import MODEL_PARAMS, DataParams, TrainerParams
from tests.data.scene_files import make_scenes, write_own, write_published

GENERATED = ["tetrominoes", "multi_dsprites"]
COUNTS = [1, 2, 3, 2, 3, 3, 1, 2, 3, 2]


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A folder of training, validation and test files of tetrominoes, with `COUNTS` objects each."""
    images, labels = make_scenes(COUNTS)
    for split in ("train", "val", "test"):
        write_published(tmp_path / f"{split}.h5", images, labels, entities=4)
    return str(tmp_path)


def counts(scenes: Any) -> list[int]:
    return [len(torch.unique(scenes[index]["mask"])) - 1 for index in range(len(scenes))]


@pytest.mark.parametrize("name", list(DATASETS))
def test_registered_datasets_have_their_name_and_recommend_existing_hyperparameters(name: str) -> None:
    datamodule = DATASETS[name]
    known = {field.name for params in (DataParams, TrainerParams, *MODEL_PARAMS.values()) for field in fields(params)}
    assert datamodule.name == name
    assert set(datamodule.recommended) <= known
    assert {"resolution", "num_slots", "max_steps"} <= set(datamodule.recommended)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_datasets_have_batches_of_images_and_label_maps(name: str) -> None:
    data = DATASETS[name](batch_size=4, num_workers=0, train_size=9, val_size=6, test_size=3)
    data.setup()
    size = DATASETS[name].recommended["resolution"]
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    for loader, sizes in zip(loaders, ([4, 4], [3, 3], [3]), strict=True):
        batches = list(loader)
        assert [len(batch["image"]) for batch in batches] == sizes
        assert set(batches[0]) == {"image", "mask"}
        assert batches[0]["image"].shape[1:] == (3, size, size)
        assert batches[0]["mask"].shape[1:] == (size, size)
        assert batches[0]["image"].dtype == batches[0]["mask"].dtype == torch.uint8


@pytest.mark.parametrize("name", GENERATED)
def test_generated_splits_are_disjoint_and_depend_on_the_seed(name: str) -> None:
    def scenes(seed: int) -> list[bytes]:
        data = DATASETS[name](train_size=60, val_size=60, test_size=60, data_seed=seed)
        sets = (data.train_set, data.val_set, data.test_set)
        return [split[index]["image"].numpy().tobytes() for split in sets for index in range(60)]

    assert len(set(scenes(0))) == 180
    assert scenes(0) == scenes(0)
    assert not set(scenes(0)) & set(scenes(1))


def test_generated_splits_have_default_sizes() -> None:
    data = TetrominoesDataModule(val_size=None)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (1_000_000, 10_000, 320)


def test_scenes_are_resized_to_the_resolution() -> None:
    assert TetrominoesDataModule(resolution=16).train_set[0]["image"].shape == (3, 16, 16)


def test_params_and_keywords_are_equivalent() -> None:
    by_params = TetrominoesDataModule(DataParams(batch_size=8, data_seed=3))
    by_keywords = TetrominoesDataModule(batch_size=8, data_seed=3)
    assert by_params.params == by_keywords.params


def test_omitted_keywords_have_the_recommended_values() -> None:
    params = CLEVRWithMasksDataModule(data_root="somewhere").params
    assert (params.dataset, params.resolution, params.max_objects) == ("clevr_with_masks", 128, 6)
    assert CLEVRWithMasksDataModule(max_objects=None).params.max_objects is None


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="fields of DataParams, but got `batchsize`"):
        TetrominoesDataModule(batchsize=8)


def test_params_with_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="either `params` or keywords, but got both: batch_size"):
        TetrominoesDataModule(DataParams(), batch_size=8)


def test_an_unknown_variant_is_refused() -> None:
    known = "one of colored_on_grayscale, colored_on_colored, binarized, but got 'colourful'"
    with pytest.raises(UserError, match=f"Expected argument `variant` to be {known}"):
        MultiDSpritesDataModule(variant="colourful")
    with pytest.raises(UserError, match="`variant` to be None, as tetrominoes has no variants, but got 'binarized'"):
        TetrominoesDataModule(variant="binarized")


def test_the_default_variant_is_that_of_the_file(tmp_path: Path) -> None:
    images, labels = make_scenes([1, 2, 3, 4], 64, 64)
    path = tmp_path / "scenes.h5"
    write_own(path, images, labels, "multi_dsprites", 5, variant="colored_on_colored")
    assert MultiDSpritesDataModule(data_root=str(path)).variant == "colored_on_colored"
    assert MultiDSpritesDataModule().variant == "colored_on_grayscale"


@pytest.mark.parametrize(
    ("settings", "train", "evaluation"),
    [
        ({}, COUNTS, COUNTS),
        ({"max_objects": 2}, [1, 2, 2, 1, 2, 2], [1, 2, 2, 1, 2, 2]),
        ({"max_objects": 2, "eval_max_objects": 0}, [1, 2, 2, 1, 2, 2], COUNTS),
        ({"max_objects": 1, "eval_max_objects": 2}, [1, 1], [1, 2, 2, 1, 2, 2]),
        ({"min_objects": 3}, [3, 3, 3, 3], [3, 3, 3, 3]),
        ({"min_objects": 2, "max_objects": 2, "train_size": 3}, [2, 2, 2], [2, 2, 2, 2]),
        ({"val_size": 2, "test_size": 2}, COUNTS, [1, 2]),
    ],
)
def test_filters_select_stored_scenes_by_number_of_objects(
    root: str, settings: dict[str, Any], train: list[int], evaluation: list[int]
) -> None:
    data = TetrominoesDataModule(data_root=root, **settings)
    assert counts(data.train_set) == train
    assert counts(data.val_set) == evaluation
    assert counts(data.test_set) == evaluation


def test_filters_limit_the_objects_of_generated_scenes() -> None:
    data = MultiDSpritesDataModule(min_objects=3, max_objects=3, eval_max_objects=0, train_size=40, val_size=80)
    assert set(counts(data.train_set)) == {3}
    assert set(counts(data.val_set)) == {3, 4, 5}


@pytest.mark.parametrize(
    ("settings", "limit"),
    [({"max_objects": 2}, "0 to 2"), ({"min_objects": 4}, "4 or more")],
)
@pytest.mark.parametrize("source", ["generated", "file"])
def test_filters_that_no_scene_passes_are_refused(
    tmp_path: Path, settings: dict[str, Any], limit: str, source: str
) -> None:
    images, labels = make_scenes([3] * 5)
    write_published(tmp_path / "scenes.h5", images, labels, entities=4)
    data = TetrominoesDataModule(data_root=str(tmp_path) if source == "file" else None, **settings)
    with pytest.raises(UserError, match=f"train scenes of tetrominoes with {limit} objects.*change `min_objects`"):
        data.setup("fit")


def test_filters_outside_the_generated_numbers_of_sprites_are_refused() -> None:
    with pytest.raises(UserError, match="scenes of multi_dsprites with 0 to 1 objects, but found none"):
        MultiDSpritesDataModule(variant="binarized", max_objects=1).setup()


def test_both_formats_give_the_same_batches(tmp_path: Path) -> None:
    images, labels = make_scenes(COUNTS)
    write_published(tmp_path / "published.h5", images, labels, entities=4)
    write_own(tmp_path / "own.h5", images, labels, "tetrominoes", entities=4)

    def batches(name: str) -> list[dict[str, Tensor]]:
        data = TetrominoesDataModule(data_root=str(tmp_path / name), min_objects=2, batch_size=2, num_workers=0)
        return [*data.train_dataloader(), *data.val_dataloader()]

    for published, own in zip(batches("published.h5"), batches("own.h5"), strict=True):
        assert torch.equal(published["image"], own["image"])
        assert torch.equal(published["mask"], own["mask"])


def test_a_missing_test_file_is_an_error_only_in_the_test_stage(root: str) -> None:
    (Path(root) / "test.h5").unlink()
    data = TetrominoesDataModule(data_root=root)
    data.setup()
    with pytest.raises(DatasetNotFoundError, match=r"Expected a test split in .* but it has train, val only"):
        data.setup("test")


def test_the_test_stage_needs_a_test_file_only(root: str) -> None:
    for split in ("train", "val"):
        (Path(root) / f"{split}.h5").unlink()
    data = TetrominoesDataModule(data_root=root, batch_size=5, num_workers=0)
    data.setup("test")
    assert [len(batch["image"]) for batch in data.test_dataloader()] == [5, 5]


def test_describe_lists_files_splits_and_filters(root: str) -> None:
    data = TetrominoesDataModule(data_root=root, max_objects=2, eval_max_objects=0, min_objects=1)
    data.setup()
    assert data.describe().splitlines() == [
        f"tetrominoes: {root}, HDF5",
        "  train: 6 scenes of 35 x 35 pixels (the whole of train.h5, 1 to 2 objects)",
        "  val: 10 scenes of 35 x 35 pixels (the whole of val.h5, 1 or more objects)",
    ]


def test_describe_lists_the_seed_and_sizes_of_generated_splits() -> None:
    data = MultiDSpritesDataModule(data_seed=5, train_size=2000)
    data.setup()
    assert data.describe().splitlines() == [
        "multi_dsprites (colored_on_grayscale): generated, seed 5",
        "  train: 2,000 scenes of 64 x 64 pixels (generated on the fly)",
        "  val: 320 scenes of 64 x 64 pixels (generated on the fly)",
    ]


class Recorder(LightningModule):
    """Records its label maps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.masks: dict[str, list[bytes]] = {"train": [], "val": [], "test": []}

    def _record(self, split: str, batch: dict[str, Tensor]) -> None:
        self.masks[split] += [mask.numpy().tobytes() for mask in batch["mask"]]

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self._record("train", batch)
        return self.weight**2

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self._record("val", batch)

    def test_step(self, batch: dict[str, Tensor]) -> None:
        self._record("test", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_shuffles_training_scenes_and_evaluates_each_scene_once(tmp_path: Path) -> None:
    data: SceneDataModule = TetrominoesDataModule(batch_size=4, num_workers=0, train_size=8, val_size=10, test_size=3)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=2,
        enable_checkpointing=False,
        **quiet,
    )
    model = Recorder()
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    first, second = model.masks["train"][:8], model.masks["train"][8:]
    assert set(first) == set(second)
    assert first != second  # Lightning sets the epoch of the sampler
    assert model.masks["val"] == [scene["mask"].numpy().tobytes() for scene in map(data.val_set.__getitem__, range(10))]
    assert len(set(model.masks["test"])) == 3


def test_label_maps_equal_those_of_the_file(root: str) -> None:
    _, labels = make_scenes(COUNTS)
    data = TetrominoesDataModule(data_root=root)
    np.testing.assert_array_equal(data.val_set[list(range(10))]["mask"], labels)


def test_the_objects_of_a_file_are_counted_once_for_all_splits(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    crops: list[object] = []
    count = SceneFile.object_counts

    def counted(file: SceneFile, crop: Crop | None = None) -> NDArray[np.int64]:
        crops.append(crop)
        return count(file, crop)

    monkeypatch.setattr(SceneFile, "object_counts", counted)
    data = TetrominoesDataModule(data_root=f"{root}/train.h5", max_objects=2, eval_max_objects=3, val_size=None)
    assert counts(data.train_set) == [number for number in COUNTS[:8] if number <= 2]
    assert counts(data.val_set) + counts(data.test_set) == COUNTS[8:]
    assert crops == [None]
