"""Generic tests of every registered model."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import object_discovery
from object_discovery import TetrominoesDataModule
from object_discovery.configs import read_config
from object_discovery.discovery import Discovery
from object_discovery.models import MODELS, ObjectDiscoveryModel
from tests.models.tiny import SIZE, SLOTS, TINY, make_data, make_images, make_model, make_objects, make_trainer

SCORES = {"fg_ari", "ari", "mbo_i", "miou", "n_skipped"}
"""Scores that need masks."""
MASK_FREE_SCORES = {"mse", "active_slots", "duplicated_slots", "mask_entropy"}
"""Scores that need no masks."""
OF_SLOTS = {"slot_covariance", "slot_cosine"}
"""Scores of models with Slot Attention."""
NEED_INPUTS = {"average_precision", "count_accuracy", "log_likelihood"}
"""Metrics that need masks or objects, or are computed on request."""
OBJECT_SCORES = {"set_prediction": {"ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"}}
"""Scores of models that need objects."""

CONFIGS = sorted(path.stem for path in (Path(object_discovery.__file__).parent / "configs").glob("*.yaml"))
every_model = pytest.mark.parametrize("model_type", sorted(MODELS))


def mask_free_scores(model: ObjectDiscoveryModel[Any]) -> set[str]:
    """Name the scores of a model that need no masks; the MSE needs a reconstruction."""
    reconstructs = model(make_images()).image is not None
    extra = model.extra_metrics().keys() - NEED_INPUTS
    return MASK_FREE_SCORES - (set() if reconstructs else {"mse"}) | extra | OBJECT_SCORES.get(model.model_type, set())


def seeded(model: ObjectDiscoveryModel[Any], images: Tensor, **options: Any) -> list[Tensor]:
    torch.manual_seed(5)  # for slots that are sampled
    with torch.no_grad():
        return [tensor for tensor in model.eval()(images, **options) if tensor is not None]


def assert_equal(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_every_model_has_tiny_settings_and_its_own_name() -> None:
    assert TINY.keys() == MODELS.keys()
    assert {name: cls.model_type for name, cls in MODELS.items()} == {name: name for name in MODELS}


@every_model
def test_shapes_and_ranges(model_type: str) -> None:
    model = make_model(model_type)
    discovery = model(make_images())
    assert discovery.slots.shape[:2] == (2, SLOTS)
    assert discovery.masks.shape == (2, SLOTS, SIZE, SIZE)
    assert discovery.masks.dtype == torch.float32
    assert discovery.masks.min() >= 0
    torch.testing.assert_close(discovery.masks.sum(1), torch.ones(2, SIZE, SIZE))
    if discovery.image is not None:
        assert discovery.image.shape == (2, 3, SIZE, SIZE)
    if discovery.slot_images is not None:
        for masks in (discovery.decoder_masks, discovery.posterior_masks):
            assert masks.shape == discovery.masks.shape
            torch.testing.assert_close(masks.sum(1), torch.ones(2, SIZE, SIZE))
        assert discovery.slot_images.shape == (2, SLOTS, 3, SIZE, SIZE)
        composite = (discovery.slot_images * discovery.decoder_masks[:, :, None]).sum(1)
        torch.testing.assert_close(composite, discovery.image)
    if discovery.attention is not None:
        assert discovery.attention.shape[:2] == (2, SLOTS)
        assert discovery.attention.ndim == 4
        torch.testing.assert_close(discovery.attention.sum(1), torch.ones_like(discovery.attention[:, 0]))


@every_model
def test_every_parameter_gets_a_gradient(model_type: str) -> None:
    model = make_model(model_type)
    losses = model.losses({"image": make_images(), "objects": make_objects()})
    assert all(value.ndim == 0 and value.isfinite() for value in losses.values())
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"No gradient for {name}"
            assert parameter.grad.isfinite().all(), f"Gradient of {name} is not finite"


@every_model
def test_images_of_a_batch_are_independent(model_type: str) -> None:
    model = make_model(model_type).eval()
    images = make_images()
    both, first = model(images).masks, model(images[:1]).masks
    torch.testing.assert_close(both[:1], first, rtol=1e-4, atol=1e-5)


@every_model
def test_params_and_keywords_are_equivalent(model_type: str) -> None:
    cls, settings = MODELS[model_type], TINY[model_type]
    torch.manual_seed(0)
    model = cls(cls.params_class(**settings))
    assert model.params == make_model(model_type).params
    assert_equal(seeded(model, make_images()), seeded(make_model(model_type), make_images()))


@every_model
def test_wrong_arguments_are_refused(model_type: str) -> None:
    cls = MODELS[model_type]
    with pytest.raises(TypeError, match=rf"keywords to be fields of {cls.params_class.__name__}, but got `no_such"):
        cls(no_such_setting=1)
    with pytest.raises(TypeError, match=r"either `params` or keywords, but got both: num_slots"):
        cls(cls.params_class(**TINY[model_type]), num_slots=3)
    with pytest.raises(ValueError, match=r"`num_slots` to be at least 1, but got 0"):
        cls(num_slots=0)


@every_model
def test_loaded_checkpoint_gives_the_same_results(model_type: str, tmp_path: Path) -> None:
    model = make_model(model_type)
    trainer = make_trainer(2)
    trainer.fit(model, make_data())
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["model_type"] == model_type
    expected = seeded(model, make_images())
    loaded = object_discovery.load(path)
    assert type(loaded) is MODELS[model_type]
    assert not loaded.training
    assert loaded.params == model.params
    assert_equal(seeded(loaded, make_images()), expected)
    loaded_by_class = MODELS[model_type].load_from_checkpoint(path)
    assert_equal(seeded(loaded_by_class, make_images()), expected)


@every_model
def test_one_tiny_fit_validates_and_tests(model_type: str) -> None:
    model = make_model(model_type)
    trainer = make_trainer(4, check_val_every_n_epoch=1, limit_train_batches=2)
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer.fit(model, make_data())
    assert trainer.global_step == 4
    for name, value in model.named_parameters():
        unchanged = torch.equal(value, before[name])
        assert not unchanged or value.grad is None or not value.grad.any(), f"{name} has a gradient but was not updated"
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert math.isfinite(logged["train/loss"])
    for split, scores in (("val", trainer.validate(model, make_data(), verbose=False)[0]), ("test", None)):
        actual = scores or trainer.test(model, make_data(), verbose=False)[0]
        assert {f"{split}/{name}" for name in SCORES | mask_free_scores(model)} <= actual.keys()
        assert all(math.isfinite(value) for value in actual.values())
        assert {name for name in logged if name.startswith("val/")} >= {
            f"val/{name}" for name in SCORES | mask_free_scores(model)
        }


class WithoutMasks(TetrominoesDataModule):
    """Photographs without ground-truth masks."""

    def loader(self) -> Any:
        images = (make_images(4) * 255).to(torch.uint8)
        scenes = [{"image": image, "objects": objects} for image, objects in zip(images, make_objects(4), strict=True)]
        return DataLoader(scenes, batch_size=2)  # type: ignore[arg-type]

    train_dataloader = val_dataloader = test_dataloader = loader


@every_model
def test_data_without_masks_have_no_segmentation_scores(model_type: str) -> None:
    model, data = make_model(model_type), WithoutMasks(resolution=SIZE)
    trainer = make_trainer(2)
    trainer.fit(model, data)
    actual = trainer.test(model, data, verbose=False)[0]
    assert actual.keys() == {f"test/{name}" for name in mask_free_scores(model)}
    assert not {f"val/{name}" for name in SCORES} & trainer.callback_metrics.keys()
    # nor may scores of an earlier run with masks remain
    trainer.validate(model, make_data(), verbose=False)
    expected = {f"val/{name}" for name in mask_free_scores(model)}
    assert trainer.validate(model, data, verbose=False)[0].keys() == expected


@every_model
def test_bytes_become_floats_between_0_and_1(model_type: str) -> None:
    image = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    image[0, 0, 0, :2] = torch.tensor([0, 255])
    mask = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    batch = make_model(model_type).on_after_batch_transfer({"image": image, "mask": mask})
    torch.testing.assert_close(batch["image"], image.double().div(255).float())
    assert batch["mask"] is mask
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)


@every_model
def test_forward_options_are_used_in_validation(model_type: str) -> None:
    model = make_model(model_type)
    model.forward_options = {"num_slots": 2}
    trainer = make_trainer(1)
    assert trainer.validate(model, make_data(), verbose=False)[0]["val/active_slots"] <= 2


@pytest.mark.parametrize("name", CONFIGS)
def test_models_are_built_from_shipped_configs(name: str) -> None:
    config = read_config(name)
    cls = MODELS[config["model_type"]]
    model = cls.from_config(name)
    values = dataclasses.asdict(model.params)
    assert {key: value for key, value in config.items() if key in values} == {
        key: value for key, value in values.items() if key in config
    }
    assert cls.from_config(name, num_slots=2).params.num_slots == 2


class Images(Dataset[Any]):
    """Eight images as tensors, as tuples with a label, or as dicts."""

    def __init__(self, form: str, dtype: torch.dtype) -> None:
        images = make_images(8)
        self.images = (images * 255).byte() if dtype == torch.uint8 else images.to(dtype)
        self.form, self.objects = form, make_objects(8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image = self.images[index]
        forms = {"tensor": image, "tuple": (image, index), "dict": {"image": image, "objects": self.objects[index]}}
        return forms[self.form]


@every_model
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_lightning_trainer_accepts_any_batch_format(model_type: str, form: str, dtype: torch.dtype) -> None:
    if model_type == "set_prediction" and form != "dict":
        pytest.skip("set prediction is supervised by the objects in the batch")
    model = make_model(model_type)
    loader = DataLoader(Images(form, dtype), batch_size=4)
    trainer = make_trainer(1, limit_val_batches=1)
    trainer.fit(model, loader, loader)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert trainer.validate(model, loader, verbose=False)
    assert trainer.test(model, loader, verbose=False)
    discoveries: Any = trainer.predict(model, loader)
    assert [type(discovery) for discovery in discoveries] == [Discovery] * 2
    assert discoveries[0].masks.shape == (4, SLOTS, SIZE, SIZE)
    assert discoveries[0].masks.dtype == torch.float32


@every_model
def test_an_empty_batch_has_empty_results(model_type: str) -> None:
    model = make_model(model_type).eval()
    full, empty = model(make_images()), model(make_images()[:0])
    for full_value, empty_value in zip(full, empty, strict=True):
        assert (full_value is None) == (empty_value is None)
        if full_value is not None:
            assert empty_value.shape == (0, *full_value.shape[1:])
            assert empty_value.dtype == full_value.dtype
    assert model.predict_step({"image": make_images()[:0]}, 0).masks.shape == (0, SLOTS, SIZE, SIZE)
    model.validation_step({"image": make_images()[:0]}, 0)
    assert model.training_step({"image": make_images()[:0]}, 0) is None


@every_model
@pytest.mark.parametrize("value", [255.0, -1.0, float("nan")])
def test_images_out_of_range_are_refused(model_type: str, value: float) -> None:
    model, images = make_model(model_type).eval(), make_images()
    images[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"`images` to be in \[0, 1\], but got values from"):
        model(images)
    with pytest.raises(ValueError, match=r"`images` to be in \[0, 1\], but got values from"):
        make_trainer(1).predict(model, DataLoader(images, batch_size=2))  # type: ignore[arg-type]


@every_model
def test_other_batch_formats_and_dtypes_are_refused(model_type: str) -> None:
    model = make_model(model_type).eval()
    with pytest.raises(ValueError, match="`images` to be uint8 or floats"):
        model((make_images() * 255).long())
    for batch, received in (({"pixels": make_images()}, "a dict with pixels"), ("images", "str"), ((), "tuple")):
        with pytest.raises(ValueError, match=f"`batch` to be a tensor of images, .*, but got {received}"):
            model.on_after_batch_transfer(batch)
