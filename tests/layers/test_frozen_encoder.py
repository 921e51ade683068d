from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from object_discovery.errors import UserError
from object_discovery.layers.frozen_encoder import FrozenEncoder, feature_shape


def make_encoder(name: str = "test_vit", **settings: Any) -> FrozenEncoder:
    return FrozenEncoder(name, **{"weights": "none", "resolution": 64, **settings})


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vit(tmp_path: Path) -> tuple[Any, str]:
    """A transformer with random parameters, normalisation included, and a file with its weights."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    return network, str(tmp_path / "vit.pth")


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("block", [1, 3, None])
def test_features_match_timm(vit: tuple[Any, str], block: int | None, norm: bool) -> None:
    network, file = vit
    encoder = make_encoder(weights=file, block=block, norm=norm)
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        (expected,) = network.get_intermediate_layers((images() - mean) / std, n=[(block or 6) - 1], norm=norm)
    assert expected.shape == (2, 16, 64)  # without the class token
    torch.testing.assert_close(encoder(images()), expected)


def test_last_block_with_and_without_final_normalisation(vit: tuple[Any, str]) -> None:
    network, file = vit
    with torch.no_grad():
        expected = network.forward_features((images() - 0.5) / 0.5)[:, 1:]
    torch.testing.assert_close(make_encoder(weights=file, norm=True)(images()), expected)
    torch.testing.assert_close(network.norm(make_encoder(weights=file)(images())), expected)


def test_features_of_a_convolutional_network_match_timm() -> None:
    encoder = make_encoder("test_efficientnet", block=3)
    assert (encoder.feature_size, encoder.grid) == (32, (8, 8))
    network = timm.create_model("test_efficientnet", num_classes=0, features_only=True).eval()
    network.load_state_dict(encoder.network.state_dict(), strict=False)
    cfg: Any = timm.get_pretrained_cfg("test_efficientnet")
    with torch.no_grad():
        normalised = (images() - torch.tensor(cfg.mean).view(3, 1, 1)) / torch.tensor(cfg.std).view(3, 1, 1)
        expected = network(normalised)[2]
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
def test_feature_shape_needs_no_weights(name: str, resolution: int, expected: tuple[Any, ...]) -> None:
    assert feature_shape(name, resolution)[:3] == expected


def test_backbone_is_unregistered_frozen_and_in_evaluation_mode() -> None:
    encoder = make_encoder()
    assert not encoder.is_loaded
    encoder.train()
    features = encoder(images().requires_grad_())
    assert encoder.is_loaded
    assert not features.requires_grad
    assert not any(module.training for module in encoder.network.modules())
    assert not encoder.state_dict()
    assert not list(encoder.parameters())


def test_backbone_is_cast_with_the_module() -> None:
    for encoder in (make_encoder(), make_encoder().double()):
        if encoder.mean.dtype == torch.float32:
            encoder(images())
            encoder.double()
        assert encoder(images().double()).dtype == torch.float64
        assert all(parameter.dtype == torch.float64 for parameter in encoder.network.parameters())


def test_key_differs_for_different_features(vit: tuple[Any, str]) -> None:
    cfg: Any = timm.get_pretrained_cfg("test_vit")
    key = make_encoder().key()
    description = {
        "encoder": "test_vit",
        "block": 6,
        "norm": False,
        "resolution": 64,
        "mean": list(cfg.mean),
        "std": list(cfg.std),
    }
    assert key == {**description, "weights": key["weights"]}
    assert len(key["weights"]) == 64
    others: list[dict[str, Any]] = [{"seed": 1}, {"block": 5}, {"norm": True}, {"resolution": 32}, {"weights": vit[1]}]
    keys = [key, *(make_encoder(**other).key() for other in others)]
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])
    assert make_encoder(weights=vit[1], resolution=32).key()["weights"] == keys[-1]["weights"]
    assert make_encoder().description() == description


def test_unexpected_weights_raise() -> None:
    expected_hash = make_encoder().key()["weights"]
    message = "trained on features of test_vit with other weights than 'none'"
    encoder = make_encoder()
    encoder.expect(None)
    encoder.expect(expected_hash)
    encoder(images())
    with pytest.raises(UserError, match=message):
        encoder.expect("0" * 64)
    other = make_encoder(seed=1)
    other.expect(expected_hash)
    with pytest.raises(UserError, match=message):  # checked before the weights are loaded
        other.expect("0" * 64)
    with pytest.raises(UserError, match=message):
        other(images())


def test_released_weights_are_loaded_again() -> None:
    encoder = make_encoder()
    features, key = encoder(images()), encoder.key()
    encoder.release()
    assert not encoder.is_loaded
    assert encoder.expected == key["weights"]
    assert torch.equal(encoder(images()), features)


def test_invalid_settings_raise() -> None:
    with pytest.raises(UserError, match=r"`encoder_block` to be from 1 to 6 for test_vit, but got 7"):
        make_encoder(block=7)
    for name, resolution in (("test_vit", 72), ("test_vit", 8), ("test_efficientnet", 65)):
        with pytest.raises(UserError, match=rf"`resolution` to be a multiple of .* of {name}, but got {resolution}: "):
            make_encoder(name, resolution=resolution)
    with pytest.raises(UserError, match=r"`encoder_norm` to be False, as test_efficientnet has no final"):
        make_encoder("test_efficientnet", norm=True).key()
