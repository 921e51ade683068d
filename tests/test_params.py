import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from object_discovery import base_params, params
from object_discovery.params import (
    DataParams,
    GNMParams,
    ModelParams,
    SetPredictionParams,
    SLATEParams,
    SlotAttentionParams,
    TrainerParams,
)

CLASSES = [value for value in vars(params).values() if inspect.isclass(value) and dataclasses.is_dataclass(value)]

AT_LEAST_ONE: dict[type[Any], list[str]] = {
    GNMParams: ["grid", "hidden_size", "what_size", "background_size", "global_size", "global_steps"],
    SLATEParams: [
        "patience",
        "slot_size",
        "mlp_size",
        "num_iterations",
        "num_heads",
        "neumann_terms",
        "decoder_blocks",
        "decoder_heads",
    ],
    SetPredictionParams: ["slot_size", "mlp_size", "head_size", "num_iterations", "encoder_kernel"],
    DataParams: ["resolution", "batch_size", "train_size", "val_size", "test_size"],
    TrainerParams: ["max_steps", "num_nodes", "val_interval", "log_interval"],
    ModelParams: ["resolution", "num_slots", "half_life", "decay_steps"],
    SlotAttentionParams: [
        "resolution",
        "num_slots",
        "slot_size",
        "mlp_size",
        "num_iterations",
        "num_heads",
        "neumann_terms",
        "decoder_final_stride",
        "decoder_final_kernel",
        "broadcast_size",
    ],
}
_NEEDED: dict[str, dict[str, Any]] = {
    name: {"slot_centric": False} for name in ("decoder_final_stride", "decoder_final_kernel", "broadcast_size")
}
"""Other settings that a field needs."""
AT_LEAST_ZERO: dict[type[Any], list[str]] = {
    GNMParams: ["forced_alpha_steps"],
    SLATEParams: ["tau_steps", "dvae_steps"],
    SetPredictionParams: ["coordinate_weight", "position_frequencies"],
    DataParams: ["max_objects", "min_objects", "eval_max_objects", "num_workers", "data_seed"],
    TrainerParams: ["seed", "num_pictures"],
    ModelParams: ["warmup_steps"],
    SlotAttentionParams: ["warmup_steps", "tolerance", "noise_steps", "position_frequencies"],
}


def pairs(table: dict[type[Any], list[str]]) -> list[tuple[type[Any], str]]:
    return [(cls, name) for cls, names in table.items() for name in names]


@pytest.mark.parametrize(("cls", "name"), pairs(AT_LEAST_ONE))
def test_value_below_one_raises(cls: type[Any], name: str) -> None:
    assert getattr(cls(**{name: 1, **_NEEDED.get(name, {})}), name) == 1
    for value in (0, -3):
        with pytest.raises(ValueError, match=f"^Expected argument `{name}` to be at least 1, but got {value}$"):
            cls(**{name: value})


@pytest.mark.parametrize(("cls", "name"), pairs(AT_LEAST_ZERO))
def test_value_below_zero_raises(cls: type[Any], name: str) -> None:
    assert getattr(cls(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"^Expected argument `{name}` to be at least 0, but got -1$"):
        cls(**{name: -1})


@pytest.mark.parametrize("cls", CLASSES)
def test_none_is_valid_where_the_type_is_optional(cls: type[Any]) -> None:
    optional = {field.name: None for field in dataclasses.fields(cls) if "None" in str(field.type)}
    assert {name: getattr(cls(**optional), name) for name in optional} == optional


@pytest.mark.parametrize("value", [0.0, -1e-4, float("nan")])
def test_learning_rate_and_clip_norm_must_be_positive(value: float) -> None:
    with pytest.raises(ValueError, match="`lr` to be positive, but got"):
        ModelParams(lr=value)
    with pytest.raises(ValueError, match="`clip_norm` to be positive or None, but got"):
        ModelParams(clip_norm=value)


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (cls, name)
        for cls in CLASSES
        for name, hint in get_type_hints(cls).items()
        if any(get_origin(part) is Literal for part in (hint, *get_args(hint)))
    ],
)
def test_unknown_choice_raises(cls: type[Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"^Expected argument `{name}` to be one of .*, but got 'no_such'$"):
        cls(**{name: "no_such"})


def test_norm_eps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="`norm_eps` to be positive, but got 0"):
        SlotAttentionParams(norm_eps=0)


def test_num_heads_not_dividing_slot_size_raises() -> None:
    assert SlotAttentionParams(slot_size=12, num_heads=4).num_heads == 4
    with pytest.raises(ValueError, match="`num_heads` to be a divisor of 12, but got 5"):
        SlotAttentionParams(slot_size=12, num_heads=5)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dvae_lr", 0.0, "positive"),
        ("tau_start", 0.0, "positive"),
        ("tau_end", -0.1, "positive"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("attention_dropout", -0.1, r"in \[0, 1\)"),
        ("codebook_size", 1, "at least 2"),
        ("model_size", 0, "at least 1"),
        ("num_heads", 5, "a divisor of 192"),
        ("decoder_heads", 5, "a divisor of 192"),
    ],
)
def test_slate_value_out_of_range_raises(name: str, value: float, expected: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` to be {expected}, but got {value}"):
        SLATEParams(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("channels", "strides"), [([8, 8], [1]), ([8], [1, 1]), ([8], None), (None, [1]), ([], []), ([], None)]
)
def test_channels_and_strides_of_unequal_length_raise(
    part: str, channels: list[int] | None, strides: list[int] | None
) -> None:
    settings: dict[str, Any] = {f"{part}_channels": channels, f"{part}_strides": strides}
    with pytest.raises(ValueError, match=f"`{part}_strides` to be as long as {part}_channels"):
        SlotAttentionParams(**settings)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize(("channels", "strides"), [([8, 0], [1, 1]), ([8, 8], [1, 0]), ([8, -1], [1, 1])])
def test_channels_and_strides_below_one_raise(part: str, channels: list[int], strides: list[int]) -> None:
    settings: dict[str, Any] = {f"{part}_channels": channels, f"{part}_strides": strides}
    with pytest.raises(ValueError, match=f"`{part}_channels` to be at least 1 each"):
        SlotAttentionParams(**settings)


def test_encoder_layers_of_set_prediction_are_checked() -> None:
    with pytest.raises(ValueError, match="`encoder_strides` to be as long as encoder_channels"):
        SetPredictionParams(encoder_channels=[8])
    with pytest.raises(ValueError, match="`encoder_channels` to be at least 1 each"):
        SetPredictionParams(encoder_channels=[0], encoder_strides=[1])


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_valid_plain_values(cls: type[Any]) -> None:
    # checkpoints store them, and are loaded with weights_only=True
    for name, value in dataclasses.asdict(cls()).items():
        assert isinstance(value, int | float | str | bool | list | None), name


def test_every_hyperparameter_has_a_docstring() -> None:
    texts = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in (base_params, params)]
    classes = [node for text in texts for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    assert {node.name for node in classes} == {cls.__name__ for cls in CLASSES}
    for node in classes:
        for field, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                docstring = following.value if isinstance(following, ast.Expr) else None
                assert isinstance(docstring, ast.Constant), f"{node.name}.{ast.unparse(field.target)} has no docstring"
                assert str(docstring.value).rstrip().endswith((".", ")"))


def test_shared_fields_have_equal_types() -> None:
    types: dict[str, str] = {}
    for cls in CLASSES:
        for field in dataclasses.fields(cls):
            assert types.setdefault(field.name, str(field.type)) == str(field.type), field.name
