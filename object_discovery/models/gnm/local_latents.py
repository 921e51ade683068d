"""Local latents z_s of the objects: z_pres, z_where, z_depth and z_what of each cell of the grid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from object_discovery.models.gnm.blocks import GridNorm
from object_discovery.models.gnm.cluster_init import ObjectProposals
from object_discovery.models.gnm.distributions import Gaussian, relaxed_bernoulli

_PROPOSAL_LOGIT = 1.0  # added to z_pres's raw logit in cells with a proposal, subtracted in the others


class ObjectLatents(NamedTuple):
    """Values of the object latents in N cells of B images."""

    presence: Tensor
    """z_pres: presence, `(B, N)`, in [0, 1]."""
    where: Tensor
    """z_where: logit of the scale, log of the aspect ratio height / width, and raw x and y shift, `(B, N, 4)`."""
    depth: Tensor
    """z_depth, `(B, N, 1)`; objects with a smaller value occlude those with a larger one."""
    what: Tensor
    """z_what: appearance, `(B, N, D)`."""


class ObjectDistribution(NamedTuple):
    """Distribution of the object latents: posterior q(z_s | x) or prior p(z_s | z_g)."""

    presence: Tensor
    """Logits of z_pres, `(B, N)`."""
    where: Gaussian
    """Distribution of z_where."""
    depth: Gaussian
    """Distribution of z_depth."""
    what: Gaussian
    """Distribution of z_what."""

    def rsample(self, tau: float, noise_scale: float = 1.0) -> ObjectLatents:
        """Sample by reparameterisation: relaxed z_pres at temperature `tau`, Gaussians with scaled noise."""
        presence = relaxed_bernoulli(self.presence, tau)
        where, depth, what = (gaussian.rsample(noise_scale) for gaussian in (self.where, self.depth, self.what))
        return ObjectLatents(presence, where, depth, what)

    def sample(self) -> ObjectLatents:
        """Sample with z_pres in {0, 1}."""
        return self.rsample(tau=1.0)._replace(presence=torch.bernoulli(self.presence.sigmoid()))

    def mode(self) -> ObjectLatents:
        """Return the mode, with z_pres in {0, 1}."""
        return ObjectLatents((self.presence > 0).float(), self.where.mean, self.depth.mean, self.what.mean)


def where_to_boxes(where: Tensor, grid: int) -> Tensor:
    """Convert z_where to bounding boxes.

    Args:
        where: z_where, `(..., N, 4)`, see `ObjectLatents`.
        grid: G; there are N = G x G cells in row-major order.

    Returns:
        Boxes `(..., N, 4)`: width and height as fractions of the image, then the centre x, y in [-1, 1] over the image,
        at most one cell away from the centre of the box's cell.

    Example:
        >>> where_to_boxes(torch.zeros(1, 4, 4), grid=2)[0]
        tensor([[ 0.5000,  0.5000, -0.5000, -0.5000],
                [ 0.5000,  0.5000,  0.5000, -0.5000],
                [ 0.5000,  0.5000, -0.5000,  0.5000],
                [ 0.5000,  0.5000,  0.5000,  0.5000]])
    """
    scale, sqrt_ratio = where[..., 0].sigmoid(), (where[..., 1] / 2).exp()
    rows, columns = torch.meshgrid(*(torch.arange(grid, device=where.device),) * 2, indexing="ij")
    cells = torch.stack([columns, rows], -1).flatten(0, 1)
    centre = 2 / grid * (cells + 0.5 + where[..., 2:].tanh()) - 1
    return torch.cat([torch.stack([scale / sqrt_ratio, scale * sqrt_ratio], -1), centre], -1)


class ObjectHead(nn.Module):
    """Head that maps cell features to the distributions of the object latents.

    One head serves both the posterior, on features of the image encoder, and the prior, on features decoded from z_g.

    Args:
        channels: Channels of the features, C.
        what_size: Size of z_what, D.
        presence_bound: Bound of the logits of z_pres, `presence_bound * tanh(raw)`; the gradient vanishes near it.
        scale: Initial mean of the logit of the scale in z_where.

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
            self.where.bias.copy_(torch.tensor([scale, 0, 0, 0, 0, 0, 0, 0]))  # initial boxes are small

    def forward(
        self, features: Tensor, bound_fraction: float = 1.0, proposals: ObjectProposals | None = None
    ) -> ObjectDistribution:
        """Compute the distributions of the object latents.

        Args:
            features: Cell features, `(B, N, C)`.
            bound_fraction: Factor on the bound of the logits of z_pres, in [0, 1].
            proposals: Initial estimates of z_pres and z_where, to which the head adds corrections. None: no proposals.
        """
        features = self.layers(features)
        presence, where = self.presence(features).squeeze(-1).float(), Gaussian.from_raw(self.where(features))
        if proposals is not None:
            presence = presence + _PROPOSAL_LOGIT * (2.0 * proposals.valid - 1)
            scale_offset = proposals.where[..., 0] - self.scale * proposals.valid  # the bias already adds self.scale
            offset = torch.stack([scale_offset, *proposals.where[..., 1:].unbind(-1)], -1)
            where = where._replace(mean=where.mean + offset)
        return ObjectDistribution(
            bound_fraction * self.presence_bound * presence.tanh(),
            where,
            Gaussian.from_raw(self.depth(features)),
            Gaussian.from_raw(self.what(features)),
        )
