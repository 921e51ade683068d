"""The renderer: objects are painted, put in their places, and laid over each other and the background by depth.

Letters: B images, N objects each, H W pixels of the image, g the height and width of a glimpse.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from object_discovery.models.gnm.blocks import UpBlock
from object_discovery.models.gnm.distributions import straight_through_clamp

_EPS = 1e-15
_MIDDLE = 8.0  # logit of the opacity in the middle of a spot
_FALL = 10.0  # and by how much it falls with the square of the distance, to the border
_FREEDOM = 4.0  # by which a glimpse may change that logit: its middle stays opaque
_DETAIL = 0.1


class GlimpseDecoder(nn.Module):
    """Paint objects in frames of their own.

    Args:
        what_size: Size of `Objects.what`, D.
        glimpse_size: g, a power of two.
        centred: Begin with one colour and a round spot in the middle, which stays opaque, so that frames must go to
            where objects are. Not published.

    Example:
        >>> GlimpseDecoder(3, glimpse_size=16)(torch.rand(5, 3)).shape
        torch.Size([5, 4, 16, 16])
    """

    def __init__(self, what_size: int, glimpse_size: int, *, centred: bool = False) -> None:
        super().__init__()
        doublings = int(math.log2(glimpse_size))
        channels = [what_size, *(min(128, 4 * 2**left) for left in reversed(range(doublings)))]
        pairs = itertools.pairwise(channels)
        blocks = [UpBlock(a, b, 2, 3, raw=number == doublings - 1) for number, (a, b) in enumerate(pairs)]
        self.blocks = nn.Sequential(*blocks)
        self.plain: nn.Linear | None = None
        if centred:
            self.plain = nn.Linear(what_size, 3, bias=False)
            last = blocks[-1].convolution
            with torch.no_grad():
                last.weight.mul_(_DETAIL)
                assert last.bias is not None
                last.bias.zero_()
            size = 2**doublings
            places = (torch.arange(size) + 0.5) * (2 / size) - 1
            spot = torch.zeros(4, size, size)
            spot[3] = _MIDDLE - _FALL * (places.square()[:, None] + places.square())
            self.register_buffer("spot", spot, persistent=False)

    def forward(self, what: Tensor) -> Tensor:
        """Paint `(M, D)` as `(M, 4, g, g)`: colours and opacity, in [0, 1]."""
        painted = self.blocks(what[:, :, None, None])
        if self.plain is not None:
            colours, opacity = painted[:, :3] + self.plain(what)[:, :, None, None], painted[:, 3:]
            # Else objects would turn transparent where a stronger colour makes up for it.
            painted = torch.cat([colours, _FREEDOM * (opacity / _FREEDOM).tanh()], 1) + self.get_buffer("spot")
        return painted.sigmoid()  # type: ignore[no-any-return]


def interpolation(centre: Tensor, extent: Tensor, source: int, target: int) -> Tensor:
    """Return the matrices that interpolate rows (or columns) of glimpses linearly in those of images.

    Args:
        centre: Centres of the glimpses, `(M,)`; the image runs from -1 to 1.
        extent: Their sizes as shares of the image's, `(M,)`.
        source: Rows of a glimpse, g.
        target: Rows of an image, H.

    Returns:
        Weights `(M, H, g)`; outside the glimpse they are 0.

    Example:
        >>> interpolation(torch.zeros(1), torch.ones(1), source=2, target=4)[0]
        tensor([[0.7500, 0.0000],
                [0.7500, 0.2500],
                [0.2500, 0.7500],
                [0.0000, 0.7500]])
    """
    pixels = (torch.arange(target, device=centre.device) + 0.5) * (2 / target) - 1
    places = ((pixels - centre[:, None]) / extent[:, None] + 1) * (source / 2) - 0.5
    return (1 - (places[:, :, None] - torch.arange(source, device=centre.device)).abs()).clamp_min(0)


def spatial_transform(glimpses: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Put glimpses in their places in images: bilinear sampling as two products of matrices.

    The same as `torch.nn.functional.grid_sample` with zeros outside, but several times as fast.

    Args:
        glimpses: `(M, C, g, g)`.
        boxes: Width, height and centre of each, `(M, 4)`, see `place`.
        size: Height and width of the image, H = W.

    Returns:
        Images with channels between rows and columns, `(M, H, C, W)`.

    Example:
        >>> spatial_transform(torch.ones(1, 1, 2, 2), torch.tensor([[0.5, 0.5, 0.5, 0.0]]), size=4)[0, :, 0]
        tensor([[0., 0., 0., 0.],
                [0., 0., 1., 1.],
                [0., 0., 1., 1.],
                [0., 0., 0., 0.]])
    """
    count, channels, source, _ = glimpses.shape
    width, height, x, y = boxes.float().unbind(-1)
    rows = interpolation(y, height, source, size).to(glimpses.dtype)
    columns = interpolation(x, width, source, size).to(glimpses.dtype)
    stretched = rows @ glimpses.transpose(1, 2).reshape(count, source, -1)
    return (stretched.view(count, -1, source) @ columns.transpose(1, 2)).view(count, size, channels, size)


class Layers(NamedTuple):
    """Objects in their places in the images."""

    colours: Tensor
    """Colours times opacity, `(B, N, H, 3, W)`."""
    opacity: Tensor
    """Opacity times presence, `(B, N, H, W)`."""
    nearness: Tensor
    """The share of each object in the colour of a pixel, `(B, N, H, W)`; sums to 1, or 0 where there is no object."""


def arrange(glimpses: Tensor, presence: Tensor, boxes: Tensor, depth: Tensor, size: int) -> Layers:
    """Put the objects of images in their places, and see which is in front.

    Args:
        glimpses: Colours and opacity, `(B N, 4, g, g)`.
        presence: `(B, N)` in [0, 1].
        boxes: `(B, N, 4)`, see `place`.
        depth: `(B, N, 1)`; the less, the nearer.
        size: Height and width of the images.
    """
    batch, count = presence.shape
    opacity = glimpses[:, 3:] * presence.reshape(-1, 1, 1, 1).to(glimpses.dtype)
    painted = torch.cat([glimpses[:, :3] * opacity, opacity], 1)
    images = spatial_transform(painted, boxes.flatten(0, 1), size).view(batch, count, size, 4, size)
    opacity = images[:, :, :, 3].float()
    weights = opacity * (-depth.float()).sigmoid()[..., None]
    return Layers(images[:, :, :, :3], opacity, weights / (weights.sum(1, keepdim=True) + _EPS))


class Rendering(NamedTuple):
    """Images of objects over a background."""

    image: Tensor
    """`(B, 3, H, W)`."""
    foreground: Tensor
    """What the objects add to it, `(B, 3, H, W)`."""
    coverage: Tensor
    """How much the objects hide the background, `(B, 1, H, W)`, in [0, 1]."""


def blend(layers: Layers, background: Tensor, coverage: float | None = None) -> Rendering:
    """Lay objects over each other and the background.

    Args:
        layers: The objects.
        background: `(B, 3, H, W)`.
        coverage: Cover the background this much everywhere, in place of where objects are.
    """
    weights = layers.nearness[:, :, :, None].to(layers.colours.dtype)
    foreground = (layers.colours * weights).sum(1).transpose(1, 2).float()
    if coverage is None:
        covered = straight_through_clamp(layers.opacity.sum(1), _EPS, 1 - _EPS)[:, None]
    else:
        covered = torch.full_like(background[:, :1], coverage)
    return Rendering(foreground + (1 - covered) * background, foreground, covered)


def visible_shares(layers: Layers) -> Tensor:
    """Return the share of each pixel that shows each object, `(B, N, H, W)`; what is left shows the background."""
    seen = layers.opacity * layers.nearness
    coverage = layers.opacity.sum(1, keepdim=True).clamp(0, 1)
    return coverage * seen / seen.sum(1, keepdim=True).clamp_min(_EPS)
