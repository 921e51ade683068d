"""The discrete VAE of SLATE: an image becomes a grid of tokens, one for every 4 x 4 pixels, and back."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from object_discovery.layers.kmeans import kmeans

Norm = Literal["batch", "group"]

PATCH = 4
"""Height and width in pixels of the patch that a token stands for."""
_WIDTH = 64
_LOGITS = 1 << 18
_SEEN = 1 << 14
_LEAST_WITHIN = 0.02  # share of the variance of patches that clusters are taken to have, however tight they are


class ConvBlock(nn.Module):
    """A convolution without bias, a normalisation and ReLU.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Height and width of the kernel; an odd one keeps the size of the image.
        stride: Stride of the kernel.
        norm: Normalise each channel over a batch, or each image over all channels and positions.

    Example:
        >>> ConvBlock(3, 8, 4, stride=4)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, norm: Norm = "group"
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if stride == 1 else 0
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = _norm(norm, out_channels)
        nn.init.kaiming_uniform_(self.convolution.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve `(B, C, H, W)`."""
        return self.norm(self.convolution(features)).relu()  # type: ignore[no-any-return]


def sample_tokens(logits: Tensor) -> Tensor:
    """Draw one token for each position from the categorical distribution of its logits.

    The inverse of the cumulative distribution at one random number: the same distribution as a hard Gumbel-softmax
    sample, without a random number for each word of the vocabulary and without one-hots.

    Args:
        logits: `(..., V)`.

    Returns:
        Tokens `(...)`, int64 in [0, V).

    Example:
        >>> sample_tokens(torch.tensor([[0.0, 50.0, 0.0], [50.0, 0.0, 0.0]]))
        tensor([1, 0])
    """
    tokens = [_draw(part) for part in _parts(logits.detach())]
    return torch.cat(tokens).view(logits.shape[:-1])


def gumbel_softmax(logits: Tensor, tau: float) -> Tensor:
    """Draw a relaxed sample of each categorical distribution; it is differentiable.

    Args:
        logits: `(..., V)`.
        tau: Temperature, above 0; the smaller, the nearer to one word.

    Returns:
        Weights `(..., V)`, in the dtype of `logits`, which sum to 1.

    Reference:
        Jang, Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, ICLR 2017, arXiv 1611.01144.

    Example:
        >>> bool((gumbel_softmax(torch.zeros(2, 5), tau=0.5).sum(-1) - 1).abs().max() < 1e-6)
        True
    """
    return _GumbelSoftmax.apply(logits, tau)  # type: ignore[no-any-return, no-untyped-call]


def gumbel_noise(shape: torch.Size, device: torch.device) -> Tensor:
    """Draw from the standard Gumbel distribution, in float32.

    Example:
        >>> gumbel_noise(torch.Size([2, 3]), torch.device("cpu")).shape
        torch.Size([2, 3])
    """
    # Kept from 0 and from 1, whose logarithms would be infinite; four times as fast as `exponential_` on the CPU.
    uniform = torch.rand(shape, device=device).clamp_(2.0**-26, 1 - 2.0**-24)
    return uniform.log_().neg_().log_().neg_()


class _GumbelSoftmax(torch.autograd.Function):
    """Softmax of logits with noise; in float32 for a few rows at a time, and in the dtype of the logits in between."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tau: float) -> Tensor:
        weights = torch.empty_like(logits)
        for part, out in zip(_parts(logits), _parts(weights), strict=True):
            out.copy_(gumbel_noise(part.shape, part.device).add_(part).div_(tau).softmax(-1))
        ctx.save_for_backward(weights)
        ctx.tau = tau
        return weights

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        to_logits = torch.ops.aten._softmax_backward_data(gradient, weights, -1, weights.dtype)
        return to_logits.div_(ctx.tau), None


def _parts(logits: Tensor) -> tuple[Tensor, ...]:
    """Split logits into parts of rows that fit into the caches of the CPU."""
    rows = logits.view(-1, logits.shape[-1])
    return torch.split(rows, max(1, _LOGITS // logits.shape[-1])) if logits.device.type == "cpu" else (rows,)  # type: ignore[no-untyped-call]


def _draw(logits: Tensor) -> Tensor:
    cumulated = logits.float().softmax(-1).cumsum(-1)
    total = cumulated[:, -1:]
    found = torch.searchsorted(cumulated, torch.rand_like(total) * total, right=True)  # right: no word of chance 0
    return found.squeeze(-1).clamp_max(logits.shape[-1] - 1)


class DiscreteVAE(nn.Module):
    """Turn images into tokens of a vocabulary, and tokens into images.

    Letters: B images, H W pixels, h = H / 4 and w = W / 4, N = h w tokens, V words.

    Args:
        codebook_size: V.
        norm: `group` as published: each image is normalised over all channels and positions, which takes from it how
            bright or contrasty it is as a whole. `batch`: each channel over the batch.

    Attributes:
        codebook_initialized: Whether the words have been trained, or begun as clusters.

    Reference:
        Singh, Deng and Ahn 2022, section 2.1; Ramesh et al., Zero-Shot Text-to-Image Generation, 2021,
        arXiv 2102.12092.

    Example:
        >>> dvae = DiscreteVAE(codebook_size=32)
        >>> image, tokens = dvae(torch.rand(2, 3, 16, 16), tau=1.0)
        >>> image.shape, tokens.shape
        (torch.Size([2, 3, 16, 16]), torch.Size([2, 16]))
    """

    codebook_initialized: Tensor

    def __init__(self, codebook_size: int, norm: Norm = "group") -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ConvBlock(3, _WIDTH, PATCH, PATCH, norm), *(ConvBlock(_WIDTH, _WIDTH, norm=norm) for _ in range(6))
        )
        self.register_buffer("codebook_initialized", torch.zeros((), dtype=torch.bool))
        self.to_logits = nn.Linear(_WIDTH, codebook_size)  # a 1 x 1 convolution, with words last
        self.words = nn.Linear(codebook_size, _WIDTH, bias=False)
        self.norm = _norm(norm, _WIDTH)
        self.decoder = nn.Sequential(
            *(layer for _ in range(2) for layer in _upsampling(norm)),
            nn.Conv2d(_WIDTH, 3, 1),
        )
        nn.init.xavier_uniform_(self.to_logits.weight)
        nn.init.zeros_(self.to_logits.bias)
        nn.init.kaiming_uniform_(self.words.weight)

    @torch.no_grad()
    def init_as_kmeans(self, images: Tensor) -> None:
        """Let the words begin as clusters of the patches of images, so that a new vocabulary is in use as a whole.

        Up to what all words share, a word's logit becomes minus half the squared distance from the centre of its
        cluster, in units of the mean squared distance of patches from their own centre.

        Args:
            images: `(B, 3, H, W)` in [0, 1]; H and W are multiples of 4. At most 16,384 of their patches are looked at;
                if they have fewer patches than there are words, some words begin alike.
        """
        patches = rearrange(self.encoder(images), "b c h w -> (b h w) c").float()
        patches = patches[torch.randperm(len(patches))[:_SEEN].to(patches.device)]
        num_words = len(self.to_logits.weight)
        labels, offsets = kmeans(patches[None], min(num_words, len(patches)), iterations=10, restarts=1)
        mean, centres = patches.mean(0), offsets[0]
        within = (patches - mean - centres[labels[0]]).square().sum(1).mean()
        total = (patches - mean).square().sum(1).mean()
        scale = 1 / torch.maximum(within, _LEAST_WITHIN * total).clamp_min(1e-6)
        centres = centres[torch.arange(num_words, device=centres.device) % len(centres)]
        self.to_logits.weight.copy_(scale * centres)
        self.to_logits.bias.copy_(-scale * (centres @ mean + centres.square().sum(1) / 2))
        self.codebook_initialized.fill_(True)

    def forward(self, images: Tensor, tau: float) -> tuple[Tensor, Tensor]:
        """Reconstruct images through relaxed tokens, and draw hard ones apart from them.

        Args:
            images: `(B, 3, H, W)` in [0, 1]; H and W are multiples of 4.
            tau: Temperature of the relaxed tokens.

        Returns:
            The reconstruction `(B, 3, H, W)` and tokens `(B, N)`, through which no gradient flows.
        """
        logits = self.encode(images)
        return self.decode(gumbel_softmax(logits, tau), images.shape[-2] // PATCH), sample_tokens(logits)

    def encode(self, images: Tensor) -> Tensor:
        """Compute the logits `(B, N, V)` of the tokens of images `(B, 3, H, W)`."""
        return self.to_logits(rearrange(self.encoder(images), "b c h w -> b (h w) c"))  # type: ignore[no-any-return]

    def tokens(self, images: Tensor) -> Tensor:
        """Choose the likeliest tokens `(B, N)` of images `(B, 3, H, W)`."""
        return self.encode(images).max(-1).indices  # several times as fast as argmax on the CPU

    def decode(self, weights: Tensor, height: int) -> Tensor:
        """Paint images `(B, 3, H, W)` of mixtures of words `(B, N, V)` in `height` rows."""
        return self._paint(self.words(weights), height)

    def decode_tokens(self, tokens: Tensor, height: int) -> Tensor:
        """Paint images `(B, 3, H, W)` of tokens `(B, N)` in `height` rows."""
        return self._paint(F.embedding(tokens, self.words.weight.T), height)

    def _paint(self, features: Tensor, height: int) -> Tensor:
        grid = rearrange(features, "b (h w) c -> b c h w", h=height)
        return self.decoder(self.norm(grid).relu())  # type: ignore[no-any-return]


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(1, channels)


def _upsampling(norm: Norm) -> tuple[nn.Module, ...]:
    """Make the layers that double the size."""
    return (
        ConvBlock(_WIDTH, _WIDTH, 3, norm=norm),
        ConvBlock(_WIDTH, _WIDTH, norm=norm),
        ConvBlock(_WIDTH, _WIDTH, norm=norm),
        ConvBlock(_WIDTH, 4 * _WIDTH, norm=norm),
        nn.PixelShuffle(2),
    )
