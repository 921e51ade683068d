from typing import Any

import pytest
import torch
from torch import Tensor, nn

from object_discovery.models.slate.attention import Attention, KeyValueCache
from object_discovery.models.slate.transformer import TokenEmbedding, TokenTransformerDecoder

CODEBOOK_SIZE, SLOT_SIZE, MODEL_SIZE, TOKENS = 11, 6, 8, 7


def make(num_blocks: int = 3, **settings: Any) -> TokenTransformerDecoder:
    torch.manual_seed(0)
    return TokenTransformerDecoder(CODEBOOK_SIZE, SLOT_SIZE, MODEL_SIZE, num_blocks=num_blocks, num_heads=2, **settings)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, TOKENS, MODEL_SIZE, generator=generator), torch.randn(2, 3, SLOT_SIZE, generator=generator)


@pytest.mark.parametrize("position", range(TOKENS))
def test_decoder_is_causal(position: int) -> None:
    decoder, (tokens, slots) = make().eval(), inputs()
    before = decoder(tokens, slots)
    changed = tokens.clone()
    changed[:, position] += torch.randn(MODEL_SIZE)
    after = decoder(changed, slots)
    assert torch.equal(after[:, :position], before[:, :position])
    assert all(not torch.allclose(after[:, later], before[:, later]) for later in range(position, TOKENS))


def test_output_depends_on_every_slot_but_not_on_their_order() -> None:
    decoder, (tokens, slots) = make().eval(), inputs()
    expected = decoder(tokens, slots)
    torch.testing.assert_close(decoder(tokens, slots[:, [2, 0, 1]]), expected)
    for slot in range(3):
        changed = slots.clone()
        changed[:, slot] += 1
        assert not torch.allclose(decoder(tokens, changed)[:, 0], expected[:, 0])


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_multihead_attention_of_torch(causal: bool) -> None:
    torch.manual_seed(0)
    ours, oracle = Attention(MODEL_SIZE, 2), nn.MultiheadAttention(MODEL_SIZE, 2, bias=False, batch_first=True)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([ours.to_query.weight, ours.to_key.weight, ours.to_value.weight]))
        oracle.out_proj.weight.copy_(ours.to_output.weight)
    tokens, _ = inputs()
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1) if causal else None
    expected, weights = oracle(tokens, tokens, tokens, attn_mask=mask)
    keys_values = ours.keys_values(tokens)
    torch.testing.assert_close(ours.to_self(tokens) if causal else ours(tokens, keys_values), expected)
    if not causal:
        torch.testing.assert_close(ours.weights(tokens, keys_values[0]), weights)


def test_decoder_equals_that_of_torch_except_for_the_first_residual() -> None:
    # as published, the residual connection of the first block starts at the normalised tokens
    decoder, (tokens, slots) = make(num_blocks=2).eval(), inputs()
    memory, state = decoder.from_slots(slots), tokens
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    for index, block in enumerate(decoder._blocks()):
        oracle = nn.TransformerDecoderLayer(
            MODEL_SIZE, 2, 4 * MODEL_SIZE, 0.0, batch_first=True, norm_first=True
        ).eval()
        pairs = ((block.self_attention, oracle.self_attn), (block.cross_attention, oracle.multihead_attn))
        with torch.no_grad():
            for ours, theirs in pairs:
                weights = [ours.to_query.weight, ours.to_key.weight, ours.to_value.weight]
                theirs.in_proj_weight.copy_(torch.cat(weights))
                theirs.in_proj_bias.zero_()
                theirs.out_proj.weight.copy_(ours.to_output.weight)
                theirs.out_proj.bias.zero_()
        hidden, _, output, _ = block.mlp
        for name, part in (("linear1", hidden), ("linear2", output)):
            getattr(oracle, name).load_state_dict(part.state_dict())
        residual = block.norm_self(state) if index == 0 else state
        if index == 0:
            oracle.norm1 = nn.Identity()  # type: ignore[assignment]
        state = oracle(residual, memory, tgt_mask=mask)
    torch.testing.assert_close(decoder(tokens, slots), decoder.to_logits(decoder.norm(state)))


def test_incremental_decoding_equals_one_forward_pass() -> None:
    decoder, (tokens, slots) = make().eval(), inputs()
    memory = decoder.read(slots)
    caches = [KeyValueCache(TOKENS) for _ in memory]
    steps = [decoder.step(tokens[:, t : t + 1], memory, caches) for t in range(TOKENS)]
    torch.testing.assert_close(torch.cat(steps, 1), decoder(tokens, slots))
    assert {cache.length for cache in caches} == {TOKENS}


def test_attention_equals_that_of_the_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, (tokens, slots) = make().eval(), inputs()
    actual = decoder.attention(tokens, slots)
    assert actual.shape == (2, 3, TOKENS)
    torch.testing.assert_close(actual.sum(1), torch.ones(2, TOKENS))
    last = decoder._blocks()[-1].cross_attention
    expected: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, args: expected.append(last.weights(args[0], args[1][0])))
    decoder(tokens, slots)
    torch.testing.assert_close(actual, expected[0].transpose(1, 2))


def test_output_layers_are_initialised_with_a_scaled_xavier_bound() -> None:
    decoder = make(num_blocks=4)
    for block in decoder._blocks():
        for layer in (block.self_attention.to_output, block.mlp[2]):
            weight = layer.get_parameter("weight")
            bound = (6 / sum(weight.shape)) ** 0.5 * 12**-0.5
            assert 0.8 * bound < weight.abs().max() <= bound
    assert not any(name.endswith("bias") and "to_" in name for name, _ in decoder.named_parameters())


@pytest.mark.parametrize("settings", [{"dropout": 0.5}, {"attention_dropout": 0.5}])
def test_dropout_acts_in_training_only(settings: dict[str, Any]) -> None:
    decoder, (tokens, slots) = make(**settings), inputs()
    assert not torch.equal(decoder(tokens, slots), decoder(tokens, slots))
    decoder.eval()
    assert torch.equal(decoder(tokens, slots), decoder(tokens, slots))


def test_embedding_adds_positions_to_tokens_after_a_start_token() -> None:
    torch.manual_seed(0)
    embedding = TokenEmbedding(CODEBOOK_SIZE, TOKENS, MODEL_SIZE)
    tokens = torch.randint(CODEBOOK_SIZE, (2, TOKENS))
    tokens[0, 0], tokens[0, 1] = 0, CODEBOOK_SIZE - 1
    weights, positions = embedding.token_embedding.weight, embedding.positions
    actual = embedding(tokens)
    assert actual.shape == (2, TOKENS + 1, MODEL_SIZE)
    torch.testing.assert_close(actual[0, 0], weights[0] + positions[0])
    torch.testing.assert_close(actual[0, 1], weights[1] + positions[1])
    torch.testing.assert_close(actual[0, 2], weights[CODEBOOK_SIZE] + positions[2])
    torch.testing.assert_close(embedding(tokens[:, :3]), actual[:, :4])
    incremental = [embedding.at(t, tokens[:, max(0, t - 1)][:, None]) for t in range(TOKENS + 1)]
    torch.testing.assert_close(torch.cat(incremental, 1), actual)


def test_embedding_initialisation_and_dropout_are_as_published() -> None:
    embedding = TokenEmbedding(512, 64, 64, dropout=0.1)
    assert embedding.positions.abs().max() <= 2
    assert float(embedding.positions.detach().std()) == pytest.approx(0.8796, abs=0.02)  # of a normal truncated at 2
    tokens = torch.zeros(1, 64, dtype=torch.long)
    assert float((embedding(tokens) == 0).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert not (embedding.eval()(tokens) == 0).any()
