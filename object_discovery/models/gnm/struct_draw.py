"""StructDRAW: autoregressive global latent z_g with its posterior, its prior and its decoder to cell features.

Reference:
    Jiang and Ahn, Generative Neurosymbolic Machines, NeurIPS 2020, arXiv 2010.12152.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from object_discovery.models.gnm.blocks import mlp
from object_discovery.models.gnm.distributions import Gaussian

State = tuple[Tensor, Tensor]


class GlobalLatent(NamedTuple):
    """Global latent z_g of B images, L steps of size D, and the features of N cells decoded from it."""

    samples: Tensor
    """Samples, `(B, L, D)`."""
    posterior: Gaussian
    """q(z_g,l | x, z_g,<l), `(B, L, D)`; the prior where there is no image."""
    prior: Gaussian
    """p(z_g,l | z_g,<l), `(B, L, D)`."""
    features: Tensor
    """Decoded cell features, `(B, N, C)`, in the same space as those of the image encoder."""


class ConvLSTM(nn.Module):
    """Convolutional LSTM with 1 x 1 kernels and a learned initial state.

    Args:
        in_channels: Input channels.
        channels: Channels of the state, C.
        cells: N.

    Example:
        >>> lstm = ConvLSTM(6, 8, cells=4)
        >>> hidden, memory = lstm(torch.rand(2, 4, 6), lstm.initial_state(2))
        >>> hidden.shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, in_channels: int, channels: int, cells: int) -> None:
        super().__init__()
        self.gates = nn.Linear(in_channels + channels, 4 * channels)
        self.initial = nn.Parameter(torch.zeros(2, cells, channels))

    def initial_state(self, batch_size: int) -> State:
        """Expand the learned initial hidden and memory states, each to `(B, N, C)`."""
        hidden, memory = self.initial[:, None].expand(-1, batch_size, -1, -1)
        return hidden, memory

    def forward(self, inputs: Tensor, state: State) -> State:
        """Apply one step to inputs `(B, N, C_in)`."""
        gates = self.gates(torch.cat([inputs, state[0].to(inputs.dtype)], -1))
        input_gate, forget_gate, output_gate, candidate = gates.float().chunk(4, dim=-1)
        memory = forget_gate.sigmoid() * state[1] + input_gate.sigmoid() * candidate.tanh()
        return output_gate.sigmoid() * memory.tanh(), memory


class StructDRAW(nn.Module):
    """Autoregressive model of the global latent z_g.

    Args:
        grid: G; there are N = G x G cells.
        channels: Channels of the cell features, C.
        size: Size of one step of z_g, D.
        steps: Number of steps, L.

    Example:
        >>> struct_draw = StructDRAW(grid=2, channels=8, size=3, steps=4)
        >>> struct_draw(torch.rand(5, 4, 8)).samples.shape, struct_draw.sample(6).features.shape
        (torch.Size([5, 4, 3]), torch.Size([6, 4, 8]))
    """

    def __init__(self, grid: int, channels: int, size: int, steps: int) -> None:
        super().__init__()
        self.grid, self.steps = grid, steps
        cells = grid**2
        self.encoder = ConvLSTM(3 * channels, channels, cells)
        self.decoder = ConvLSTM(2 * channels, channels, cells)
        self.prior = mlp([cells * channels, 512, 512, 2 * size])
        self.posterior = mlp([cells * channels, 512, 512, 2 * size])
        self.interaction = mlp([size, 512, 1024, cells * channels], output_activation=True)
        self.write = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, encoded: Tensor) -> GlobalLatent:
        """Sample z_g from the approximate posterior given image features `(B, N, C)`."""
        return self._run(len(encoded), encoded, None, ())

    def sample(
        self, batch_size: int, latent: Tensor | None = None, resample_steps: tuple[int, ...] = ()
    ) -> GlobalLatent:
        """Sample z_g from the prior, or decode a given one.

        Args:
            batch_size: B.
            latent: Global latents `(B, L, D)` to use in place of samples. None: sample all steps.
            resample_steps: Indices of the steps of `latent` that are sampled nonetheless.

        Returns:
            The latent; its posterior is its prior.
        """
        return self._run(batch_size, None, latent, resample_steps)

    def _run(
        self, batch_size: int, encoded: Tensor | None, latent: Tensor | None, resample_steps: tuple[int, ...]
    ) -> GlobalLatent:
        encoder_state, decoder_state = self.encoder.initial_state(batch_size), self.decoder.initial_state(batch_size)
        features = torch.zeros_like(decoder_state[0])
        steps: list[tuple[Tensor, Gaussian, Gaussian]] = []
        for step in range(self.steps):
            prior = posterior = Gaussian.from_raw(self.prior(decoder_state[0].flatten(1)))
            if encoded is not None:
                inputs = torch.cat([encoded, encoded - features, decoder_state[0]], -1)
                encoder_state = self.encoder(inputs, encoder_state)
                posterior = Gaussian.from_raw(self.posterior(encoder_state[0].flatten(1)))
            is_given = latent is not None and step not in resample_steps
            sample = latent[:, step] if latent is not None and is_given else posterior.rsample()
            steps.append((sample, posterior, prior))
            cells = self.interaction(sample).view(features.shape)
            decoder_state = self.decoder(torch.cat([cells, features], -1), decoder_state)
            features = features + self._write(decoder_state[0])
        samples, posteriors, priors = zip(*steps, strict=True)
        return GlobalLatent(torch.stack(samples, 1), _stack(posteriors), _stack(priors), features)

    def _write(self, hidden: Tensor) -> Tensor:
        """Apply the output convolution to the decoder's hidden state `(B, N, C)`."""
        image = rearrange(hidden, "b (h w) c -> b c h w", h=self.grid)
        return rearrange(self.write(image), "b c h w -> b (h w) c")  # type: ignore[no-any-return]


def _stack(steps: tuple[Gaussian, ...]) -> Gaussian:
    return Gaussian(torch.stack([step.mean for step in steps], 1), torch.stack([step.std for step in steps], 1))
