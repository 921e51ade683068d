"""The settings of a training run, and its folder."""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from object_discovery.errors import UserError
from object_discovery.files import atomic_write
from object_discovery.params import DataParams, ModelParams, TrainerParams

FOLDER_VARIABLE = "OBJECT_DISCOVERY_OUT"
"""Environment variable by which the first process of a run tells the others its folder."""


@dataclass
class Run:
    """The settings of a training run, merged from defaults, configuration and flags."""

    model_type: str
    """Name of the model, a key of `object_discovery.params.MODEL_PARAMS`."""
    trainer: TrainerParams
    """How long, where and how precisely to train."""
    data: DataParams
    """The dataset."""
    model: ModelParams
    """The hyperparameters of the model."""

    def flat(self) -> dict[str, Any]:
        """Return every setting by the name of its flag, as a configuration; `resume` is None."""
        settings = {**asdict(self.trainer), **asdict(self.data), **asdict(self.model)}
        return {"model_type": self.model_type, **settings, "resume": None}


def choose_folder(run: Run) -> Path:
    """Choose the folder of a run; all processes of a run choose the same.

    An `out` other than the default is used as it is. The default is numbered where the folder exists, and
    `--resume auto` chooses the latest.

    Args:
        run: The settings.

    Raises:
        UserError: If something else than the known names is in braces.
    """
    if FOLDER_VARIABLE in os.environ:
        return Path(os.environ[FOLDER_VARIABLE])
    params = run.trainer
    try:
        base = params.out.format(model_type=run.model_type, dataset=run.data.dataset, seed=params.seed)
    except (LookupError, ValueError) as error:
        known = "{model_type}, {dataset} and {seed}"
        raise UserError(f"Expected argument `out` to have {known} in braces only, but got {params.out!r}") from error
    if params.out != TrainerParams.out:
        return Path(base)
    numbered = (Path(base if number == 1 else f"{base}_{number}") for number in itertools.count(1))
    existing = list(itertools.takewhile(Path.exists, numbered))
    if existing and params.resume == "auto":
        return existing[-1]
    first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0  # only this process writes
    return Path(f"{base}_{len(existing) + 1}") if existing and first else Path(base)


def prepare_folder(run: Run, out: Path) -> None:
    """Create the folder of a run and write `params.yaml` into it; for the first process only.

    Args:
        run: The settings.
        out: The folder.

    Raises:
        UserError: If the folder holds another run that is not resumed.
        OSError: If it cannot be written.
    """
    if run.trainer.resume is None and (out / "checkpoints" / "last.ckpt").exists():
        raise UserError(f"{out} holds a run already: add --resume auto to continue it, or choose another --out")
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "params.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(run.flat(), sort_keys=False))
