"""What each cell of the grid says about its object: whether there is one, where, how deep, and what."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from object_discovery.models.gnm.blocks import GridNorm
from object_discovery.models.gnm.cluster_init import Seeds
from object_discovery.models.gnm.distributions import Gaussian, relaxed_bernoulli

_LEAN = 1.0  # what seeds add to or take from the presence, before its bound


class Objects(NamedTuple):
    """The latents of the objects in N cells of B images."""

    presence: Tensor
    """How much an object is there, `(B, N)`, in [0, 1]."""
    where: Tensor
    """Logit of its scale, logarithm of its ratio of height to width, and its shift, `(B, N, 4)`."""
    depth: Tensor
    """How far away it is, `(B, N, 1)`."""
    what: Tensor
    """What it looks like, `(B, N, D)`."""


class ObjectDistribution(NamedTuple):
    """The distributions of `Objects`."""

    presence: Tensor
    """Log-odds, `(B, N)`."""
    where: Gaussian
    """Of `Objects.where`."""
    depth: Gaussian
    """Of `Objects.depth`."""
    what: Gaussian
    """Of `Objects.what`."""

    def sample(self, tau: float, noise: float = 1.0) -> Objects:
        """Draw differentiable samples; the presence is relaxed with temperature `tau`; `noise` scales the others'."""
        presence = relaxed_bernoulli(self.presence, tau)
        return Objects(presence, self.where.sample(noise), self.depth.sample(noise), self.what.sample(noise))

    def draw(self) -> Objects:
        """Draw samples, whose presence is 0 or 1."""
        return self.sample(tau=1.0)._replace(presence=torch.bernoulli(self.presence.sigmoid()))

    def mode(self) -> Objects:
        """Return the most probable latents, whose presence is 0 or 1."""
        return Objects((self.presence > 0).float(), self.where.mean, self.depth.mean, self.what.mean)


def place(where: Tensor, grid: int) -> Tensor:
    """Turn where objects are into boxes.

    Args:
        where: `(..., N, 4)`, see `Objects`.
        grid: G; there are N = G x G cells, in rows from the top left.

    Returns:
        Width and height as shares of the image's, and the centre x, y, which runs from -1 to 1 over the image and lies
        within a cell's size of the centre of its cell: `(..., N, 4)`.

    Example:
        >>> place(torch.zeros(1, 4, 4), grid=2)[0]
        tensor([[ 0.5000,  0.5000, -0.5000, -0.5000],
                [ 0.5000,  0.5000,  0.5000, -0.5000],
                [ 0.5000,  0.5000, -0.5000,  0.5000],
                [ 0.5000,  0.5000,  0.5000,  0.5000]])
    """
    scale, half_ratio = where[..., 0].sigmoid(), (where[..., 1] / 2).exp()
    rows, columns = torch.meshgrid(*(torch.arange(grid, device=where.device),) * 2, indexing="ij")
    cells = torch.stack([columns, rows], -1).flatten(0, 1)
    centre = 2 / grid * (cells + 0.5 + where[..., 2:].tanh()) - 1
    return torch.cat([torch.stack([scale / half_ratio, scale * half_ratio], -1), centre], -1)


class ObjectHead(nn.Module):
    """Read the distributions of the objects from the features of the cells.

    The model has one such head, for the posterior and, from the features that the global latent becomes, the prior.

    Args:
        channels: Channels of the features, C.
        what_size: Size of `Objects.what`, D.
        presence_bound: Largest log-odds of the presence, at which its gradient vanishes.
        scale: Logit of the size that objects begin with.

    Example:
        >>> ObjectHead(8, what_size=3)(torch.rand(2, 4, 8)).what.mean.shape
        torch.Size([2, 4, 3])
    """

    def __init__(self, channels: int, what_size: int, presence_bound: float = 8.8, scale: float = -1.0) -> None:
        super().__init__()
        self.presence_bound, self.scale = presence_bound, scale
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Linear(channels, channels), nn.CELU(), GridNorm(channels)]
        self.layers = nn.Sequential(*layers)
        self.presence = nn.Linear(channels, 1)
        self.where = nn.Linear(channels, 8)
        self.depth = nn.Linear(channels, 2)
        self.what = nn.Linear(channels, 2 * what_size)
        nn.init.uniform_(self.where.weight, -0.01, 0.01)
        with torch.no_grad():
            self.where.bias.copy_(torch.tensor([scale, 0, 0, 0, 0, 0, 0, 0]))  # objects begin small

    def forward(self, features: Tensor, reach: float = 1.0, seeds: Seeds | None = None) -> ObjectDistribution:
        """Read the objects of cells.

        Args:
            features: `(B, N, C)`.
            reach: The share of their bound that the log-odds of the presence reach.
            seeds: Where objects are to begin; what is read corrects them. None: nothing is known.
        """
        features = self.layers(features)
        presence, where = self.presence(features).squeeze(-1).float(), Gaussian.of(self.where(features))
        if seeds is not None:
            presence = presence + _LEAN * (2.0 * seeds.there - 1)
            begin = torch.stack([seeds.where[..., 0] - self.scale * seeds.there, *seeds.where[..., 1:].unbind(-1)], -1)
            where = where._replace(mean=where.mean + begin)
        return ObjectDistribution(
            reach * self.presence_bound * presence.tanh(),
            where,
            Gaussian.of(self.depth(features)),
            Gaussian.of(self.what(features)),
        )
