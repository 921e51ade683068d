"""Rules of the house: which way imports point, what is documented, and what may not stand in a file."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import object_discovery
from object_discovery import DataParams, TrainerParams
from object_discovery.cli.flags import FlagParser, add_flags, build
from object_discovery.configs import read_config
from object_discovery.models import MODELS

PACKAGE = Path(object_discovery.__file__).parent
ROOT = Path(__file__).parents[1]

LEAVES = {"configs", "schedules", "discovery", "files", "progress", "recommended"}
"""What imports nothing of ours but errors (and within its own folder)."""
LOW = {
    "configs",
    "progress",
    "layers",
    "metrics",
    "schedules",
    "discovery",
    "visualization",
    "errors",
    "files",
    "params",
    "base_params",
    "recommended",
}
"""What models and data may import."""
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "base_params": {"errors"},
    "params": {"base_params", "errors"},
    **{name: {name, "errors"} for name in LEAVES},
    **{name: {name, "discovery", "errors"} for name in ("layers", "metrics")},
    "visualization": {"visualization", "discovery", "errors", "files"},
    "pretrained": {"pretrained"},
    "download": {"download", "errors", "files", "progress"},
    "models": {"models", *LOW},
    "data": {"data", *LOW},
    "feature_cache": {"feature_cache", "data", *LOW},
    "evaluation": {"evaluation", "feature_cache", "data", "models", *LOW},
    "prediction": {"prediction", "data", "models", *LOW},
    "callbacks": {"callbacks", "models", *LOW},
    "training": {"training", "callbacks", "data", "feature_cache", "models", *LOW},
}
TOP = {
    "__init__",
    "__main__",
    "cli",
    "train",
    "evaluate",
    "predict",
    "benchmark",
    "benchmarks",
    "cache_features",
}
"""What may import everything."""


def imported(tree: ast.AST, module: str) -> Iterator[str]:
    """Name the parts of the package that a module (as `layers.decoder`) imports; `__init__` is the package itself."""
    names = ("object_discovery", *module.split("."))
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(names[: len(names) - node.level]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            parts = [PACKAGE / alias.name for alias in node.names] if source == "object_discovery" else []
            is_part = [path.is_dir() or path.with_suffix(".py").is_file() for path in parts]
            targets = [f"{source}.{path.name}" for path, is_one in zip(parts, is_part, strict=True) if is_one]
            targets += [source] if not parts or not all(is_part) else []
        for target in targets:
            package, *rest = target.split(".")
            if package == "object_discovery":
                yield rest[0] if rest else "__init__"


def wrong_imports(source: str, module: str) -> set[str]:
    """Name the parts of the package that a module imports and may not."""
    part = module.split(".")[0]
    if part in TOP:
        return set()
    assert part in ALLOWED, f"{part} has no place in the house yet: give it one in tests/test_house.py"
    return set(imported(ast.parse(source), module)) - ALLOWED[part]


def modules() -> list[str]:
    return sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    source = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    assert wrong_imports(source, module) == set()


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("base_params", "from object_discovery.params import DataParams", {"params"}),
        ("errors", "import object_discovery.cli as cli", {"cli"}),
        ("layers.decoder", "from object_discovery.params import DataParams", {"params"}),
        ("metrics.ari", "def f():\n    from object_discovery import data", {"data"}),
        ("metrics.ari", "from object_discovery import load, layers", {"__init__", "layers"}),
        ("models.base", "import torch, object_discovery.data.datasets.clevr", {"data"}),
        ("models.gnm.struct_draw", "from ...data import DATASETS", {"data"}),
        ("data.splits", "from ..models.base import read_config", {"models"}),
        ("data.splits", "from .. import models, errors", {"models"}),
        ("data.splits", "from object_discovery.train import main", {"train"}),
        ("discovery", "import object_discovery", {"__init__"}),
        ("layers.decoder", "from .position import PositionEmbedding\nfrom ..errors import UserError", set()),
        ("models.base", "from object_discovery import params\nfrom object_discovery.layers.position import x", set()),
        ("train", "from object_discovery.models import MODELS", set()),
    ],
)
def test_wrong_imports_are_found(module: str, source: str, wrong: set[str]) -> None:
    assert wrong_imports(source, module) == wrong


def test_new_parts_need_a_place() -> None:
    with pytest.raises(AssertionError, match="utils has no place in the house yet"):
        wrong_imports("import torch", "utils")


def constant_docstrings() -> set[str]:
    """Name the module constants of the package that a docstring follows."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, following in itertools.pairwise(body):
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                targets = node.targets if isinstance(node, ast.Assign) else []
                targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("name", object_discovery.__all__)
def test_public_names_are_documented(name: str) -> None:
    value = getattr(object_discovery, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        docstring = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert docstring
        assert inspect.cleandoc(docstring).split("\n", 1)[0].endswith(".")
        methods = vars(value).items() if inspect.isclass(value) else ()
        for method, function in methods:
            if inspect.isfunction(function) and not method.startswith("_"):
                assert inspect.getdoc(getattr(value, method)), f"{name}.{method} has no docstring"
    else:
        assert name in constant_docstrings()


def test_public_names_are_sorted_and_unique() -> None:
    names = object_discovery.__all__
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("_")]


def texts() -> Iterator[tuple[Path, str]]:
    """Read the text files of the repository, without what tools and runs leave there."""
    left_out = {".git", ".venv", "venv", "__pycache__", "runs", "predictions", "wandb", "build", "dist"}
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if any(part in left_out or part.endswith(("_cache", ".egg-info")) for part in parts) or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            yield path, content.decode("utf-8", errors="replace")


def test_no_file_mentions_a_path_of_a_machine() -> None:
    places = [f"/{folder}/" for folder in ("work", "root")]  # put together here, so that this file has none either
    actual = {str(path.relative_to(ROOT)) for path, text in texts() for place in places if place in text}
    read = [path for path, _ in texts()]
    assert Path(__file__) in read
    assert ROOT / "pyproject.toml" in read
    assert actual == set()


CONFIGS = sorted(path.stem for path in (PACKAGE / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_are_flags_of_their_model(name: str) -> None:
    config: dict[str, Any] = read_config(name)
    params_class = MODELS[config.pop("model_type")].params_class
    classes: tuple[type[Any], ...] = (TrainerParams, DataParams, params_class)
    parser = FlagParser()
    add_flags(parser, *classes)
    values = vars(parser.parse_object(config))
    for cls in classes:
        built = dataclasses.asdict(build(cls, values))
        assert {key: value for key, value in built.items() if key in config} == {
            key: value for key, value in config.items() if key in built
        }
    assert config.keys() <= {field.name for cls in classes for field in dataclasses.fields(cls)}


def test_configs_with_an_unknown_flag_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    parser = FlagParser()
    add_flags(parser, DataParams)
    with pytest.raises(SystemExit):
        parser.parse_object({"batch_size": 4, "no_such_flag": 1})
    assert "no_such_flag" in capsys.readouterr().err
