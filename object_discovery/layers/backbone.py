"""Backbones of timm: their names, and their weights from a hub, from a file or at random."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from object_discovery.errors import CorruptFileError, UserError

ALIASES = {
    "dino_s8": "vit_small_patch8_224.dino",
    "dino_s16": "vit_small_patch16_224.dino",
    "dino_b8": "vit_base_patch8_224.dino",
    "dino_b16": "vit_base_patch16_224.dino",
    "dinov2_s14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_b14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_s14_reg": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_b14_reg": "vit_base_patch14_reg4_dinov2.lvd142m",
    "dinov3_s16": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3_b16": "vit_base_patch16_dinov3.lvd1689m",
}
"""Short names of backbones trained without labels, and what timm calls them."""
_RESAMPLED = ("pos_embed", "relative_position", "attn_mask")  # depend on the resolution


def backbone_name(name: str) -> str:
    """Return what timm calls a backbone.

    Args:
        name: A key of `ALIASES`, or a name of timm's.

    Raises:
        UserError: If it is neither.

    Example:
        >>> backbone_name("dino_b16")
        'vit_base_patch16_224.dino'
    """
    import timm  # not above: it is slow to import, and only this model needs it

    if name in ALIASES:
        return ALIASES[name]
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, [*ALIASES, *timm.list_models()], 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(
            f"Expected argument `encoder` to be one of {', '.join(ALIASES)} or the name of a timm model, "
            f"but got {name!r}{hint}"
        )
    return name


def build_backbone(
    name: str, resolution: int, weights: str, seed: int = 0, *, block: int | None = None, norm: bool = False
) -> nn.Module:
    """Build a backbone with its weights.

    Args:
        name: A name of timm's.
        resolution: Height and width of its images; position embeddings are interpolated to it, as timm does.
        weights: `hub`: those of the name's tag, fetched once and kept by huggingface_hub. `none`: random ones. `meta`:
            none at all, on the meta device. Else a file, see `read_weights`.
        seed: Seed of the random weights; they leave PyTorch's random numbers as they are.
        block: Leave out what comes after this block of a transformer, or stage of a convolutional network; from 1.
            None: keep everything.
        norm: Keep the last normalisation all the same.

    Returns:
        The backbone, in evaluation mode, without gradients.

    Raises:
        UserError: If the weights cannot be got, or do not fit; CorruptFileError if the file cannot be read.

    Example:
        >>> sum(p.numel() for p in build_backbone("test_efficientnet", 64, "none").parameters())
        99196
    """
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    settings: dict[str, Any] = {"img_size": resolution} if cfg.fixed_input_size else {}
    with torch.random.fork_rng(devices=[]), torch.device("meta" if weights == "meta" else "cpu"):
        torch.manual_seed(seed)
        try:
            settings.update(_from_hub(cfg.hf_hub_id) if weights == "hub" else {})
            network: nn.Module = timm.create_model(name, num_classes=0, **settings)
        except Exception as error:  # the hub's client and timm raise whatever they met
            if weights != "hub":
                raise UserError(f"timm cannot build {name} at resolution {resolution}: {_line(error)}") from error
            raise UserError(
                f"Cannot get the weights of {name} ({_line(error)}): run once where huggingface.co can be reached, "
                "copy its cache (HF_HOME) from a machine that has them, or give a file as `encoder_weights`"
            ) from error
    misfit = f"{weights} does not hold weights of {name}"
    found = _convert(read_weights(weights), network, misfit) if weights not in ("hub", "none", "meta") else None
    if block is not None:
        prune: Any = network.prune_intermediate_layers
        prune([block - 1], prune_norm=not norm, prune_head=True)
    if found is not None:
        _load(network, found, misfit)
    return network.eval().requires_grad_(False)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a file of weights without running any code in it.

    Args:
        path: A `.safetensors` file, or one written by `torch.save`.

    Returns:
        Every tensor in it; names in nested dictionaries are joined by dots.

    Raises:
        UserError: If there is no such file.
        CorruptFileError: If it is damaged or of another kind.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"Expected argument `encoder_weights` to be hub, none or a file of weights, but there is no file {path}"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return dict(_flatten(torch.load(path, map_location="cpu", weights_only=True)))
    except Exception as error:  # both raise whatever they met
        raise CorruptFileError(f"{path} is no file of weights that can be read: damaged or of another kind") from error


def find_prefix(names: Mapping[str, Any], wanted: list[str]) -> str:
    """Find what precedes the wanted names in a file, such as `teacher.backbone.`.

    Of several the teacher's is taken, else that with the most names of the wanted.

    Args:
        names: The names in the file.
        wanted: The names that a network has.

    Example:
        >>> find_prefix({"student.a.weight": 0, "teacher.a.weight": 0, "teacher.head.weight": 0}, ["a.weight"])
        'teacher.'
    """
    probe = next(name for name in wanted if name.endswith("weight"))
    found = {name.removesuffix(probe) for name in names if name == probe or name.endswith(f".{probe}")}
    return max(
        sorted(found), key=lambda prefix: ("teacher" in prefix, sum(prefix + w in names for w in wanted)), default=""
    )


def weights_hash(network: nn.Module) -> str:
    """Hash the weights of a network, but for what depends on the resolution of its images.

    Returns:
        A SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not any(part in name for part in _RESAMPLED):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _from_hub(hub_id: str | None) -> dict[str, Any]:
    """Tell timm where the weights are: in the cache, where no connection is needed, or on the hub."""
    from huggingface_hub import constants, try_to_load_from_cache

    for file in ("model.safetensors", "pytorch_model.bin") if hub_id else ():
        cached = try_to_load_from_cache(str(hub_id).split("@")[0], file)
        if isinstance(cached, str):
            return {"pretrained": True, "pretrained_cfg_overlay": {"file": cached}}
    with contextlib.suppress(urllib.error.HTTPError):  # there is somebody; else its client would try for a minute
        urllib.request.urlopen(constants.ENDPOINT, timeout=10).close()
    return {"pretrained": True}


def _flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")


def _convert(found: dict[str, Tensor], network: nn.Module, misfit: str) -> dict[str, Tensor]:
    """Give weights the names and shapes of the network's, as timm would: it knows the authors' files."""
    prefix = find_prefix(found, list(network.state_dict()))
    found = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        return convert(found, network) if convert else found
    except Exception as error:  # it raises whatever it met
        raise UserError(f"{misfit}: {_line(error)}") from error


def _load(network: nn.Module, found: dict[str, Tensor], misfit: str) -> None:
    try:
        loaded = network.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise UserError(f"{misfit}: {_line(error)}") from error
    missing = [key for key in loaded.missing_keys if not key.endswith("num_batches_tracked")]
    if missing:
        count = len(network.state_dict())
        raise UserError(f"{misfit}: {len(missing)} of {count} are missing, such as {missing[0]}")


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
