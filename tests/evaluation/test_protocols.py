import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import interpolate, one_hot

from object_discovery.discovery import Discovery
from object_discovery.evaluation.protocols import PROTOCOLS, Protocol, ProtocolScores, resize_masks
from object_discovery.metrics import clevrtex_miou

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


SIZED = Protocol("sized", "", mask_size=12, unscorable="one")


def photographs() -> tuple[Discovery, torch.Tensor, torch.Tensor]:
    """Random soft masks and attention of six images, and their maps at another size; the last has no object."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 4, 8, 8, generator=generator).softmax(1)
    attention = torch.rand(6, 4, 4, 4, generator=generator).softmax(1)
    objects = interpolate(torch.randint(0, 4, (6, 1, 4, 4), generator=generator).byte(), (12, 12))[:, 0]
    objects[:, 0] = 255
    objects[-1] = 0
    classes = torch.where((objects > 0) & (objects < 255), 1 + objects // 3, objects)
    return Discovery(torch.rand(6, 4, 5, generator=generator), masks, attention=attention), objects, classes


def by_hand(soft: torch.Tensor, objects: torch.Tensor, classes: torch.Tensor) -> dict[str, float]:
    """The scores of photographs with scikit-learn and numpy, image by image."""
    labels = interpolate(soft, (12, 12), mode="bilinear").argmax(1).numpy()
    aris: list[float] = []
    found: dict[str, list[float]] = {"mbo_i": [], "mbo_c": [], "corloc": []}
    for pred, instance, kind in zip(labels, objects.numpy(), classes.numpy(), strict=True):
        foreground = (instance > 0) & (instance < 255)
        aris.append(adjusted_rand_score(instance[foreground], pred[foreground]) if foreground.any() else 1.0)
        for name, true in (("mbo_i", instance), ("mbo_c", kind)):
            best = [
                max(
                    ((pred == k) & (true == t)).sum() / (((pred == k) & (true < 255)) | (true == t)).sum()
                    for k in range(4)
                )
                for t in np.unique(true[foreground])
            ]
            found[name] += [np.mean(best)] if best else []
            found["corloc"] += [float(max(best) > 0.5)] if best and name == "mbo_i" else []
    return {"fg_ari": float(np.mean(aris)), **{name: float(np.mean(values)) for name, values in found.items()}}


def test_photographs_are_scored_at_the_size_of_their_maps_by_masks_and_attention() -> None:
    found, objects, classes = photographs()
    scores, images = ProtocolScores(SIZED), torch.rand(6, 3, 8, 8)
    for part in (slice(0, 4), slice(4, 6)):
        one = Discovery(found.slots[part], found.masks[part], attention=found.attention[part])  # type: ignore[index]
        scores.update(one, images[part], objects[part], None, classes[part])
    values = {name: float(value) for name, value in scores.compute().items()}
    assert found.attention is not None
    for prefix, soft in (("", found.masks), ("attention_", found.attention)):
        for name, expected in by_hand(soft, objects, classes).items():
            assert values[prefix + name] == pytest.approx(expected, abs=1e-6), prefix + name
    assert values["n_skipped"] == 1
    scores.reset()
    assert scores.compute() == {}


def test_what_a_model_or_a_dataset_lacks_is_left_out() -> None:
    found, objects, _ = photographs()
    scores = ProtocolScores(SIZED)
    scores.update(found._replace(attention=None), torch.rand(6, 3, 8, 8), objects)
    names = scores.compute().keys()
    assert "corloc" in names
    assert not [name for name in names if name == "mbo_c" or name.startswith("attention")]
    scores.update(found, torch.rand(6, 3, 8, 8), None)


def test_masks_of_the_size_are_not_resized() -> None:
    masks = torch.rand(1, 2, 6, 6, dtype=torch.float64)
    assert torch.equal(resize_masks(masks, 6), masks.float())


def test_the_protocols_of_photographs() -> None:
    dinosaur, covloss = PROTOCOLS["dinosaur-320"], PROTOCOLS["covloss-coco"]
    assert (dinosaur.mask_size, dinosaur.fit, dinosaur.unscorable) == (320, "crop", "one")
    assert (covloss.mask_size, covloss.fit, covloss.unscorable) == (128, "squash", "skip")
