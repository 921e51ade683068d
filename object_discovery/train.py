"""Train a model: `object-discovery train --model_type sa --dataset tetrominoes`.

Without arguments it trains Slot Attention on generated Tetrominoes with the recommended recipe. A run writes to
`--out`: `params.yaml` (every setting, for `--config`), `metrics.csv`, `checkpoints/{last,best}.ckpt` and `images/`.
The training itself is in :mod:`object_discovery.training`, which takes seconds to import, so that `--help` need not.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from object_discovery.cli.flags import FlagParser, add_flags, apply_config, build, fail, one_line_errors, peek_flag
from object_discovery.configs import read_config
from object_discovery.params import MODEL_PARAMS, DataParams, TrainerParams
from object_discovery.recommended import RECOMMENDED
from object_discovery.training.run import Run, choose_folder

_PRECEDENCE = (
    "A setting comes from the defaults, then from the dataset's recommendation, then from --config, then from the "
    "flags. The flags and defaults below are those of the chosen --model_type and --dataset."
)


def parse(argv: Sequence[str]) -> Run:
    """Parse the settings of a run, see `parse_settings`.

    Args:
        argv: The arguments of `object-discovery train`.

    Raises:
        UserError: If the configuration cannot be read.
        SystemExit: With status 2 and one line, if a flag or a value is wrong.
    """
    return parse_settings(argv, "object-discovery train", "Train a model.")[0]


def parse_settings(
    argv: Sequence[str], prog: str, description: str, add_arguments: Callable[[FlagParser], None] = lambda parser: None
) -> tuple[Run, dict[str, Any]]:
    """Merge the settings of a run: defaults, then the dataset's recommendation, then `--config`, then flags.

    `--resume auto` without `--config` uses the `params.yaml` of the run that it continues.

    Args:
        argv: The arguments.
        prog: The command, as the user types it.
        description: What it does.
        add_arguments: Adds the command's own arguments to the parser.

    Returns:
        The settings of the run, and the values of all flags by name.

    Raises:
        UserError: If the configuration cannot be read.
        SystemExit: With status 2 and one line, if a flag or a value is wrong.
    """
    config_name = peek_flag(argv, "config")
    run, values = _parse_with(config_name, argv, prog, description, add_arguments)
    if config_name is None and run.trainer.resume == "auto":
        settings = choose_folder(run) / "params.yaml"
        if settings.exists():
            return _parse_with(str(settings), argv, prog, description, add_arguments)
    return run, values


def _parse_with(
    config_name: str | None,
    argv: Sequence[str],
    prog: str,
    description: str,
    add_arguments: Callable[[FlagParser], None],
) -> tuple[Run, dict[str, Any]]:
    """Merge a configuration and flags into the defaults."""
    config = read_config(config_name) if config_name else {}
    model_type = peek_flag(argv, "model_type") or str(config.get("model_type", "sa"))
    dataset = peek_flag(argv, "dataset") or str(config.get("dataset", "tetrominoes"))
    for name, value, known in (("model_type", model_type, MODEL_PARAMS), ("dataset", dataset, RECOMMENDED)):
        if value not in known:
            fail(f"Expected argument `{name}` to be one of {', '.join(known)}, but got {value!r}")
    params_class = MODEL_PARAMS[model_type]
    parser = FlagParser(prog, f"{description} {_PRECEDENCE}")
    add_arguments(parser)
    parser.add_argument("--model_type", default="sa", help=f"Model: {', '.join(MODEL_PARAMS)}.")
    parser.add_argument("--config", help="Name of a shipped configuration, or a YAML file.")
    add_flags(parser, TrainerParams, DataParams, params_class, defaults=RECOMMENDED[dataset])
    apply_config(parser, config, config_name or "", model_type)
    values = vars(parser.parse_args(list(argv)))
    run = Run(model_type, build(TrainerParams, values), build(DataParams, values), build(params_class, values))
    return run, values


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    with one_line_errors():
        run = parse(sys.argv[1:] if argv is None else argv)
        from object_discovery.training.fit import train

        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        train(run)


if __name__ == "__main__":
    main()
