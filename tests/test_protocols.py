import pytest
import torch
from torch.nn.functional import one_hot

from object_discovery.discovery import Discovery
from object_discovery.metrics import clevrtex_miou
from object_discovery.protocols import PROTOCOLS, Protocol, ProtocolScores

LABELS = torch.tensor([[[0, 1, 2, 2]], [[0, 0, 1, 1]], [[0, 0, 0, 1]]])
TRUE = torch.tensor([[[0, 0, 1, 1]], [[0, 0, 1, 1]], [[0, 0, 0, 0]]], dtype=torch.uint8)


def scores(protocol: Protocol, masks: torch.Tensor | None = TRUE, image: bool = True) -> dict[str, float]:
    images = torch.rand(3, 3, 1, 4)
    found = Discovery(torch.rand(3, 3, 4), one_hot(LABELS, 3).movedim(-1, 1).float(), images - 0.5 if image else None)
    counted = ProtocolScores(protocol)
    for scene in range(3):
        one = Discovery._make(None if value is None else value[scene : scene + 1] for value in found)
        counted.update(one, images[scene : scene + 1], None if masks is None else masks[scene : scene + 1])
    return {name: float(value) for name, value in counted.compute().items()}


def test_clevrtex_adds_its_miou_and_the_error_as_a_sum() -> None:
    found = scores(PROTOCOLS["clevrtex"])
    assert found["mse_sum"] == pytest.approx(12 * 0.25)
    assert found["clevrtex_miou"] == pytest.approx((0.5 + 1.0) / 2)  # by hand; the third image has no object
    assert found["clevrtex_miou"] == pytest.approx(float(clevrtex_miou(LABELS, TRUE).nanmean()))
    assert found.keys() - scores(PROTOCOLS["default"]).keys() == {"clevrtex_miou", "mse_sum"}


def test_images_without_objects_are_skipped_or_count_as_1() -> None:
    wrong = torch.tensor([[[1, 1, 2, 2]], [[1, 2, 1, 2]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    skipped, one = scores(PROTOCOLS["default"], wrong), scores(Protocol("one", "", unscorable="one"), wrong)
    assert skipped["n_skipped"] == 1
    assert skipped["fg_ari"] < 1
    assert one["fg_ari"] == pytest.approx((2 * skipped["fg_ari"] + 1) / 3)


def test_scores_that_need_masks_or_a_reconstruction_are_left_out_without() -> None:
    found = scores(PROTOCOLS["clevrtex"], None, image=False)
    assert found.keys() == {"active_slots", "duplicated_slots", "mask_entropy"}


def test_names_are_those_of_the_command_line() -> None:
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert PROTOCOLS["slot-attention"].num_scenes == 320
    assert PROTOCOLS["slot-attention"].split == "test"
