"""Score a trained model: `object-discovery evaluate --checkpoint FILE [--dataset NAME --data_root PATH]`.

`--baselines true` adds the scores of trivial baselines; `--baseline NAME` scores a baseline without a model.

The dataset and its settings are those of the training run if its `params.yaml` is in the run's folder; flags override
them. Images are loaded at the resolution of the model.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from object_discovery.cli.flags import FlagParser, add_flags, apply_config, build, fail, one_line_errors, peek_flag
from object_discovery.configs import read_config
from object_discovery.errors import UserError
from object_discovery.evaluation.params import EvaluateParams
from object_discovery.files import atomic_write, check_writable
from object_discovery.params import DataParams
from object_discovery.recommended import recommended_settings

_DATA_FIELDS = {field.name for field in dataclasses.fields(DataParams)}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with one_line_errors():
        parser = FlagParser("object-discovery evaluate", "Score a trained model on a split of a dataset.")
        add_flags(parser, EvaluateParams, DataParams)
        defaults = data_defaults(peek_flag(argv, "checkpoint"), peek_flag(argv, "dataset"))
        apply_config(parser, defaults, "params.yaml", "evaluate")
        values = vars(parser.parse_args(argv))
        params, data_params = build(EvaluateParams, values), build(DataParams, values)
        if params.out is not None:
            check_writable(Path(params.out).parent, "out")
            if Path(params.out).is_dir():
                fail(f"Expected argument `out` to be a file, but {params.out} is a folder")
        from object_discovery.evaluation.evaluate import evaluate  # slow: torch and Lightning
        from object_discovery.evaluation.report import print_report

        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        result = evaluate(params, data_params)
        if result is not None:
            print_report(result)
            if params.out is not None:
                with atomic_write(params.out) as temporary:
                    temporary.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def data_defaults(checkpoint: str | None, dataset: str | None) -> dict[str, Any]:
    """Return the defaults of the data flags: the dataset's recommendation, the training run's, the model's resolution.

    Args:
        checkpoint: The checkpoint, or the folder of a training run. None: not given.
        dataset: The dataset. None: not given.

    Returns:
        Values of fields of `DataParams`. Those of the run are excluded if it used another dataset; its limit on the
        test split and its feature cache are always excluded.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        UserError: If the run's `params.yaml` cannot be read, or the dataset is unknown or not given.
    """
    if checkpoint is None:
        recommended = recommended_settings(dataset) if dataset else {}
        return {key: value for key, value in recommended.items() if key in _DATA_FIELDS}
    from object_discovery.models import read_checkpoint  # slow: torch and Lightning
    from object_discovery.models.loading import find_checkpoint

    checkpoint_path = find_checkpoint(checkpoint)
    hyper_parameters = read_checkpoint(checkpoint_path).get("hyper_parameters", {})
    path = next((path for path in _run_params_paths(checkpoint_path) if path.is_file()), None)
    run = read_config(path) if path else {}
    if dataset is None and "dataset" not in run:
        raise UserError("Expected argument `dataset`, as no params.yaml of a training run lies by the checkpoint")
    name = dataset or run["dataset"]
    values = {**recommended_settings(name), **(run if run.get("dataset") == name else {}), "dataset": name}
    values.update({"resolution": hyper_parameters["resolution"]} if "resolution" in hyper_parameters else {})
    return {key: value for key, value in values.items() if key in _DATA_FIELDS - {"test_size", "feature_cache"}}


def _run_params_paths(checkpoint: Path) -> list[Path]:
    """Return where the `params.yaml` of a run may be: above `checkpoints`, or in the folder of a copied checkpoint."""
    folder = checkpoint.absolute().parent
    folders = [folder.parent, folder] if folder.name == "checkpoints" else [folder]
    return [folder / "params.yaml" for folder in folders]


if __name__ == "__main__":
    main()
