"""StructDRAW: the global latent, drawn in steps that each see all cells, and the features that it becomes.

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
    """The global latent of B images, in L steps of size D, and the features of N cells that it becomes."""

    samples: Tensor
    """What was drawn, `(B, L, D)`."""
    posterior: Gaussian
    """The distributions that it was drawn from, given the images and the earlier steps, `(B, L, D)`."""
    prior: Gaussian
    """What was expected given the earlier steps only, `(B, L, D)`."""
    features: Tensor
    """Features of the cells, `(B, N, C)`, in the space of the image encoder's."""


class ConvLSTM(nn.Module):
    """An LSTM on each cell, with kernels of size 1 and a learned start.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the state, C.
        cells: N.

    Example:
        >>> lstm = ConvLSTM(6, 8, cells=4)
        >>> hidden, memory = lstm(torch.rand(2, 4, 6), lstm.start(2))
        >>> hidden.shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, in_channels: int, channels: int, cells: int) -> None:
        super().__init__()
        self.gates = nn.Linear(in_channels + channels, 4 * channels)
        self.initial = nn.Parameter(torch.zeros(2, cells, channels))

    def start(self, batch: int) -> State:
        """Return the first state, hidden and memory `(B, N, C)` each."""
        hidden, memory = self.initial[:, None].expand(-1, batch, -1, -1)
        return hidden, memory

    def forward(self, inputs: Tensor, state: State) -> State:
        """Take a step on `(B, N, C_in)`."""
        gates = self.gates(torch.cat([inputs, state[0].to(inputs.dtype)], -1))
        admit, forget, show, new = gates.float().chunk(4, dim=-1)
        memory = forget.sigmoid() * state[1] + admit.sigmoid() * new.tanh()
        return show.sigmoid() * memory.tanh(), memory


class StructDRAW(nn.Module):
    """Infer the global latent of images, or draw new ones.

    Args:
        grid: G; there are N = G x G cells.
        channels: Channels of the features of a cell, C.
        size: Size of a step of the latent, D.
        steps: L.

    Example:
        >>> draw = StructDRAW(grid=2, channels=8, size=3, steps=4)
        >>> draw(torch.rand(5, 4, 8)).samples.shape, draw.sample(6).features.shape
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
        self.interaction = mlp([size, 512, 1024, cells * channels], raw=False)
        self.write = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, encoded: Tensor) -> GlobalLatent:
        """Infer the latent of encoded images `(B, N, C)`."""
        return self._run(len(encoded), encoded, None, ())

    def sample(self, count: int, given: Tensor | None = None, redraw: tuple[int, ...] = ()) -> GlobalLatent:
        """Draw latents from the prior.

        Args:
            count: B.
            given: Latents `(B, L, D)` to go through in place of new ones.
            redraw: Steps of `given` to draw anew all the same, from 0.

        Returns:
            The latent; its posterior is its prior.
        """
        return self._run(count, None, given, redraw)

    def _run(self, count: int, encoded: Tensor | None, given: Tensor | None, redraw: tuple[int, ...]) -> GlobalLatent:
        seen, painted = self.encoder.start(count), self.decoder.start(count)
        features = torch.zeros_like(painted[0])
        drawn: list[tuple[Tensor, Gaussian, Gaussian]] = []
        for step in range(self.steps):
            prior = posterior = Gaussian.of(self.prior(painted[0].flatten(1)))
            if encoded is not None:
                seen = self.encoder(torch.cat([encoded, encoded - features, painted[0]], -1), seen)
                posterior = Gaussian.of(self.posterior(seen[0].flatten(1)))
            kept = given is not None and step not in redraw
            latent = given[:, step] if given is not None and kept else posterior.sample()
            drawn.append((latent, posterior, prior))
            cells = self.interaction(latent).view(features.shape)
            painted = self.decoder(torch.cat([cells, features], -1), painted)
            features = features + self._write(painted[0])
        samples, posteriors, priors = zip(*drawn, strict=True)
        return GlobalLatent(torch.stack(samples, 1), _stack(posteriors), _stack(priors), features)

    def _write(self, hidden: Tensor) -> Tensor:
        image = rearrange(hidden, "b (h w) c -> b c h w", h=self.grid)
        return rearrange(self.write(image), "b c h w -> b (h w) c")  # type: ignore[no-any-return]


def _stack(steps: tuple[Gaussian, ...]) -> Gaussian:
    return Gaussian(torch.stack([step.mean for step in steps], 1), torch.stack([step.std for step in steps], 1))
