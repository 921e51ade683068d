"""Features of images from a frozen, pretrained backbone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from object_discovery.errors import UserError
from object_discovery.layers.backbone import backbone_name, build_backbone, weights_hash


class FeatureShape(NamedTuple):
    """What comes out of a backbone, and what is to go in."""

    block: int
    """The block of a transformer, or the stage of a convolutional network; from 1."""
    feature_size: int
    """Size of a feature vector, F."""
    grid: tuple[int, int]
    """Rows and columns of the grid of features."""
    mean: tuple[float, float, float]
    """Mean that is subtracted from the colours."""
    std: tuple[float, float, float]
    """What they are divided by."""


@lru_cache
def feature_shape(name: str, resolution: int, block: int | None = None) -> FeatureShape:
    """Find the shape of a backbone's features; this needs no weights.

    Args:
        name: A name of timm's.
        resolution: Height and width of the images.
        block: See `FeatureShape`. None: the last.

    Raises:
        UserError: If there is no such block, or the grid of features does not divide the resolution.

    Example:
        >>> feature_shape("vit_small_patch16_224.dino", 224)[:3]
        (12, 384, (14, 14))
    """
    network = build_backbone(name, resolution, "meta")
    blocks = len(network.feature_info)  # type: ignore[arg-type]
    if block is not None and not 1 <= block <= blocks:
        raise UserError(f"Expected argument `encoder_block` to be from 1 to {blocks} for {name}, but got {block}")
    block = block or blocks
    try:
        images = torch.empty(1, 3, resolution, resolution, device="meta")
        features: Tensor = network.forward_intermediates(  # type: ignore[operator]
            images, indices=[block - 1], output_fmt="NCHW", intermediates_only=True
        )[0]
        _, size, height, width = features.shape
        if height != width or resolution % height:
            raise ValueError(f"{height} x {width} features do not fill the image")
    except Exception as error:  # timm and PyTorch raise whatever they met
        reason = " ".join(str(error).split())
        raise UserError(
            f"Expected argument `resolution` to be a multiple of the patches of {name}, but got {resolution}: {reason}"
        ) from error
    cfg: Any = network.pretrained_cfg
    return FeatureShape(block, size, (height, width), tuple(cfg["mean"]), tuple(cfg["std"]))


class FrozenEncoder(nn.Module):
    """Turn images into features by a pretrained backbone that is never trained.

    Its weights are loaded when they are first needed: training from stored features needs none. They are no
    parameters of this module, and neither stored in checkpoints nor changed by `train()`; `key` tells them apart.

    Letters: B images, R pixels of height and width, N features of size F.

    Args:
        name: A key of `ALIASES` such as `dinov2_s14`, or any name of timm's, convolutional networks included.
        weights: `hub`, `none` or a file, see `build_backbone`.
        block: Block of a transformer, or stage of a convolutional network, whose output is taken; from 1. None: the
            last.
        norm: Normalise the features by the backbone's last layer, where it has one; published for DINOSAUR: not.
        resolution: R.
        seed: Seed of random weights.
        scaling: Bring colours to the mean and deviation that the backbone was trained on. False: leave them in [0, 1],
            as in the experiments with the covariance loss.

    Attributes:
        feature_size: F.
        grid: Rows and columns of the features, whose product is N.
        expected: Hash that the weights must have when they are loaded, and that of loaded ones. None: not yet known.
        beside: Another folder to look for the file of weights in. None: no other.

    Raises:
        UserError: If there is no such backbone or block, or the resolution is no multiple of its patches.

    Example:
        >>> encoder = FrozenEncoder("test_efficientnet", weights="none", block=2, resolution=32)
        >>> encoder(torch.rand(2, 3, 32, 32)).shape, encoder.grid
        (torch.Size([2, 64, 24]), (8, 8))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str = "dinov2_s14",
        *,
        weights: str = "hub",
        block: int | None = None,
        norm: bool = False,
        resolution: int = 224,
        seed: int = 0,
        scaling: bool = True,
    ) -> None:
        super().__init__()
        self.name, self.weights, self.norm = backbone_name(name), weights, norm
        self.resolution, self.seed = resolution, seed
        shape = feature_shape(self.name, resolution, block)
        self.block, self.feature_size, self.grid, self._mean, self._std = shape
        if not scaling:
            self._mean, self._std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.register_buffer("mean", torch.tensor(self._mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self._std).view(3, 1, 1), persistent=False)
        self.beside: Path | None = None
        self.expected: str | None = None
        self._held: list[nn.Module] = []  # in a list, so that it is no part of this module

    @property
    def is_loaded(self) -> bool:
        """Whether the weights have been loaded."""
        return bool(self._held)

    @property
    def network(self) -> nn.Module:
        """The backbone, in evaluation mode; it is loaded now if it was not yet.

        Raises:
            UserError: If the weights cannot be got, or are not those that are expected.
        """
        self._load()
        return self._held[0]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute the features `(B, N, F)` of images `(B, 3, R, R)`, floats in [0, 1]."""
        network: Any = self.network
        as_tokens = hasattr(network, "num_prefix_tokens")  # without class and register tokens
        found: Tensor = network.forward_intermediates(
            (images - self.mean) / self.std,
            indices=[self.block - 1],
            norm=self.norm,
            stop_early=True,
            output_fmt="NLC" if as_tokens else "NCHW",
            intermediates_only=True,
        )[0]
        return (found if as_tokens else found.flatten(2).transpose(1, 2)).to(images.dtype)

    def key(self) -> dict[str, Any]:
        """Return plain values that tell exactly which features these are; loads the weights.

        Raises:
            UserError: If the weights cannot be got, or are not those that are expected.
        """
        self._load()
        return {**self.description(), "weights": self.expected}

    def description(self) -> dict[str, Any]:
        """Return what of `key` is known without the weights."""
        return {
            "encoder": self.name,
            "block": self.block,
            "norm": self.norm,
            "resolution": self.resolution,
            "mean": list(self._mean),
            "std": list(self._std),
        }

    def expect(self, weights: str | None) -> None:
        """Refuse other weights than those with a hash; None: take any.

        Raises:
            UserError: If others are loaded or expected already.
        """
        if weights is not None:
            self._check(weights, self.expected or weights)
            self.expected = weights

    def release(self) -> None:
        """Let go of the weights, which are loaded again when they are next needed."""
        self._held.clear()

    def _check(self, expected: str | None, found: str | None) -> None:
        if expected not in (None, found):
            raise UserError(
                f"The model was trained on features of other weights of {self.name} than {self.weights!r} gives: "
                "give those as `encoder_weights`"
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _load(self) -> None:
        if self._held:
            return
        source, norm = self._source(), self.norm
        network = build_backbone(self.name, self.resolution, source, self.seed, block=self.block, norm=norm)
        if norm and not isinstance(getattr(network, "norm", None), nn.LayerNorm | nn.RMSNorm):
            raise UserError(f"Expected argument `encoder_norm` to be False, as {self.name} has no last normalisation")
        found = weights_hash(network)
        self._check(self.expected, found)
        self.expected = found
        self._held.append(network.to(self.mean.device, self.mean.dtype))

    def _source(self) -> str:
        """Return where the weights are: a file may have moved along with a checkpoint."""
        if self.beside and self.weights not in ("hub", "none") and not Path(self.weights).expanduser().is_file():
            moved = self.beside / Path(self.weights).name
            return str(moved) if moved.is_file() else self.weights
        return self.weights

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenEncoder:
        """Bring the backbone to the device and type that the module is brought to."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for network in self._held:
            network._apply(fn)  # type: ignore[no-untyped-call]
        return self
