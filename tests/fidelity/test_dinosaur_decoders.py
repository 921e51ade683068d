"""Decoders of DINOSAUR (Seitzer et al. 2023) against amazon-science/object-centric-learning-framework."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from object_discovery.models.dinosaur import DINOSAUR
from object_discovery.models.dinosaur.mlp import PatchMLPDecoder
from object_discovery.models.dinosaur.transformer import PatchTransformerDecoder
from tests.fidelity.official import Official, assert_same

OFFICIAL = Official("dinosaur_decoders")
LINEAR = ("weight", "bias")
HIDDEN = 32
ATTENTION = torch.full((2, 4, 16), 0.25)  # only chooses the slots to decode, here all
every_decoder = pytest.mark.parametrize("tag", ["mlp", "mlp_inproj", "auto"])


def mlp_in_our_names(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name weights, or gradients, of the MLP decoder as we do."""
    named = {"positions": official["pos_embed"][0]}
    for ours, theirs in (("first", 0), ("second", 2), ("last", 4)):
        named |= {f"{ours}.{kind}": official[f"decoder.{theirs}.{kind}"] for kind in LINEAR}
    return named


def mlp_decoder(tag: str) -> PatchMLPDecoder:
    """Build our decoder with the official weights; our third hidden layer hands on what comes from the second."""
    weights = mlp_in_our_names(OFFICIAL.group(f"{tag}/weight/"))
    decoder = PatchMLPDecoder(weights["positions"].shape[1], 16, 24, HIDDEN)
    decoder.load_state_dict(weights | {"third.weight": torch.eye(HIDDEN), "third.bias": torch.zeros(HIDDEN)})
    return decoder


def transformer_in_our_names(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name weights, or gradients, of the transformer decoder as we do."""
    named = {"beginnings": official["bos_token"][0]}
    for ours, theirs in (("from_features", "inp_transform"), ("from_slots", "cond_transform")):
        named[f"{ours}.0.weight"] = official[f"{theirs}.0.weight"]
        named |= {f"{ours}.1.{kind}": official[f"{theirs}.1.{kind}"] for kind in LINEAR}
    for block in range(2):
        ours_block, their_layer = f"blocks.{block}", f"decoder.layers.{block}"
        for ours, theirs in (("self_attention", "self_attn"), ("cross_attention", "multihead_attn")):
            for kind in LINEAR:
                projections = official[f"{their_layer}.{theirs}.in_proj_{kind}"]
                named[f"{ours_block}.{ours}.to_query.{kind}"] = projections[:24]
                named[f"{ours_block}.{ours}.to_key_value.{kind}"] = projections[24:]
                named[f"{ours_block}.{ours}.to_output.{kind}"] = official[f"{their_layer}.{theirs}.out_proj.{kind}"]
        for ours, theirs in (
            ("norm_self", "norm1"),
            ("norm_cross", "norm2"),
            ("norm_mlp", "norm3"),
            ("mlp.0", "linear1"),
            ("mlp.2", "linear2"),
        ):
            named |= {f"{ours_block}.{ours}.{kind}": official[f"{their_layer}.{theirs}.{kind}"] for kind in LINEAR}
    return named


def transformer_decoder() -> PatchTransformerDecoder:
    """Build our decoder with the official weights; 0 for the hidden units that we have more."""
    weights = transformer_in_our_names(OFFICIAL.group("auto/weight/"))
    decoder = PatchTransformerDecoder(16, (4, 4), 24, num_blocks=2, num_heads=4)
    for name, ours in decoder.state_dict().items():
        added = [extra for old, new in zip(weights[name].shape, ours.shape, strict=True) for extra in (new - old, 0)]
        weights[name] = F.pad(weights[name], added[::-1])
    decoder.load_state_dict(weights)
    return decoder


def projected(tag: str, slots: Tensor) -> Tensor:
    """Project slots as the official decoder does before decoding, where it does and ours does not."""
    if tag != "mlp_inproj":
        return slots
    return F.linear(slots, *(OFFICIAL[f"{tag}/weight/inp_transform.{kind}"] for kind in LINEAR))


def decode(tag: str, slots: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """Return our decoder, what it reconstructs, and its masks."""
    if tag == "auto":
        decoder: nn.Module = transformer_decoder()
        features, masks, _ = decoder(slots, features=OFFICIAL["in/target"])
    else:
        decoder = mlp_decoder(tag)
        features, masks, _ = decoder(projected(tag, slots), attention=ATTENTION)
    return decoder, features, masks


@every_decoder
def test_reconstruction_masks_and_error(tag: str) -> None:
    _, features, masks = decode(tag, OFFICIAL["in/slots"])
    deviation = OFFICIAL.deviation(tag)
    assert_same(features, OFFICIAL[f"{tag}/out/reconstruction"], deviation)
    assert_same(masks, OFFICIAL[f"{tag}/out/masks"], deviation)
    assert_same(F.mse_loss(features, OFFICIAL["in/target"]), OFFICIAL[f"{tag}/out/mse"], deviation)


@every_decoder
def test_gradients_of_the_weights_and_slots(tag: str) -> None:
    slots = OFFICIAL["in/slots"].requires_grad_()
    decoder, features, _ = decode(tag, slots)
    F.mse_loss(features, OFFICIAL["in/target"]).backward()  # type: ignore[no-untyped-call]
    deviation = OFFICIAL.deviation(tag)
    assert slots.grad is not None
    assert_same(slots.grad, OFFICIAL[f"{tag}/grad/slots"], deviation)
    in_our_names = transformer_in_our_names if tag == "auto" else mlp_in_our_names
    expected = in_our_names(OFFICIAL.group(f"{tag}/grad/"))
    ours = {name for name, _ in decoder.named_parameters() if not name.startswith("third.")}
    assert ours == expected.keys()
    for name, parameter in decoder.named_parameters():
        if name in expected:
            assert parameter.grad is not None
            corner = tuple(slice(size) for size in expected[name].shape)  # without the hidden units that we have more
            assert_same(parameter.grad[corner], expected[name], deviation)


@every_decoder
def test_masks_without_the_reconstruction(tag: str) -> None:
    slots = projected(tag, OFFICIAL["in/slots"])
    if tag == "auto":
        masks = transformer_decoder().masks(slots, features=OFFICIAL["in/target"])[0]
    else:
        masks = mlp_decoder(tag).masks(slots, attention=ATTENTION)[0]
    assert_same(masks, OFFICIAL[f"{tag}/out/masks"], OFFICIAL.deviation(tag))


@every_decoder
def test_masks_at_the_size_of_the_image(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: dict[str, Any] = {"encoder": "test_efficientnet", "encoder_weights": "none", "encoder_block": 3}
    model = DINOSAUR(**encoder, resolution=32, num_slots=4, slot_size=16, decoder_size=HIDDEN).eval()
    assert model.encoder.grid == (4, 4)
    monkeypatch.setattr(model.decoder, "masks", lambda *slots, **inputs: (OFFICIAL[f"{tag}/out/masks"], None))
    masks = model(torch.zeros(2, 3, 32, 32)).masks
    assert_same(masks, OFFICIAL[f"{tag}/out/masks_as_image"], OFFICIAL.deviation(tag))
