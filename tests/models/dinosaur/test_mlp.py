import pytest
import torch
from torch import Tensor

from object_discovery.models.dinosaur.mlp import PatchMLPDecoder

B, K, D, N, F, H = 2, 4, 5, 6, 3, 8


def make(top_k: int | None = None) -> PatchMLPDecoder:
    torch.manual_seed(0)
    decoder = PatchMLPDecoder(D, N, F, H, top_k).double()
    for parameter in decoder.parameters():  # including the biases, which are initialised to 0
        torch.nn.init.normal_(parameter)
    return decoder


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    slots = torch.randn(B, K, D, generator=generator, dtype=torch.float64)
    return slots, torch.rand(B, K, N, generator=generator, dtype=torch.float64).softmax(1)


def reference_decoder(
    decoder: PatchMLPDecoder, slots: Tensor, attention: Tensor, top_k: int = K
) -> tuple[Tensor, Tensor]:
    """Compute the published decoder: all layers for each slot and patch, then the weighted sum over slots."""
    features = slots[:, :, None] + decoder.positions  # (B, K, N, D)
    for layer in (decoder.first, decoder.second, decoder.third):
        features = (features @ layer.weight.T + layer.bias).relu()
    outputs = features @ decoder.last.weight.T + decoder.last.bias
    logits = outputs[..., -1]
    for image in range(B):
        for patch in range(N):
            order = sorted(range(K), key=lambda k: -float(attention[image, k, patch]))
            for slot in order[top_k:]:
                logits[image, slot, patch] = -torch.inf
    masks = logits.exp() / logits.exp().sum(1, keepdim=True)
    return (masks[..., None] * outputs[..., :-1]).sum(1), masks


@pytest.mark.parametrize("top_k", [None, 1, 2, 3, 4, 9])
def test_decoder_equals_the_published_formula(top_k: int | None) -> None:
    decoder, (slots, attention) = make(top_k), inputs()
    with torch.no_grad():
        features, masks, _ = decoder(slots, attention=attention)
        expected, weights = reference_decoder(decoder, slots, attention, min(top_k or K, K))
    torch.testing.assert_close(features, expected, rtol=1e-6, atol=1e-6)  # the softmax is in float32
    torch.testing.assert_close(masks.double(), weights, rtol=1e-6, atol=1e-6)
    assert (masks > 0).sum(1).max() == min(top_k or K, K)
    assert torch.equal(decoder.masks(slots, attention=attention)[0], masks)


def test_top_k_of_all_slots_changes_neither_result_nor_gradient() -> None:
    slots, attention = inputs()
    results = []
    for top_k in (None, K):
        decoder, leaf_slots = make(top_k), slots.clone().requires_grad_()
        features, _, _ = decoder(leaf_slots, attention=attention)
        features.square().sum().backward()
        gradients = [parameter.grad for parameter in decoder.parameters()]
        results.append([features, leaf_slots.grad, *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True) if a is not None and b is not None)


def test_gradient_of_top_k_equals_that_of_the_formula() -> None:
    decoder, (slots, attention) = make(2), inputs()
    actual_slots = slots.clone().requires_grad_()
    decoder(actual_slots, attention=attention)[0].square().sum().backward()
    expected_slots = slots.clone().requires_grad_()
    reference_decoder(decoder, expected_slots, attention, 2)[0].square().sum().backward()  # type: ignore[no-untyped-call]
    assert actual_slots.grad is not None
    torch.testing.assert_close(actual_slots.grad, expected_slots.grad, rtol=1e-5, atol=1e-5)


def test_decoder_is_equivariant_to_permutations_of_slots() -> None:
    decoder, (slots, attention) = make(2), inputs()
    order = [2, 0, 3, 1]
    features, masks, _ = decoder(slots, attention=attention)
    permuted_features, permuted_masks, _ = decoder(slots[:, order], attention=attention[:, order])
    torch.testing.assert_close(permuted_features, features)
    torch.testing.assert_close(permuted_masks, masks[:, order])


def test_published_number_of_parameters() -> None:
    decoder = PatchMLPDecoder(256, 196, 768, 2048)
    layers = 256 * 2048 + 2048 + 2 * (2048 * 2048 + 2048) + 2048 * 769 + 769
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 196 * 256 + layers
    assert all(not layer.bias.any() for layer in (decoder.first, decoder.second, decoder.third, decoder.last))
    assert 0.019 < float(decoder.positions.detach().std()) < 0.021


def test_top_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`top_k` to be at least 1 or None, but got 0"):
        PatchMLPDecoder(D, N, F, H, top_k=0)
