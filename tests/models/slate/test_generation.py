import pytest
import torch

from object_discovery.models.slate.generation import generate_tokens
from object_discovery.models.slate.transformer import TokenEmbedding, TokenTransformerDecoder

CODEBOOK_SIZE, TOKENS = 13, 12


def make() -> tuple[TokenTransformerDecoder, TokenEmbedding, torch.Tensor]:
    torch.manual_seed(0)
    decoder = TokenTransformerDecoder(CODEBOOK_SIZE, 6, 16, num_blocks=3, num_heads=4)
    embedding = TokenEmbedding(CODEBOOK_SIZE, TOKENS, 16)
    return decoder.eval(), embedding.eval(), 3 * torch.randn(5, 3, 6)


def test_generation_with_and_without_cache_is_identical() -> None:
    parts = make()
    tokens = generate_tokens(*parts)
    assert tokens.shape == (5, TOKENS)
    sequences = [tuple(sequence) for sequence in tokens.tolist()]
    assert len(set(sequences)) == 5  # the tokens depend on the slots
    assert len({token for sequence in sequences for token in sequence}) > 3
    assert torch.equal(generate_tokens(*parts, cached=False), tokens)


def test_each_token_is_the_argmax_given_the_previous_ones() -> None:
    decoder, embedding, slots = make()
    tokens = generate_tokens(decoder, embedding, slots)
    assert torch.equal(decoder(embedding(tokens)[:, :-1], slots).argmax(-1), tokens)


@pytest.mark.parametrize("cached", [True, False])
def test_sampled_tokens_follow_the_softmax_with_temperature(cached: bool) -> None:
    decoder, embedding, slots = make()
    slots = slots[:1].expand(2000, -1, -1)
    torch.manual_seed(0)
    tokens = generate_tokens(decoder, embedding, slots, temperature=2.0, cached=cached)
    first = decoder(embedding(tokens[:1])[:, :-1], slots[:1])[0, 0]
    actual = tokens[:, 0].bincount(minlength=CODEBOOK_SIZE) / len(tokens)
    torch.testing.assert_close(actual, (first / 2).softmax(0).detach(), atol=0.04, rtol=0)
    assert torch.equal(
        generate_tokens(decoder, embedding, slots[:9], temperature=1e-4), generate_tokens(decoder, embedding, slots[:9])
    )


def test_negative_temperatures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`temperature` to be at least 0, but got -0\.5"):
        generate_tokens(*make(), temperature=-0.5)
