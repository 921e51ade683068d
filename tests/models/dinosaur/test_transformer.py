from typing import Any

import pytest
import torch
from torch import Tensor, nn

from object_discovery.models.dinosaur.orders import patch_orders
from object_discovery.models.dinosaur.transformer import PatchTransformerDecoder

B, K, D, F, HEADS = 2, 3, 5, 8, 2
GRID = (2, 3)
N = GRID[0] * GRID[1]


def make(num_blocks: int = 2, permuted: bool = False) -> PatchTransformerDecoder:
    torch.manual_seed(0)
    decoder = PatchTransformerDecoder(D, GRID, F, num_blocks=num_blocks, num_heads=HEADS, permuted=permuted).double()
    for parameter in decoder.parameters():  # including the biases, which are initialised to 0
        nn.init.normal_(parameter, std=0.5)
    return decoder


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    slots = torch.randn(B, K, D, generator=generator, dtype=torch.float64)
    return slots, torch.randn(B, N, F, generator=generator, dtype=torch.float64)


def torch_blocks(decoder: PatchTransformerDecoder) -> nn.TransformerDecoder:
    """Build PyTorch's own decoder with the same weights."""
    layer = nn.TransformerDecoderLayer(F, HEADS, 4 * F, dropout=0.0, norm_first=True, batch_first=True)
    oracle = nn.TransformerDecoder(layer, len(decoder.blocks)).double()
    blocks: list[Any] = [*decoder.blocks]
    for theirs, ours in zip(oracle.layers, blocks, strict=True):
        for attention, block_attention in (
            (theirs.self_attn, ours.self_attention),
            (theirs.multihead_attn, ours.cross_attention),
        ):
            for kind in ("weight", "bias"):
                parts = [getattr(block_attention.to_query, kind), getattr(block_attention.to_key_value, kind)]
                getattr(attention, f"in_proj_{kind}").data.copy_(torch.cat(parts))
                getattr(attention.out_proj, kind).data.copy_(getattr(block_attention.to_output, kind))
        for to, source in (
            (theirs.linear1, ours.mlp[0]),
            (theirs.linear2, ours.mlp[2]),
            (theirs.norm1, ours.norm_self),
            (theirs.norm2, ours.norm_cross),
            (theirs.norm3, ours.norm_mlp),
        ):
            to.load_state_dict(source.state_dict())
    return oracle


def test_decoder_equals_that_of_torch() -> None:
    decoder, (slots, features) = make(), inputs()
    start_token = decoder.beginnings.expand(B, 1, -1)
    tokens = decoder.from_features(torch.cat([start_token, features[:, :-1]], 1))
    causal = nn.Transformer.generate_square_subsequent_mask(N, dtype=torch.float64)
    oracle, memory = torch_blocks(decoder), decoder.from_slots(slots)
    captured: dict[str, Tensor] = {}
    oracle.layers[-1].multihead_attn.register_forward_pre_hook(
        lambda module, args: captured.update(queries=args[0])  # queries of the last cross-attention
    )
    expected = oracle(tokens, memory, tgt_mask=causal)
    predicted, masks, _ = decoder(slots, features=features)
    torch.testing.assert_close(predicted, expected)
    _, weights = oracle.layers[-1].multihead_attn(captured["queries"], memory, memory)  # averaged over heads
    assert masks is not None
    torch.testing.assert_close(masks.double(), weights.transpose(1, 2), rtol=1e-5, atol=1e-6)
    assert torch.equal(decoder.masks(slots, features=features)[0], masks)
    assert decoder(slots, features=features, with_masks=False)[1] is None


@pytest.mark.parametrize("position", range(N))
def test_decoder_is_causal(position: int) -> None:
    decoder, (slots, features) = make().eval(), inputs()
    changed = features.clone()
    changed[:, position] += torch.randn(F)
    (before, masks, _), (after, changed_masks, _) = decoder(slots, features=features), decoder(slots, features=changed)
    assert torch.equal(after[:, : position + 1], before[:, : position + 1])
    assert torch.equal(changed_masks[:, :, : position + 1], masks[:, :, : position + 1])
    assert all(not torch.allclose(after[:, later], before[:, later]) for later in range(position + 1, N))


def test_target_features_get_no_gradient() -> None:
    decoder, (slots, features) = make().eval(), inputs()
    leaf_features = features.clone().requires_grad_()
    predicted, _, _ = decoder(slots, features=leaf_features)
    assert not predicted.grad_fn or torch.autograd.grad(predicted.sum(), leaf_features, allow_unused=True)[0] is None


@pytest.mark.parametrize("order_index", range(9))
def test_permuted_decoder_equals_a_raster_decoder_of_permuted_patches(
    order_index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, (slots, features) = make(permuted=True).train(), inputs()
    monkeypatch.setattr(torch, "randint", lambda high, size, device=None: torch.full(size, order_index))
    predicted, masks, _ = decoder(slots, features=features)
    order = patch_orders(*GRID)[order_index]
    # equals a raster-order decoder given the patches in that order
    raster = make()
    raster.load_state_dict({**decoder.state_dict(), "beginnings": decoder.beginnings[order_index : order_index + 1]})
    expected, weights, _ = raster(slots, features=features[:, order])
    torch.testing.assert_close(predicted[:, order], expected)
    torch.testing.assert_close(masks[:, :, order], weights)


def test_orders_are_sampled_in_training_only() -> None:
    decoder, (slots, features) = make(permuted=True), inputs()
    decoder.train()
    torch.manual_seed(0)
    sampled = {tuple(decoder(slots[:1], features=features[:1])[0].flatten().tolist()) for _ in range(60)}
    assert 7 <= len(sampled) <= 9
    decoder.eval()
    raster = make()
    raster.load_state_dict({**decoder.state_dict(), "beginnings": decoder.beginnings[:1]})
    assert torch.equal(decoder(slots, features=features)[0], raster(slots, features=features)[0])


def test_published_number_of_parameters() -> None:
    decoder = PatchTransformerDecoder(256, (14, 14), 768, num_blocks=4, num_heads=8)
    layer = nn.TransformerDecoderLayer(768, 8, 4 * 768)
    blocks = 4 * sum(parameter.numel() for parameter in layer.parameters())
    projections = 768 * 768 + 256 * 768 + 2 * 2 * 768  # without bias, and two layer normalisations
    assert sum(parameter.numel() for parameter in decoder.parameters()) == blocks + projections + 768
    assert 0.8 < float(decoder.beginnings.detach().std()) * 768**0.5 < 1.2


def test_heads_that_do_not_divide_the_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`decoder_heads` to be a divisor of the feature size 8, but got 3"):
        PatchTransformerDecoder(D, GRID, F, num_heads=3)
