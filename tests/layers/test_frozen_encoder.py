from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from object_discovery.errors import UserError
from object_discovery.layers.frozen_encoder import FrozenEncoder, feature_shape


def make(name: str = "test_vit", **settings: Any) -> FrozenEncoder:
    return FrozenEncoder(name, **{"weights": "none", "resolution": 64, **settings})


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vit(tmp_path: Path) -> tuple[Any, str]:
    """A transformer whose parts all matter, and a file with its weights."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    return network, str(tmp_path / "vit.pth")


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("block", [1, 3, None])
def test_features_are_those_of_timm(vit: tuple[Any, str], block: int | None, norm: bool) -> None:
    network, file = vit
    encoder = make(weights=file, block=block, norm=norm)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        (expected,) = network.get_intermediate_layers((images() - mean) / std, n=[(block or 6) - 1], norm=norm)
    assert expected.shape == (2, 16, 64)  # without the class token
    torch.testing.assert_close(encoder(images()), expected)


def test_the_last_block_before_and_after_the_last_normalisation(vit: tuple[Any, str]) -> None:
    network, file = vit
    with torch.no_grad():
        expected = network.forward_features((images() - 0.5) / 0.5)[:, 1:]
    torch.testing.assert_close(make(weights=file, norm=True)(images()), expected)
    torch.testing.assert_close(network.norm(make(weights=file)(images())), expected)


def test_stages_of_convolutional_networks() -> None:
    encoder = make("test_efficientnet", block=3)
    assert (encoder.feature_size, encoder.grid) == (32, (8, 8))
    whole = timm.create_model("test_efficientnet", num_classes=0, features_only=True).eval()
    whole.load_state_dict(encoder.network.state_dict(), strict=False)
    cfg: Any = timm.get_pretrained_cfg("test_efficientnet")
    with torch.no_grad():
        normalised = (images() - torch.tensor(cfg.mean).view(3, 1, 1)) / torch.tensor(cfg.std).view(3, 1, 1)
        expected = whole(normalised)[2]
    torch.testing.assert_close(encoder(images()), expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("name", "resolution", "expected"),
    [
        ("vit_small_patch8_224.dino", 224, (12, 384, (28, 28))),
        ("vit_base_patch16_224.dino", 224, (12, 768, (14, 14))),
        ("vit_small_patch14_dinov2.lvd142m", 224, (12, 384, (16, 16))),
        ("vit_base_patch14_reg4_dinov2.lvd142m", 224, (12, 768, (16, 16))),
        ("vit_small_patch16_dinov3.lvd1689m", 256, (12, 384, (16, 16))),
        ("tf_efficientnet_lite0", 224, (5, 320, (7, 7))),
    ],
)
def test_shapes_are_known_without_weights(name: str, resolution: int, expected: tuple[Any, ...]) -> None:
    assert feature_shape(name, resolution)[:3] == expected


def test_the_backbone_is_hidden_frozen_and_in_evaluation_mode() -> None:
    encoder = make()
    assert not encoder.is_loaded
    encoder.train()
    features = encoder(images().requires_grad_())
    assert encoder.is_loaded
    assert not features.requires_grad
    assert not any(module.training for module in encoder.network.modules())
    assert not encoder.state_dict()
    assert not list(encoder.parameters())


def test_the_backbone_follows_the_module() -> None:
    for encoder in (make(), make().double()):
        if encoder.mean.dtype == torch.float32:
            encoder(images())
            encoder.double()
        assert encoder(images().double()).dtype == torch.float64
        assert all(parameter.dtype == torch.float64 for parameter in encoder.network.parameters())


def test_the_key_tells_features_apart(vit: tuple[Any, str]) -> None:
    key = make().key()
    assert key == {
        "encoder": "test_vit", "block": 6, "norm": False, "resolution": 64, "mean": [0.5] * 3, "std": [0.5] * 3,
        "weights": key["weights"], **{name: key[name] for name in key.keys() - {"encoder", "block", "norm"}},
    }  # fmt: skip
    assert len(key["weights"]) == 64
    others: list[dict[str, Any]] = [{"seed": 1}, {"block": 5}, {"norm": True}, {"resolution": 32}, {"weights": vit[1]}]
    keys = [key, *(make(**other).key() for other in others)]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    assert make(weights=vit[1], resolution=32).key()["weights"] == keys[-1]["weights"]
    assert make().description() == {name: value for name, value in key.items() if name != "weights"}


def test_other_weights_than_expected_are_refused() -> None:
    right, message = make().key()["weights"], "trained on features of other weights of test_vit than 'none' gives"
    encoder = make()
    encoder.expect(None)
    encoder.expect(right)
    encoder(images())
    with pytest.raises(UserError, match=message):
        encoder.expect("0" * 64)
    other = make(seed=1)
    other.expect(right)
    with pytest.raises(UserError, match=message):  # those of a feature cache, say, before any are loaded
        other.expect("0" * 64)
    with pytest.raises(UserError, match=message):
        other(images())


def test_weights_that_were_released_are_loaded_again() -> None:
    encoder = make()
    before, key = encoder(images()), encoder.key()
    encoder.release()
    assert not encoder.is_loaded
    assert encoder.expected == key["weights"]
    assert torch.equal(encoder(images()), before)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"`encoder_block` to be from 1 to 6 for test_vit, but got 7"):
        make(block=7)
    for name, resolution in (("test_vit", 72), ("test_vit", 8), ("test_efficientnet", 65)):
        with pytest.raises(UserError, match=rf"`resolution` to be a multiple of .* of {name}, but got {resolution}: "):
            make(name, resolution=resolution)
    with pytest.raises(UserError, match=r"`encoder_norm` to be False, as test_efficientnet has no last"):
        make("test_efficientnet", norm=True).key()
