from pathlib import Path
from typing import Any

import pytest
import torch

from object_discovery.errors import CheckpointError, UserError
from object_discovery.models.loading import load_for_inference, measure_likelihood
from tests.checkpoints import save_tiny, tiny_model
from tests.models.tiny import make_data, make_model, make_trainer


def test_loaded_model_equals_the_saved_one(tmp_path: Path) -> None:
    model = load_for_inference(save_tiny(tmp_path / "a.ckpt"), num_slots=2)
    images = torch.rand(2, 3, 16, 16)
    assert not model.training
    assert model.forward_options == {"num_slots": 2}
    with torch.no_grad():
        assert torch.equal(model(images, num_slots=2).masks, tiny_model()(images, num_slots=2).masks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict": None}, "does not hold a model of this version: .*state_dict"),
        ({"state_dict": {}}, "does not hold a model of this version: .*Missing key"),
        ({"hyper_parameters": {"resolution": 16, "of_the_future": 1}}, "does not hold .*of_the_future"),
        ({"hyper_parameters": {"resolution": -1}}, "does not hold .*`resolution` to be at least 1"),
        ({"model_type": "of_the_future"}, "of model type 'of_the_future', which this version does not know"),
        ({"model_type": None}, "is not a checkpoint of this library"),
    ],
)
def test_incompatible_checkpoints_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "a.ckpt", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_for_inference(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slots": 4}, "`num_slots` to be at most 3"),
        ({"num_slots": 0}, "`num_slots` to be at least 1"),
        ({"num_iterations": 0}, "`num_iterations` to be at least 1"),
        ({"mask_source": "none"}, "`mask_source` to be one of"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_for_inference(save_tiny(tmp_path / "a.ckpt"), **options)


def test_masks_are_chosen(tmp_path: Path) -> None:
    path, images = save_tiny(tmp_path / "a.ckpt"), torch.rand(2, 3, 16, 16)
    discovery = load_for_inference(path, mask_source="decoder")(images)
    assert discovery.masks is discovery.decoder_masks
    discovery = load_for_inference(path, mask_source="posterior")(images)
    assert discovery.masks is discovery.posterior_masks
    model = make_model("set_prediction")
    changes = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "model_type": "set_prediction",
    }
    path = save_tiny(tmp_path / "b.ckpt", **changes)
    with pytest.raises(UserError, match="no argument `mask_source`, as set_prediction has one kind of masks only"):
        load_for_inference(path, mask_source="decoder")


def test_log_likelihood_needs_a_model_with_a_likelihood(tmp_path: Path) -> None:
    model = load_for_inference(save_tiny(tmp_path / "a.ckpt"))
    with pytest.raises(
        UserError, match=r"`particles` with a model that has a likelihood of images, .* but got one of type sa"
    ):
        measure_likelihood(model, 10)
    gnm = make_model("gnm")
    with pytest.raises(UserError, match="`particles` to be at least 1, but got 0"):
        measure_likelihood(gnm, 0)
    measure_likelihood(gnm, 2)
    assert "test/log_likelihood" in make_trainer(1).test(gnm, make_data(), verbose=False)[0]
