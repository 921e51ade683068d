from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from object_discovery.models.slate import dvae
from object_discovery.models.slate.dvae import ConvBlock, DiscreteVAE, gumbel_noise, gumbel_softmax, sample_tokens


def make(codebook_size: int = 16, norm: Literal["batch", "group"] = "group") -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(codebook_size, norm)


@pytest.mark.parametrize(("codebook_size", "count"), [(4096, 681_923), (1024, 681_923 - 3072 * 129)])
def test_published_number_of_parameters(codebook_size: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in make(codebook_size).parameters()) == count


def test_shapes() -> None:
    dvae = make()
    image, tokens = dvae(torch.rand(2, 3, 8, 12), tau=1.0)
    assert image.shape == (2, 3, 8, 12)
    assert tokens.shape == (2, 6)
    assert dvae.encode(torch.rand(2, 3, 8, 12)).shape == (2, 6, 16)


def test_tokens_are_encoded_from_the_patch_at_their_position() -> None:
    dvae = make()
    images = torch.rand(1, 3, 8, 12)
    # Normalisation uses statistics of the whole image; without it a patch alone gives the same features.
    for module in dvae.modules():
        if isinstance(module, ConvBlock):
            module.norm = torch.nn.Identity()  # type: ignore[assignment]
    image_logits = dvae.encode(images)[0]
    patch_logits = [dvae.encode(images[..., y : y + 4, x : x + 4])[0, 0] for y in (0, 4) for x in (0, 4, 8)]
    torch.testing.assert_close(image_logits, torch.stack(patch_logits))


def test_decoding_tokens_equals_decoding_their_one_hots() -> None:
    dvae = make()
    tokens = torch.randint(16, (2, 6))
    expected = dvae.decode(F.one_hot(tokens, 16).float(), 2)
    torch.testing.assert_close(dvae.decode_tokens(tokens, 2), expected)
    assert expected.shape == (2, 3, 8, 12)


def test_tokens_are_the_argmax_of_the_logits() -> None:
    dvae = make()
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(dvae.tokens(images), dvae.encode(images).argmax(-1))


def test_gumbel_noise_has_the_gumbel_distribution() -> None:
    torch.manual_seed(0)
    noise = gumbel_noise(torch.Size([400, 500]), torch.device("cpu")).flatten().sort().values
    assert noise.isfinite().all()
    cdf = torch.distributions.Gumbel(0.0, 1.0).cdf(noise)  # type: ignore[no-untyped-call]
    expected = (torch.arange(len(noise)) + 0.5) / len(noise)
    assert (cdf - expected).abs().max() < 1.63 / len(noise) ** 0.5  # Kolmogorov-Smirnov test at 1 %


@pytest.mark.parametrize("tau", [0.1, 1.0, 3.0])
def test_gumbel_softmax_equals_its_formula(tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvae, "_CHUNK_SIZE", 7 * 16)  # chunks of 16 rows
    logits = torch.randn(5, 10, 7, requires_grad=True)
    torch.manual_seed(3)
    noise = torch.cat([gumbel_noise(torch.Size([rows, 7]), logits.device) for rows in (16, 16, 16, 2)])
    expected = ((logits + noise.view_as(logits)) / tau).softmax(-1)
    torch.manual_seed(3)
    actual = gumbel_softmax(logits, tau)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn(5, 10, 7)
    gradients = [torch.autograd.grad((sample * weights).sum(), logits)[0] for sample in (actual, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_gumbel_softmax_is_finite_in_bfloat16() -> None:
    sample = gumbel_softmax(torch.randn(20_000, 64).bfloat16(), 0.1)
    assert sample.dtype == torch.bfloat16
    assert sample.isfinite().all()


def test_tokens_are_sampled_with_their_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvae, "_CHUNK_SIZE", 6 * 30_000)
    torch.manual_seed(0)
    logits = torch.tensor([2.0, -1.0, 0.5, -torch.inf, 1.0, -torch.inf])
    tokens = sample_tokens(logits.expand(200_000, 6))
    actual = tokens.bincount(minlength=6) / 200_000
    torch.testing.assert_close(actual, logits.softmax(0), atol=4e-3, rtol=0)
    assert actual[3] == actual[5] == 0


def test_positions_are_sampled_independently() -> None:
    torch.manual_seed(0)
    tokens = sample_tokens(torch.zeros(30, 40, 8))
    assert tokens.shape == (30, 40)
    assert min(len(row.unique()) for row in tokens) > 4


def test_no_gradient_flows_through_tokens() -> None:
    image, tokens = make()(torch.rand(2, 3, 8, 8), tau=1.0)
    assert image.requires_grad
    assert not tokens.requires_grad


def test_convolution_blocks_and_codebook_have_no_bias() -> None:
    dvae = make()
    blocks = [module for module in dvae.modules() if isinstance(module, ConvBlock)]
    assert len(blocks) == 7 + 8
    assert all(block.convolution.bias is None for block in blocks)
    assert dvae.codebook.bias is None
    assert not dvae.to_logits.bias.any()


def test_batch_normalisation_preserves_brightness() -> None:
    images = torch.rand(2, 3, 8, 8) + 0.5
    group, batch = make(), make(norm="batch").eval()
    torch.testing.assert_close(group.encode(images / 2), group.encode(images), atol=1e-3, rtol=1e-3)
    assert (batch.encode(images / 2) - batch.encode(images)).abs().max() > 0.01
    norms = [module for module in batch.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 7 + 1 + 8
    assert not any(isinstance(module, torch.nn.GroupNorm) for module in batch.modules())
    assert sum(value.numel() for value in batch.parameters()) == sum(value.numel() for value in group.parameters())


def make_patches(colours: torch.Tensor, indices: torch.Tensor, noise: float) -> torch.Tensor:
    """Render images of noisy, uniformly coloured patches, `(B, 3, 4 h, 4 w)`."""
    images = colours[indices].permute(0, 3, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (images + noise * torch.randn(images.shape)).clamp(0, 1)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_codebook_initialisation_agrees_with_kmeans_of_scikit_learn(norm: Literal["batch", "group"]) -> None:
    vae = make(6, norm)
    colours = torch.tensor(
        [[0.1, 0.1, 0.1], [0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1], [1, 1, 1]]
    )
    images = make_patches(colours, torch.randint(6, (8, 6, 6)), 0.05)
    if norm == "batch":
        vae(images, 1.0)
        vae.eval()
    vae.init_as_kmeans(images)
    with torch.no_grad():
        features = vae.encoder(images).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    expected = KMeans(6, n_init=20, random_state=0).fit(features).labels_
    assert (
        adjusted_rand_score(expected, vae.tokens(images).flatten().numpy()) > 0.8
    )  # one initialisation, not the best of 20
    logits = vae.encode(images)
    assert logits.std(-1).mean() > 1  # sharp enough to outweigh the Gumbel noise
    assert not torch.equal(logits.argmax(-1)[0], logits.argmax(-1)[1])


@pytest.mark.parametrize("colours", [1, 3])
def test_codebook_initialisation_is_finite_with_fewer_patches_than_codes(colours: int) -> None:
    vae = make(16)
    images = make_patches(torch.rand(colours, 3), torch.arange(6).view(1, 2, 3) % colours, 0.0)
    vae.init_as_kmeans(images)
    logits = vae.encode(images)
    assert logits.isfinite().all()
    assert logits.abs().max() < 1e4
