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
    soft_masks = one_hot(LABELS, 3).movedim(-1, 1).float()
    discovery = Discovery(torch.rand(3, 3, 4), soft_masks, images - 0.5 if image else None)
    metrics = ProtocolScores(protocol)
    for index in range(3):
        scene = Discovery._make(None if value is None else value[index : index + 1] for value in discovery)
        metrics.update(scene, images[index : index + 1], None if masks is None else masks[index : index + 1])
    return {name: float(value) for name, value in metrics.compute().items()}


def test_clevrtex_adds_its_miou_and_the_summed_squared_error() -> None:
    values = scores(PROTOCOLS["clevrtex"])
    assert values["mse_sum"] == pytest.approx(12 * 0.25)
    assert values["clevrtex_miou"] == pytest.approx((0.5 + 1.0) / 2)  # the third image has no object
    assert values["clevrtex_miou"] == pytest.approx(float(clevrtex_miou(LABELS, TRUE).nanmean()))
    assert values.keys() - scores(PROTOCOLS["default"]).keys() == {"clevrtex_miou", "mse_sum"}


def test_images_without_objects_are_skipped_or_score_1() -> None:
    masks = torch.tensor([[[1, 1, 2, 2]], [[1, 2, 1, 2]], [[0, 0, 0, 0]]], dtype=torch.uint8)
    skipped, one = scores(PROTOCOLS["default"], masks), scores(Protocol("one", "", unscorable="one"), masks)
    assert skipped["n_skipped"] == 1
    assert skipped["fg_ari"] < 1
    assert one["fg_ari"] == pytest.approx((2 * skipped["fg_ari"] + 1) / 3)


def test_scores_of_missing_masks_and_reconstructions_are_absent() -> None:
    values = scores(PROTOCOLS["clevrtex"], None, image=False)
    assert values.keys() == {"active_slots", "duplicated_slots", "mask_entropy"}


def test_protocols_are_keyed_by_name() -> None:
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert PROTOCOLS["slot-attention"].num_scenes == 320
    assert PROTOCOLS["slot-attention"].split == "test"


RESIZED = Protocol("resized", "", mask_size=12, unscorable="one")


def photographs() -> tuple[Discovery, torch.Tensor, torch.Tensor]:
    """Generate soft masks and attention of six images, and label maps of another size; the last has no object."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 4, 8, 8, generator=generator).softmax(1)
    attention = torch.rand(6, 4, 4, 4, generator=generator).softmax(1)
    objects = interpolate(torch.randint(0, 4, (6, 1, 4, 4), generator=generator).byte(), (12, 12))[:, 0]
    objects[:, 0] = 255
    objects[-1] = 0
    classes = torch.where((objects > 0) & (objects < 255), 1 + objects // 3, objects)
    return Discovery(torch.rand(6, 4, 5, generator=generator), masks, attention=attention), objects, classes


def reference_scores(soft: torch.Tensor, objects: torch.Tensor, classes: torch.Tensor) -> dict[str, float]:
    """Compute the scores of photographs by scikit-learn and NumPy, image by image."""
    labels = interpolate(soft, (12, 12), mode="bilinear").argmax(1).numpy()
    aris: list[float] = []
    scores: dict[str, list[float]] = {"mbo_i": [], "mbo_c": [], "corloc": []}
    for pred, instance, semantic in zip(labels, objects.numpy(), classes.numpy(), strict=True):
        foreground = (instance > 0) & (instance < 255)
        aris.append(adjusted_rand_score(instance[foreground], pred[foreground]) if foreground.any() else 1.0)
        for name, true in (("mbo_i", instance), ("mbo_c", semantic)):
            best = [
                max(
                    ((pred == k) & (true == t)).sum() / (((pred == k) & (true < 255)) | (true == t)).sum()
                    for k in range(4)
                )
                for t in np.unique(true[foreground])
            ]
            scores[name] += [np.mean(best)] if best else []
            scores["corloc"] += [float(max(best) > 0.5)] if best and name == "mbo_i" else []
    return {"fg_ari": float(np.mean(aris)), **{name: float(np.mean(values)) for name, values in scores.items()}}


def test_masks_and_attention_are_scored_at_the_size_of_the_label_maps() -> None:
    discovery, objects, classes = photographs()
    assert discovery.attention is not None
    scores, images = ProtocolScores(RESIZED), torch.rand(6, 3, 8, 8)
    for part in (slice(0, 4), slice(4, 6)):
        batch = Discovery(discovery.slots[part], discovery.masks[part], attention=discovery.attention[part])
        scores.update(batch, images[part], objects[part], None, classes[part])
    values = {name: float(value) for name, value in scores.compute().items()}
    for prefix, soft in (("", discovery.masks), ("attention_", discovery.attention)):
        for name, expected in reference_scores(soft, objects, classes).items():
            assert values[prefix + name] == pytest.approx(expected, abs=1e-6), prefix + name
    assert values["n_skipped"] == 1
    scores.reset()
    assert scores.compute() == {}


def test_scores_of_missing_attention_and_classes_are_absent() -> None:
    discovery, objects, _ = photographs()
    scores = ProtocolScores(RESIZED)
    scores.update(discovery._replace(attention=None), torch.rand(6, 3, 8, 8), objects)
    names = scores.compute().keys()
    assert "corloc" in names
    assert not [name for name in names if name == "mbo_c" or name.startswith("attention")]
    scores.update(discovery, torch.rand(6, 3, 8, 8), None)


def test_masks_of_the_requested_size_are_not_interpolated() -> None:
    masks = torch.rand(1, 2, 6, 6, dtype=torch.float64)
    assert torch.equal(resize_masks(masks, 6), masks.float())


def test_settings_of_the_protocols_of_photographs() -> None:
    dinosaur, covloss = PROTOCOLS["dinosaur-320"], PROTOCOLS["covloss-coco"]
    assert (dinosaur.mask_size, dinosaur.fit, dinosaur.unscorable) == (320, "crop", "one")
    assert (covloss.mask_size, covloss.fit, covloss.unscorable) == (128, "squash", "skip")
