"""timm backbones with weights from the hub, from a file, or random."""

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

from object_discovery.errors import CorruptFileError, UserError, one_line

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
"""timm names of self-supervised backbones by their short names."""
_RESOLUTION_DEPENDENT = ("pos_embed", "relative_position", "attn_mask")  # parts of names of tensors


def backbone_name(name: str) -> str:
    """Return the timm name of a backbone.

    Args:
        name: A key of `ALIASES`, or a timm name.

    Raises:
        UserError: If it is neither.

    Example:
        >>> backbone_name("dino_b16")
        'vit_base_patch16_224.dino'
    """
    import timm  # here, since it is slow to import and only DINOSAUR needs it

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
        name: A timm name.
        resolution: Height and width of the images; timm interpolates position embeddings to it.
        weights: `hub`: pretrained weights, downloaded once into the cache of huggingface_hub. `none`: random weights.
            `meta`: no weights, on the meta device. Otherwise a file, see `read_weights`.
        seed: Seed of random weights; the global random state is unchanged.
        block: Prune what follows this transformer block (convolutional networks: stage), from 1. None: prune nothing.
        norm: Keep the final normalisation when pruning.

    Returns:
        The backbone, in evaluation mode, without gradients.

    Raises:
        UserError: If the weights are not available, or do not fit the backbone.
        CorruptFileError: If the file cannot be read.

    Example:
        >>> build_backbone("test_efficientnet", 64, "none")(torch.zeros(1, 3, 64, 64)).ndim  # pooled features
        2
    """
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    settings: dict[str, Any] = {"img_size": resolution} if cfg.fixed_input_size else {}
    with torch.random.fork_rng(devices=[]), torch.device("meta" if weights == "meta" else "cpu"):
        torch.manual_seed(seed)
        try:
            settings.update(_from_hub(cfg.hf_hub_id) if weights == "hub" else {})
            network: nn.Module = timm.create_model(name, num_classes=0, **settings)
        except Exception as error:  # timm and huggingface_hub raise many types
            if weights != "hub":
                raise UserError(
                    f"timm cannot build {name} at resolution {resolution}: {one_line(error)[:200]}"
                ) from error
            raise UserError(
                f"Cannot get the weights of {name} ({one_line(error)[:200]}): run once where huggingface.co can be "
                "reached, copy its cache (HF_HOME) from a machine that has them, or give a file as `encoder_weights`"
            ) from error
    mismatch = f"{weights} does not contain weights of {name}"
    state = _convert(read_weights(weights), network, mismatch) if weights not in ("hub", "none", "meta") else None
    if block is not None:
        prune: Any = network.prune_intermediate_layers
        prune([block - 1], prune_norm=not norm, prune_head=True)
    if state is not None:
        _load(network, state, mismatch)
    return network.eval().requires_grad_(False)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a file of weights without executing pickled code.

    Args:
        path: A `.safetensors` file, or one written by `torch.save`.

    Returns:
        All tensors by name; the names of nested dictionaries are joined by dots.

    Raises:
        UserError: If there is no such file.
        CorruptFileError: If it is damaged or of another format.
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
    except Exception as error:  # both raise many types
        raise CorruptFileError(f"{path} is not a readable file of weights: damaged or of another format") from error


def find_prefix(names: Mapping[str, Any], network_names: list[str]) -> str:
    """Find the common prefix of the names of a network in a checkpoint, such as `teacher.backbone.`.

    Among several prefixes, one that contains `teacher` is preferred, then the one with the most matching names.

    Args:
        names: Names in the checkpoint.
        network_names: Names in the network.

    Returns:
        The prefix; empty if there is none.

    Example:
        >>> find_prefix({"student.a.weight": 0, "teacher.a.weight": 0, "teacher.head.weight": 0}, ["a.weight"])
        'teacher.'
    """
    first = next(name for name in network_names if name.endswith("weight"))
    prefixes = {name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")}

    def preference(prefix: str) -> tuple[bool, int]:
        return "teacher" in prefix, sum(prefix + name in names for name in network_names)

    return max(sorted(prefixes), key=preference, default="")


def weights_hash(network: nn.Module) -> str:
    """Hash the weights of a network, except for those that depend on the resolution.

    Returns:
        SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if not any(part in name for part in _RESOLUTION_DEPENDENT):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _from_hub(hub_id: str | None) -> dict[str, Any]:
    """Return the timm arguments for pretrained weights: from the cache, without a connection, or from the hub."""
    from huggingface_hub import constants, try_to_load_from_cache

    for file in ("model.safetensors", "pytorch_model.bin") if hub_id else ():
        cached = try_to_load_from_cache(str(hub_id).split("@")[0], file)
        if isinstance(cached, str):
            return {"pretrained": True, "pretrained_cfg_overlay": {"file": cached}}
    with contextlib.suppress(urllib.error.HTTPError):  # the hub answers; without it the client would retry for a minute
        urllib.request.urlopen(constants.ENDPOINT, timeout=10).close()
    return {"pretrained": True}


def _flatten(values: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")


def _convert(state: dict[str, Tensor], network: nn.Module, mismatch: str) -> dict[str, Tensor]:
    """Convert weights to the names and shapes of the network, by the filter of timm for the authors' checkpoints."""
    prefix = find_prefix(state, list(network.state_dict()))
    state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        return convert(state, network) if convert else state
    except Exception as error:  # the filters of timm raise many types
        raise UserError(f"{mismatch}: {one_line(error)[:200]}") from error


def _load(network: nn.Module, state: dict[str, Tensor], mismatch: str) -> None:
    try:
        loaded = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{mismatch}: {one_line(error)[:200]}") from error
    missing = [key for key in loaded.missing_keys if not key.endswith("num_batches_tracked")]
    if missing:
        count = len(network.state_dict())
        raise UserError(f"{mismatch}: {len(missing)} of {count} are missing, such as {missing[0]}")
