"""Discrete VAE of SLATE, with one token for every 4 x 4 pixels."""

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
"""Height and width in pixels of the patch of a token."""
_WIDTH = 64
_CHUNK_SIZE = 1 << 18  # logits that fit into the cache of a CPU
_MAX_PATCHES = 1 << 14
_MIN_WITHIN = 0.02  # lower bound of the variance within clusters, relative to the total variance


class ConvBlock(nn.Module):
    """Convolution without bias, normalisation and ReLU.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Kernel size; odd sizes preserve the size of the image.
        stride: Stride.
        norm: Batch normalisation, or group normalisation with one group.

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
    """Sample tokens from categorical distributions.

    By inverse transform sampling: the distribution of a hard Gumbel-softmax sample, with one random number for each
    token instead of one for each entry of the codebook, and without one-hot vectors.

    Args:
        logits: `(..., V)`.

    Returns:
        Tokens `(...)`, int64 in [0, V).

    Example:
        >>> sample_tokens(torch.tensor([[0.0, 50.0, 0.0], [50.0, 0.0, 0.0]]))
        tensor([1, 0])
    """
    tokens = [_sample_rows(chunk) for chunk in _chunks(logits.detach())]
    return torch.cat(tokens).view(logits.shape[:-1])


def gumbel_softmax(logits: Tensor, tau: float) -> Tensor:
    """Sample from Gumbel-softmax distributions (relaxed categorical samples).

    Args:
        logits: `(..., V)`.
        tau: Temperature, above 0; samples approach one-hot vectors as it approaches 0.

    Returns:
        Samples `(..., V)`, in the dtype of `logits`, which sum to 1; differentiable.

    Reference:
        Jang, Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, ICLR 2017, arXiv 1611.01144.

    Example:
        >>> bool((gumbel_softmax(torch.zeros(2, 5), tau=0.5).sum(-1) - 1).abs().max() < 1e-6)
        True
    """
    return _GumbelSoftmax.apply(logits, tau)  # type: ignore[no-any-return, no-untyped-call]


def gumbel_noise(shape: torch.Size, device: torch.device) -> Tensor:
    """Sample from the standard Gumbel distribution, in float32.

    Example:
        >>> gumbel_noise(torch.Size([2, 3]), torch.device("cpu")).shape
        torch.Size([2, 3])
    """
    # Clamped away from 0 and 1, whose logarithms are infinite; four times as fast as `exponential_` on the CPU.
    uniform = torch.rand(shape, device=device).clamp_(2.0**-26, 1 - 2.0**-24)
    return uniform.log_().neg_().log_().neg_()


class _GumbelSoftmax(torch.autograd.Function):
    """Gumbel-softmax computed in float32 chunk by chunk, and stored in the dtype of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tau: float) -> Tensor:
        weights = torch.empty_like(logits)
        for chunk, out in zip(_chunks(logits), _chunks(weights), strict=True):
            out.copy_(gumbel_noise(chunk.shape, chunk.device).add_(chunk).div_(tau).softmax(-1))
        ctx.save_for_backward(weights)
        ctx.tau = tau
        return weights

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        to_logits = torch.ops.aten._softmax_backward_data(gradient, weights, -1, weights.dtype)
        return to_logits.div_(ctx.tau), None


def _chunks(logits: Tensor) -> tuple[Tensor, ...]:
    """Split logits into chunks of rows that fit into the cache of a CPU."""
    rows = logits.view(-1, logits.shape[-1])
    return torch.split(rows, max(1, _CHUNK_SIZE // logits.shape[-1])) if logits.device.type == "cpu" else (rows,)  # type: ignore[no-untyped-call]


def _sample_rows(logits: Tensor) -> Tensor:
    cumulative = logits.float().softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    tokens = torch.searchsorted(
        cumulative, torch.rand_like(total) * total, right=True
    )  # right: never a token of probability 0
    return tokens.squeeze(-1).clamp_max(logits.shape[-1] - 1)


class DiscreteVAE(nn.Module):
    """Discrete VAE (Ramesh et al. 2021) as in SLATE.

    Shapes: B images of H x W pixels, h = H / 4 and w = W / 4, N = h w tokens, codebook size V.

    Args:
        codebook_size: V.
        norm: `group` as published: group normalisation with one group, which removes the brightness and contrast of an
            image. `batch`: batch normalisation.

    Attributes:
        codebook_initialized: Whether the codebook has been trained, or initialised by k-means.

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
        self.to_logits = nn.Linear(_WIDTH, codebook_size)  # a 1 x 1 convolution, channels last
        self.codebook = nn.Linear(codebook_size, _WIDTH, bias=False)
        self.norm = _norm(norm, _WIDTH)
        self.decoder = nn.Sequential(
            *(layer for _ in range(2) for layer in _upsampling(norm)),
            nn.Conv2d(_WIDTH, 3, 1),
        )
        nn.init.xavier_uniform_(self.to_logits.weight)
        nn.init.zeros_(self.to_logits.bias)
        nn.init.kaiming_uniform_(self.codebook.weight)

    @torch.no_grad()
    def init_as_kmeans(self, images: Tensor) -> None:
        """Initialise the codebook by k-means of encoded patches, so that all tokens are used from the start.

        Up to a constant, the logit of a token becomes minus half the squared distance of the patch to the centre of a
        cluster, divided by the variance within clusters.

        Args:
            images: `(B, 3, H, W)` in [0, 1]; H and W are multiples of 4. At most 16,384 of their patches are used; if
                there are fewer patches than tokens, some tokens are initialised alike.
        """
        patches = rearrange(self.encoder(images), "b c h w -> (b h w) c").float()
        patches = patches[torch.randperm(len(patches))[:_MAX_PATCHES].to(patches.device)]
        num_tokens = len(self.to_logits.weight)
        labels, offsets = kmeans(patches[None], min(num_tokens, len(patches)), iterations=10, restarts=1)
        mean, centres = patches.mean(0), offsets[0]
        within = (patches - mean - centres[labels[0]]).square().sum(1).mean()
        total = (patches - mean).square().sum(1).mean()
        scale = 1 / torch.maximum(within, _MIN_WITHIN * total).clamp_min(1e-6)
        centres = centres[torch.arange(num_tokens, device=centres.device) % len(centres)]
        self.to_logits.weight.copy_(scale * centres)
        self.to_logits.bias.copy_(-scale * (centres @ mean + centres.square().sum(1) / 2))
        self.codebook_initialized.fill_(True)

    def forward(self, images: Tensor, tau: float) -> tuple[Tensor, Tensor]:
        """Reconstruct images through relaxed tokens, and sample hard tokens independently.

        Args:
            images: `(B, 3, H, W)` in [0, 1]; H and W are multiples of 4.
            tau: Temperature of the relaxed tokens.

        Returns:
            Reconstruction `(B, 3, H, W)`, and tokens `(B, N)` without gradient.
        """
        logits = self.encode(images)
        return self.decode(gumbel_softmax(logits, tau), images.shape[-2] // PATCH), sample_tokens(logits)

    def encode(self, images: Tensor) -> Tensor:
        """Compute the logits `(B, N, V)` of the tokens of images `(B, 3, H, W)`."""
        return self.to_logits(rearrange(self.encoder(images), "b c h w -> b (h w) c"))  # type: ignore[no-any-return]

    def tokens(self, images: Tensor) -> Tensor:
        """Compute the argmax tokens `(B, N)` of images `(B, 3, H, W)`."""
        return self.encode(images).max(-1).indices  # several times as fast as argmax on the CPU

    def decode(self, weights: Tensor, height: int) -> Tensor:
        """Decode relaxed tokens `(B, N, V)` in `height` rows to images `(B, 3, H, W)`."""
        return self._decode_features(self.codebook(weights), height)

    def decode_tokens(self, tokens: Tensor, height: int) -> Tensor:
        """Decode tokens `(B, N)` in `height` rows to images `(B, 3, H, W)`."""
        return self._decode_features(F.embedding(tokens, self.codebook.weight.T), height)

    def _decode_features(self, features: Tensor, height: int) -> Tensor:
        grid = rearrange(features, "b (h w) c -> b c h w", h=height)
        return self.decoder(self.norm(grid).relu())  # type: ignore[no-any-return]


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(1, channels)


def _upsampling(norm: Norm) -> tuple[nn.Module, ...]:
    """Build the layers that upsample by a factor of 2."""
    return (
        ConvBlock(_WIDTH, _WIDTH, 3, norm=norm),
        ConvBlock(_WIDTH, _WIDTH, norm=norm),
        ConvBlock(_WIDTH, _WIDTH, norm=norm),
        ConvBlock(_WIDTH, 4 * _WIDTH, norm=norm),
        nn.PixelShuffle(2),
    )
