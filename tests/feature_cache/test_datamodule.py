import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from object_discovery.errors import UserError
from object_discovery.feature_cache import FeatureDataModule, find_caches, with_features
from object_discovery.feature_cache.datamodule import cache_roots, choose_device, features_key, make_caches
from object_discovery.layers.frozen_encoder import FrozenEncoder
from object_discovery.models import ObjectDiscoveryModel
from tests.checkpoints import tiny_model
from tests.feature_cache.tiny_cache import make_data, make_encoder
from tests.models.tiny import make_model, make_trainer


def make_auto_cache(root: Path, **settings: Any) -> tuple[FeatureDataModule, ObjectDiscoveryModel[Any]]:
    """Return the data with the feature cache of a new model, and the model."""
    model = make_model("dinosaur")
    data = with_features(make_data(root, feature_cache="auto", **settings), model)
    assert isinstance(data, FeatureDataModule)
    return data, model


def fail(self: FrozenEncoder, images: torch.Tensor) -> torch.Tensor:
    raise AssertionError("the encoder was run")


def test_training_and_validation_never_run_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = make_auto_cache(tmp_path, random_flip=True)
    assert (tmp_path / "coco.features").is_dir()
    monkeypatch.setattr(FrozenEncoder, "forward", fail)
    make_trainer(3).fit(model, datamodule=data)
    reused, second_model = make_auto_cache(tmp_path, random_flip=True)
    assert not any(network.encoder.is_loaded for network in (model, second_model))  # type: ignore[operator, union-attr]
    assert reused.caches["train"].folder == data.caches["train"].folder
    assert "features: " in reused.describe()


def test_loss_equals_that_without_a_cache_in_half_precision(tmp_path: Path) -> None:
    data, model = make_auto_cache(tmp_path)
    batch = model.on_after_batch_transfer(next(iter(FeatureDataModule(data.data, data.caches).train_dataloader())))
    with_cache = model.losses(batch)["loss"]
    without_cache = model.losses({key: value for key, value in batch.items() if key != "features"})["loss"]
    torch.testing.assert_close(with_cache, without_cache, rtol=2**-9, atol=0)
    assert with_cache.item() != without_cache.item()


def test_images_are_loaded_only_if_needed(tmp_path: Path) -> None:
    data, _ = make_auto_cache(tmp_path)
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 3, 0, 0)
    validation = next(iter(data.val_dataloader()))
    assert validation["image"].shape[2:] == validation["mask"].shape[1:] == (16, 16)
    full = FeatureDataModule(data.data, data.caches, images=True)
    assert next(iter(full.train_dataloader()))["image"].shape == (4, 3, 16, 16)


def test_cache_of_hub_weights_is_found_without_loading_them(tmp_path: Path) -> None:
    encoder = make_encoder()
    caches = make_caches(make_data(tmp_path, feature_cache="auto"), encoder, ["train"], progress=False)
    unloaded = make_encoder()
    unloaded.weights = "hub"
    actual = find_caches(make_data(tmp_path, feature_cache="auto"), unloaded, ["train"])
    assert actual["train"].folder == caches["train"].folder
    assert not unloaded.is_loaded
    assert features_key(make_data(tmp_path), "train", unloaded)["weights"] is None


def test_cache_of_other_weights_than_expected_is_refused(tmp_path: Path) -> None:
    named = {"feature_cache": str(tmp_path / "named")}
    make_caches(make_data(tmp_path, **named), make_encoder(), ["train"], progress=False)
    encoder = make_encoder()
    encoder.weights = "hub"
    encoder.expect(make_encoder(seed=1).key()["weights"])  # as stored in a checkpoint
    with pytest.raises(UserError, match="of another kind: weights"):
        find_caches(make_data(tmp_path, **named), encoder, ["train"])
    assert not encoder.is_loaded


def test_checkpoints_of_other_encoder_weights_are_refused(tmp_path: Path) -> None:
    _, model = make_auto_cache(tmp_path)
    with pytest.raises(UserError, match=r"trained on features of .* with other weights than"):
        model.on_load_checkpoint({"encoder": {"weights": make_encoder(seed=1).key()["weights"]}})


def test_incomplete_and_other_caches_of_a_given_folder_are_refused(tmp_path: Path) -> None:
    named = {"feature_cache": str(tmp_path / "named")}
    make_caches(make_data(tmp_path, **named), make_encoder(), ["train"], shard_size=4, progress=False)
    caches = find_caches(make_data(tmp_path, **named), make_encoder(), ["train"])
    assert caches["train"].folder.parent == tmp_path / "named"
    for data, encoder, views, message in (
        (make_data(tmp_path, fit="squash", **named), make_encoder(), 1, "of another kind: fit crop instead of squash"),
        (make_data(tmp_path, **named), make_encoder(block=3), 1, "of another kind: block 2 instead of 3"),
        (make_data(tmp_path, **named), make_encoder(seed=1), 1, "of another kind: weights"),
        (
            make_data(tmp_path, **named),
            make_encoder(),
            2,
            "lacks the mirrored views of `random_flip`: run `object-dis",
        ),
    ):
        with pytest.raises(UserError, match=message):
            find_caches(data, encoder, ["train"], views)
    caches["train"].path(0).unlink()
    with pytest.raises(UserError, match=r"lacks 1 shard of the train split: run `object-discovery cache-feat"):
        find_caches(make_data(tmp_path, **named), make_encoder(), ["train"])
    with pytest.raises(UserError, match=r"Expected a feature cache in .*elsewhere, but found none"):
        find_caches(make_data(tmp_path, feature_cache=str(tmp_path / "elsewhere")), make_encoder(), ["train"])


def test_auto_uses_complete_caches_only_and_none_uses_no_cache(tmp_path: Path) -> None:
    data = make_data(tmp_path, feature_cache="auto")
    assert find_caches(data, make_encoder(), ["train"]) == {}
    cache = make_caches(data, make_encoder(), ["train"], progress=False)["train"]
    assert find_caches(data, make_encoder(), ["train"]).keys() == {"train"}
    assert find_caches(make_data(tmp_path), make_encoder(), ["train"]) == {}
    cache.path(0).unlink()
    assert find_caches(data, make_encoder(), ["train"]) == {}


def test_changed_images_of_the_same_file_size_are_detected(tmp_path: Path) -> None:
    named = {"feature_cache": str(tmp_path / "named")}
    data = make_data(tmp_path, **named)
    make_caches(data, make_encoder(), ["train"], progress=False)
    path = data.train_set.source.image_files()[0]  # type: ignore[attr-defined]
    size = path.stat().st_size
    with Image.open(path) as image:
        uniform = Image.new("RGB", image.size, (250, 20, 20))
    uniform.save(path, quality=95)
    with open(path, "ab") as file:
        file.write(b"\0" * (size - path.stat().st_size))
    assert path.stat().st_size == size
    with pytest.raises(UserError, match="of other images, as image 0 has changed since: delete the folder"):
        find_caches(make_data(tmp_path, **named), make_encoder(), ["train"])


def test_settings_that_cannot_be_cached_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`feature_cache` to be none, as sa has no frozen encoder"):
        with_features(make_data(tmp_path, feature_cache="auto"), tiny_model())
    with pytest.raises(UserError, match="`random_crop` to be None with `feature_cache`: random crops cannot be"):
        with_features(make_data(tmp_path, feature_cache="auto", random_crop=0.5), make_model("dinosaur"))
    with pytest.raises(UserError, match="`resolution` to be the encoder's, 16, but got 32"):
        find_caches(make_data(tmp_path, feature_cache="auto", resolution=32), make_encoder(), ["train"])
    data = make_data(tmp_path)
    assert with_features(data, nn.Identity()) is data


def test_unwritable_folders_are_refused_or_replaced_by_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="`feature_cache` to be a folder that can be written to"):
        make_caches(make_data(tmp_path, feature_cache="/dev/null/x"), make_encoder(), ["train"], progress=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    data = make_data(tmp_path, feature_cache="auto")
    roots = cache_roots(data)
    roots[0].write_text("in the way")
    cache = make_caches(data, make_encoder(), ["train"], progress=False)["train"]
    assert tmp_path / "home" in cache.folder.parents
    assert find_caches(data, make_encoder(), ["train"]).keys() == {"train"}


def test_generated_scenes_are_cached_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from object_discovery import TetrominoesDataModule

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings: dict[str, Any] = {"resolution": 16, "train_size": 5, "num_workers": 0, "feature_cache": "auto"}
    caches = make_caches(TetrominoesDataModule(**settings), make_encoder(), ["train"], shard_size=4, progress=False)
    assert tmp_path in caches["train"].folder.parents
    data = TetrominoesDataModule(**settings)
    assert find_caches(data, make_encoder(), ["train"]).keys() == {"train"}
    assert find_caches(TetrominoesDataModule(**settings, data_seed=1), make_encoder(), ["train"]) == {}


def test_device_of_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "1")
    assert choose_device("auto") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
