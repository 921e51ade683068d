"""Frozen, pretrained encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from object_discovery.errors import UserError, one_line
from object_discovery.layers.backbone import backbone_name, build_backbone, weights_hash


class FeatureShape(NamedTuple):
    """Feature shape and image normalisation of a backbone."""

    block: int
    """Transformer block, or stage of a convolutional network, from 1."""
    feature_size: int
    """Dimension of the features, F."""
    grid: tuple[int, int]
    """Rows and columns of the grid of features."""
    mean: tuple[float, float, float]
    """Mean that images are normalised by."""
    std: tuple[float, float, float]
    """Standard deviation that images are normalised by."""


@lru_cache
def feature_shape(name: str, resolution: int, block: int | None = None) -> FeatureShape:
    """Infer the shape of the features of a backbone on the meta device, without its weights.

    Args:
        name: A timm name.
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
    except Exception as error:  # timm and PyTorch raise many types
        raise UserError(
            f"Expected argument `resolution` to be a multiple of the patches of {name}, but got {resolution}: "
            f"{one_line(error)}"
        ) from error
    cfg: Any = network.pretrained_cfg
    return FeatureShape(block, size, (height, width), tuple(cfg["mean"]), tuple(cfg["std"]))


class FrozenEncoder(nn.Module):
    """Frozen, pretrained encoder: image features of a timm backbone.

    The weights are loaded at first use, so that training on cached features needs none. They are not parameters of this
    module: they are not saved in checkpoints, and `train()` does not change them; `key` identifies them by a hash.

    Shapes: B images of R x R pixels, N features of size F.

    Args:
        name: A key of `ALIASES` such as `dinov2_s14`, or any timm name, convolutional networks included.
        weights: `hub`, `none` or a file, see `build_backbone`.
        block: Transformer block, or stage of a convolutional network, whose output is used, from 1. None: the last.
        norm: Apply the final normalisation of the backbone (published for DINOSAUR: no).
        resolution: R.
        seed: Seed of random weights.
        scaling: Normalise images by the mean and standard deviation of the pretraining. False: keep [0, 1], as in the
            experiments with the covariance loss.

    Attributes:
        feature_size: F.
        grid: Rows and columns of the features; their product is N.
        expected: Hash of the weights, checked when they are loaded. None: not yet known.
        search_folder: Folder that is searched for a file of weights that no longer exists at its path. None: none.

    Raises:
        UserError: If there is no such backbone or block, or the resolution is not a multiple of its patch size.

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
        self.search_folder: Path | None = None
        self.expected: str | None = None
        self._loaded: list[nn.Module] = []  # a list, so that the backbone is not registered as a submodule

    @property
    def is_loaded(self) -> bool:
        """Whether the weights have been loaded."""
        return bool(self._loaded)

    @property
    def network(self) -> nn.Module:
        """The backbone, in evaluation mode; loaded at first use.

        Raises:
            UserError: If the weights are not available, or have another hash than expected.
        """
        self._load()
        return self._loaded[0]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute the features `(B, N, F)` of images `(B, 3, R, R)`, floats in [0, 1]."""
        network: Any = self.network
        is_transformer = hasattr(network, "num_prefix_tokens")  # its features are returned without prefix tokens
        features: Tensor = network.forward_intermediates(
            (images - self.mean) / self.std,
            indices=[self.block - 1],
            norm=self.norm,
            stop_early=True,
            output_fmt="NLC" if is_transformer else "NCHW",
            intermediates_only=True,
        )[0]
        return (features if is_transformer else features.flatten(2).transpose(1, 2)).to(images.dtype)

    def key(self) -> dict[str, Any]:
        """Return plain values that identify the features, hash of the weights included; loads the weights.

        Raises:
            UserError: If the weights are not available, or have another hash than expected.
        """
        self._load()
        return {**self.description(), "weights": self.expected}

    def description(self) -> dict[str, Any]:
        """Return the values of `key` that are known without the weights."""
        return {
            "encoder": self.name,
            "block": self.block,
            "norm": self.norm,
            "resolution": self.resolution,
            "mean": list(self._mean),
            "std": list(self._std),
        }

    def expect(self, weights: str | None) -> None:
        """Set the expected hash of the weights; None: no change.

        Raises:
            UserError: If a different hash is already known.
        """
        if weights is not None:
            self._check_hash(weights, self.expected or weights)
            self.expected = weights

    def release(self) -> None:
        """Free the weights; they are loaded again at next use."""
        self._loaded.clear()

    def _check_hash(self, expected: str | None, actual: str | None) -> None:
        if expected not in (None, actual):
            raise UserError(
                f"The model was trained on features of {self.name} with other weights than {self.weights!r}: "
                "pass those as `encoder_weights`"
            )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _load(self) -> None:
        if self._loaded:
            return
        source, norm = self._source(), self.norm
        network = build_backbone(self.name, self.resolution, source, self.seed, block=self.block, norm=norm)
        if norm and not isinstance(getattr(network, "norm", None), nn.LayerNorm | nn.RMSNorm):
            raise UserError(f"Expected argument `encoder_norm` to be False, as {self.name} has no final normalisation")
        actual = weights_hash(network)
        self._check_hash(self.expected, actual)
        self.expected = actual
        self._loaded.append(network.to(self.mean.device, self.mean.dtype))

    def _source(self) -> str:
        """Return the source of the weights; a file may have been moved together with a checkpoint."""
        if self.search_folder and self.weights not in ("hub", "none") and not Path(self.weights).expanduser().is_file():
            moved = self.search_folder / Path(self.weights).name
            return str(moved) if moved.is_file() else self.weights
        return self.weights

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenEncoder:
        """Move the backbone to the device and type of the module."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for network in self._loaded:
            network._apply(fn)  # type: ignore[no-untyped-call]
        return self
