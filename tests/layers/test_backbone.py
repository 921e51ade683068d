import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from object_discovery.errors import CorruptFileError, UserError
from object_discovery.layers.backbone import (
    ALIASES,
    backbone_name,
    build_backbone,
    find_prefix,
    read_weights,
    weights_hash,
)


def weights(seed: int = 3) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in build_backbone("test_vit", 32, "none", seed).state_dict().items()}


@pytest.mark.parametrize("name", sorted(ALIASES.values()))
def test_aliases_are_timm_models_with_pretrained_weights(name: str) -> None:
    cfg: Any = timm.get_pretrained_cfg(name)
    assert f"{cfg.architecture}.{cfg.tag}" == name
    assert cfg.hf_hub_id
    assert cfg.mean == (0.485, 0.456, 0.406)


def test_unknown_backbone_name_raises() -> None:
    with pytest.raises(UserError, match=r"`encoder` to be one of dino_s8, .*but got 'dinov2_s41'; did you mean dinov2"):
        backbone_name("dinov2_s41")
    with pytest.raises(UserError, match=r"but got '!!'$"):
        backbone_name("!!")


def test_random_weights_depend_on_seed_and_keep_global_random_state() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    hashes = [weights_hash(build_backbone("test_vit", 32, "none", seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert hashes[0] == hashes[1] != hashes[2]


def test_weights_hash_ignores_only_resolution_dependent_weights() -> None:
    network = build_backbone("test_vit", 32, "none")
    original_hash = weights_hash(network)
    vit: Any = network
    vit.pos_embed.add_(1)
    assert weights_hash(network) == original_hash
    vit.blocks[1].mlp.fc1.weight[0, 0].add_(1e-4)
    assert weights_hash(network) != original_hash


CHECKPOINT_LAYOUTS: dict[str, Any] = {
    "plain": lambda values: values,
    "data parallel": lambda values: {f"module.{name}": value for name, value in values.items()},
    "nested": lambda values: {"epoch": 3, "state_dict": {f"model.{name}": value for name, value in values.items()}},
    "DINOv2": lambda values: {**values, "mask_token": torch.zeros(1, 64)},
    "teacher": lambda values: {
        "student": {f"module.backbone.{name}": value + 1 for name, value in values.items()},
        "teacher": {**{f"backbone.{name}": value for name, value in values.items()}, "head.weight": torch.ones(3)},
    },
}


@pytest.mark.parametrize("kind", CHECKPOINT_LAYOUTS)
def test_weights_load_from_checkpoints_with_prefixes(kind: str, tmp_path: Path) -> None:
    torch.save(CHECKPOINT_LAYOUTS[kind](weights()), tmp_path / "a.pth")
    network = build_backbone("test_vit", 32, str(tmp_path / "a.pth"))
    assert all(torch.equal(value, weights()[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_load_from_safetensors(tmp_path: Path) -> None:
    save_file({f"backbone.{name}": value for name, value in weights().items()}, tmp_path / "a.safetensors")
    network = build_backbone("test_vit", 32, str(tmp_path / "a.safetensors"))
    assert all(torch.equal(value, weights()[name]) for name, value in network.state_dict().items())


def test_position_embedding_is_interpolated_as_by_timm(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pth")
    ours: Any = build_backbone("test_vit", 64, str(tmp_path / "a.pth"))
    theirs: Any = timm.create_model(
        "test_vit", True, pretrained_cfg_overlay={"file": str(tmp_path / "a.pth")}, num_classes=0, img_size=64
    )
    assert ours.pos_embed.shape == (1, 17, 64)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_blocks_after_the_selected_one_are_pruned_and_optional_in_files(tmp_path: Path) -> None:
    needed = {name: value for name, value in weights().items() if not name.startswith(("blocks.4", "blocks.5", "norm"))}
    torch.save(needed, tmp_path / "a.pth")
    network = build_backbone("test_vit", 32, str(tmp_path / "a.pth"), block=4)
    assert network.state_dict().keys() == needed.keys()
    assert not any(module.training for module in network.modules())
    with pytest.raises(UserError, match=r"2 of \d+ are missing, such as norm\.weight"):
        build_backbone("test_vit", 32, str(tmp_path / "a.pth"), block=4, norm=True)


def test_find_prefix_prefers_most_matching_names() -> None:
    names = dict.fromkeys(["a.x.weight", "b.x.weight", "b.x.bias", "x.other"], 0)
    assert find_prefix(names, ["x.weight", "x.bias"]) == "b."
    assert find_prefix({"y.weight": 0}, ["x.weight"]) == ""


def test_weights_of_another_backbone_raise(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"

    def error_for(values: Any) -> str:
        torch.save(values, path)
        with pytest.raises(UserError, match=r"a\.pth does not contain weights of test_vit") as caught:
            build_backbone("test_vit", 32, str(path))
        return str(caught.value)

    incomplete = weights()
    del incomplete["blocks.2.attn.qkv.weight"]
    count = len(weights())
    assert f"1 of {count} are missing, such as blocks.2.attn.qkv.weight" in error_for(incomplete)
    assert "a.pth does not contain" in error_for({**weights(), "blocks.2.attn.qkv.weight": torch.zeros(2, 2)})
    assert "a.pth does not contain" in error_for({**weights(), "pos_embed": torch.zeros(3)})
    assert f"{count} of {count} are missing" in error_for({"other": torch.zeros(1)})


def test_unreadable_file_of_weights_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a file of weights, but there is no file .*none\.pth"):
        read_weights(tmp_path / "none.pth")
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(CorruptFileError, match="is not a readable file of weights"):
            read_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CorruptFileError, match=r"list\.pth is not a readable file of weights"):
        read_weights(tmp_path / "list.pth")


def test_backbone_that_timm_cannot_build_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise RuntimeError("no such\nsize")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match="timm cannot build test_vit at resolution 17: no such size"):
        build_backbone("test_vit", 17, "none")


class FakeHub:
    """Replacement for the client of the Hugging Face hub and for the connection to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cached: Path | None = None, online: bool = True) -> None:
        self.requested_files: list[str] = []
        self.settings: dict[str, Any] = {}
        create = timm.create_model

        def look_up(repository: str, file: str) -> str | None:
            self.requested_files.append(f"{repository}/{file}")
            return str(cached) if cached and file == cached.name else None

        def open_(address: str, timeout: float) -> None:
            raise urllib.error.HTTPError(address, 404, "none", {}, None) if online else OSError("no connection")  # type: ignore[arg-type]

        def build(name: str, **settings: Any) -> Any:
            self.settings = settings
            if "pretrained_cfg_overlay" not in settings:
                settings = {**settings, "pretrained": False}
            return create(name, **settings)

        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look_up)
        monkeypatch.setattr(urllib.request, "urlopen", open_)
        monkeypatch.setattr(timm, "create_model", build)


def test_uncached_weights_are_requested_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(monkeypatch)
    build_backbone("test_vit.r160_in1k", 32, "hub")
    assert hub.settings == {"pretrained": True, "num_classes": 0, "img_size": 32}
    assert hub.requested_files == [
        f"timm/test_vit.r160_in1k/{file}" for file in ("model.safetensors", "pytorch_model.bin")
    ]


def test_cached_weights_need_no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    head = {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    save_file({**weights(), **head}, tmp_path / "model.safetensors")
    hub = FakeHub(monkeypatch, tmp_path / "model.safetensors", online=False)
    network = build_backbone("test_vit", 32, "hub")
    assert hub.settings["pretrained_cfg_overlay"] == {"file": str(tmp_path / "model.safetensors")}
    assert all(torch.equal(value, weights()[name]) for name, value in network.state_dict().items())


def test_missing_connection_raises_with_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch, online=False)
    with pytest.raises(UserError) as caught:
        build_backbone("vit_small_patch16_224.dino", 224, "hub")
    assert str(caught.value) == (
        "Cannot get the weights of vit_small_patch16_224.dino (no connection): run once where huggingface.co can be "
        "reached, copy its cache (HF_HOME) from a machine that has them, or give a file as `encoder_weights`"
    )
