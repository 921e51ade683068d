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
def test_aliases_are_names_of_timm_with_weights(name: str) -> None:
    cfg: Any = timm.get_pretrained_cfg(name)
    assert f"{cfg.architecture}.{cfg.tag}" == name
    assert cfg.hf_hub_id
    assert cfg.mean == (0.485, 0.456, 0.406)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"`encoder` to be one of dino_s8, .*but got 'dinov2_s41'; did you mean dinov2"):
        backbone_name("dinov2_s41")
    with pytest.raises(UserError, match=r"but got '!!'$"):
        backbone_name("!!")


def test_random_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    hashes = [weights_hash(build_backbone("test_vit", 32, "none", seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_hash_sees_every_weight_but_what_depends_on_the_resolution() -> None:
    network = build_backbone("test_vit", 32, "none")
    found = weights_hash(network)
    own: Any = network
    own.pos_embed.add_(1)
    assert weights_hash(network) == found
    own.blocks[1].mlp.fc1.weight[0, 0].add_(1e-4)
    assert weights_hash(network) != found


NESTED: dict[str, Any] = {
    "plain": lambda values: values,
    "data parallel": lambda values: {f"module.{name}": value for name, value in values.items()},
    "nested": lambda values: {"epoch": 3, "state_dict": {f"model.{name}": value for name, value in values.items()}},
    "authors' of DINOv2": lambda values: {**values, "mask_token": torch.zeros(1, 64)},
    "teacher": lambda values: {
        "student": {f"module.backbone.{name}": value + 1 for name, value in values.items()},
        "teacher": {**{f"backbone.{name}": value for name, value in values.items()}, "head.weight": torch.ones(3)},
    },
}


@pytest.mark.parametrize("kind", NESTED)
def test_weights_are_found_whatever_they_are_called(kind: str, tmp_path: Path) -> None:
    torch.save(NESTED[kind](weights()), tmp_path / "a.pth")
    network = build_backbone("test_vit", 32, str(tmp_path / "a.pth"))
    assert all(torch.equal(value, weights()[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({f"backbone.{name}": value for name, value in weights().items()}, tmp_path / "a.safetensors")
    network = build_backbone("test_vit", 32, str(tmp_path / "a.safetensors"))
    assert all(torch.equal(value, weights()[name]) for name, value in network.state_dict().items())


def test_position_embeddings_are_interpolated_as_by_timm(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "a.pth")
    ours: Any = build_backbone("test_vit", 64, str(tmp_path / "a.pth"))
    theirs: Any = timm.create_model(
        "test_vit", True, pretrained_cfg_overlay={"file": str(tmp_path / "a.pth")}, num_classes=0, img_size=64
    )
    assert ours.pos_embed.shape == (1, 17, 64)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_what_comes_after_the_block_is_left_out_and_need_not_be_in_a_file(tmp_path: Path) -> None:
    needed = {name: value for name, value in weights().items() if not name.startswith(("blocks.4", "blocks.5", "norm"))}
    torch.save(needed, tmp_path / "a.pth")
    network = build_backbone("test_vit", 32, str(tmp_path / "a.pth"), block=4)
    assert network.state_dict().keys() == needed.keys()
    assert not any(module.training for module in network.modules())
    with pytest.raises(UserError, match=r"2 of \d+ are missing, such as norm\.weight"):
        build_backbone("test_vit", 32, str(tmp_path / "a.pth"), block=4, norm=True)


def test_of_several_prefixes_the_fullest_is_taken() -> None:
    names = dict.fromkeys(["a.x.weight", "b.x.weight", "b.x.bias", "x.other"], 0)
    assert find_prefix(names, ["x.weight", "x.bias"]) == "b."
    assert find_prefix({"y.weight": 0}, ["x.weight"]) == ""


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"

    def refused(values: Any) -> str:
        torch.save(values, path)
        with pytest.raises(UserError, match=r"a\.pth does not hold weights of test_vit") as caught:
            build_backbone("test_vit", 32, str(path))
        return str(caught.value)

    lacking = weights()
    del lacking["blocks.2.attn.qkv.weight"]
    assert "1 of 78 are missing, such as blocks.2.attn.qkv.weight" in refused(lacking)
    assert "size mismatch" in refused({**weights(), "blocks.2.attn.qkv.weight": torch.zeros(2, 2)})
    assert "a.pth does not hold" in refused({**weights(), "pos_embed": torch.zeros(3)})
    assert "78 of 78 are missing" in refused({"other": torch.zeros(1)})


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a file of weights, but there is no file .*none\.pth"):
        read_weights(tmp_path / "none.pth")
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(CorruptFileError, match="is no file of weights that can be read"):
            read_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CorruptFileError, match=r"list\.pth is no file of weights"):
        read_weights(tmp_path / "list.pth")


def test_backbones_that_timm_cannot_build_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise RuntimeError("no such\nsize")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match="timm cannot build test_vit at resolution 17: no such size"):
        build_backbone("test_vit", 17, "none")


class Hub:
    """Stands in for the hub's client and for the network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cached: Path | None = None, reached: bool = True) -> None:
        self.asked: list[str] = []
        self.settings: dict[str, Any] = {}
        create = timm.create_model

        def look(repository: str, file: str) -> str | None:
            self.asked.append(f"{repository}/{file}")
            return str(cached) if cached and file == cached.name else None

        def open_(address: str, timeout: float) -> None:
            raise urllib.error.HTTPError(address, 404, "none", {}, None) if reached else OSError("no connection")  # type: ignore[arg-type]

        def build(name: str, **settings: Any) -> Any:
            self.settings = settings
            if "pretrained_cfg_overlay" not in settings:
                settings = {**settings, "pretrained": False}
            return create(name, **settings)

        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", look)
        monkeypatch.setattr(urllib.request, "urlopen", open_)
        monkeypatch.setattr(timm, "create_model", build)


def test_the_hub_is_asked_for_what_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    build_backbone("test_vit.r160_in1k", 32, "hub")
    assert hub.settings == {"pretrained": True, "num_classes": 0, "img_size": 32}
    assert hub.asked == [f"timm/test_vit.r160_in1k/{file}" for file in ("model.safetensors", "pytorch_model.bin")]


def test_cached_weights_need_no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    head = {"head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    save_file({**weights(), **head}, tmp_path / "model.safetensors")
    hub = Hub(monkeypatch, tmp_path / "model.safetensors", reached=False)
    network = build_backbone("test_vit", 32, "hub")
    assert hub.settings["pretrained_cfg_overlay"] == {"file": str(tmp_path / "model.safetensors")}
    assert all(torch.equal(value, weights()[name]) for name, value in network.state_dict().items())


def test_without_connection_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, reached=False)
    with pytest.raises(UserError) as caught:
        build_backbone("vit_small_patch16_224.dino", 224, "hub")
    assert str(caught.value) == (
        "Cannot get the weights of vit_small_patch16_224.dino (no connection): run once where huggingface.co can be "
        "reached, copy its cache (HF_HOME) from a machine that has them, or give a file as `encoder_weights`"
    )
