from pathlib import Path

import pytest
import torch

from object_discovery.errors import CheckpointError, UserError
from object_discovery.inference import load_for_inference
from tests.checkpoints import save_tiny, tiny_model


def test_the_model_is_the_one_that_was_saved(tmp_path: Path) -> None:
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
def test_checkpoints_that_hold_no_such_model_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = save_tiny(tmp_path / "a.ckpt", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_for_inference(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slots": 4}, "`num_slots` to be at most 3"),
        ({"num_slots": 0}, "`num_slots` to be at least 1"),
        ({"num_iterations": 0}, "`num_iterations` to be at least 1"),
    ],
)
def test_settings_the_model_cannot_work_with_are_refused(options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_for_inference(save_tiny(tmp_path / "a.ckpt"), **options)
