"""Write the features of a model's frozen encoder: `object-discovery cache-features --config dinosaur_coco`.

Takes every flag of training, so that training with the same flags finds the features. A run that was stopped goes on
where it stopped; several at once share the work.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from object_discovery.cli.flags import RESUMABLE, FlagParser, fail, one_line_errors
from object_discovery.errors import UserError
from object_discovery.train import parse_settings
from object_discovery.training.run import Run

if TYPE_CHECKING:
    from object_discovery.feature_cache import FeatureCache


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    with one_line_errors(interrupted=RESUMABLE):
        run, values = parse_settings(
            sys.argv[1:] if argv is None else argv,
            "object-discovery cache-features",
            "Store the features of a model's frozen encoder on the disk, so that training need not compute them again "
            "in every epoch. Takes every flag of training, so that training with the same flags finds the features. An "
            "interrupted run continues when it is started again; several at once share the work.",
            _add_arguments,
        )
        shard_size = values["shard_size"]
        if shard_size is not None and shard_size < 1:
            fail(f"Expected argument `shard_size` to be at least 1, but got {shard_size}")
        splits = values["splits"].split(",")
        if not set(splits) <= {"train", "val", "test"}:
            fail(f"Expected argument `splits` to be some of train,val,test, but got {values['splits']!r}")
        warnings.filterwarnings("ignore", module="lightning")
        caches = cache_features(run, splits, shard_size, not values["no_progress"])
        for split, cache in caches.items():
            print(f"{split}: {cache.folder}")


def _add_arguments(parser: FlagParser) -> None:
    parser.add_argument("--splits", default="train,val", help="Splits, separated by commas.")
    parser.add_argument("--shard_size", type=int, help="Scenes in a file. None: 256.")
    parser.add_argument("--no-progress", action="store_true", help="Show no progress bar.")


def cache_features(
    run: Run, splits: Sequence[str], shard_size: int | None = None, progress: bool = True
) -> dict[str, FeatureCache]:
    """Write the features that a training run needs.

    Args:
        run: Its settings, see `object_discovery.train.parse`.
        splits: The splits.
        shard_size: Scenes in a file, if the cache is new. None: 256.
        progress: Show a progress bar on a terminal.

    Returns:
        The cache of each split.

    Raises:
        UserError: If the model has no frozen encoder, or the settings allow no cache.
    """
    from object_discovery.data import DATASETS  # slow: torch and Lightning
    from object_discovery.feature_cache.cache import SHARD_SIZE
    from object_discovery.feature_cache.datamodule import choose_device, encoder_of, make_caches, no_encoder
    from object_discovery.training.trainer import build_model

    if run.data.random_crop is not None:
        raise UserError("Expected argument `random_crop` to be None: random crops cannot be cached")
    data = DATASETS[run.data.dataset](run.data)
    model = build_model(run)
    encoder = encoder_of(model)
    if encoder is None:
        raise no_encoder(run.model_type)
    device = choose_device(run.trainer.accelerator)
    views = 2 if run.data.random_flip else 1
    return make_caches(
        data, encoder, splits, views=views, shard_size=shard_size or SHARD_SIZE, device=device, progress=progress
    )


if __name__ == "__main__":
    main()
