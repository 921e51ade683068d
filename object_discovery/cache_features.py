"""Write the features of a model's frozen encoder: `python -m object_discovery.cache_features --config dinosaur_coco`.

Takes every flag of training, so that training with the same flags finds the features. A run that was stopped goes on
where it stopped; several at once share the work.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from object_discovery.cli.flags import fail, one_line_errors
from object_discovery.cli.script import ScriptParser
from object_discovery.data import DATASETS
from object_discovery.data.splits import SPLITS
from object_discovery.errors import UserError
from object_discovery.feature_cache.cache import SHARD_SIZE, FeatureCache
from object_discovery.feature_cache.datamodule import choose_device, encoder_of, make_caches, no_encoder
from object_discovery.train import Run, build_model, parse


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: The arguments. None: the process's own.
    """
    warnings.filterwarnings("ignore", module="lightning")
    parser = ScriptParser(
        prog="cache_features.py", description=__doc__, allow_abbrev=False, epilog="and every flag of training"
    )
    parser.add_argument("--splits", default="train,val", help="splits, with commas between (default: train,val)")
    parser.add_argument("--shard_size", type=int, default=SHARD_SIZE, help=f"scenes in a file (default: {SHARD_SIZE})")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bar")
    settings, rest = parser.parse_known_args(argv)
    splits = settings.splits.split(",")
    if not set(splits) <= set(SPLITS):
        fail(f"Expected argument `splits` to be some of {','.join(SPLITS)}, but got {settings.splits!r}")
    if settings.shard_size < 1:
        fail(f"Expected argument `shard_size` to be at least 1, but got {settings.shard_size}")
    with one_line_errors():
        caches = cache_features(parse(rest), splits, settings.shard_size, settings.progress)
        for split, cache in caches.items():
            print(f"{split}: {cache.folder}")


def cache_features(
    run: Run, splits: Sequence[str], shard_size: int = SHARD_SIZE, progress: bool = True
) -> dict[str, FeatureCache]:
    """Write the features that a training run needs.

    Args:
        run: Its settings, see `object_discovery.train.parse`.
        splits: The splits.
        shard_size: Scenes in a file, if the cache is new.
        progress: Show a progress bar on a terminal.

    Returns:
        The cache of each split.

    Raises:
        UserError: If the model has no frozen encoder, or the settings allow no cache.
    """
    if run.data.random_crop is not None:
        raise UserError("Expected argument `random_crop` to be None: random crops cannot be cached")
    data = DATASETS[run.data.dataset](run.data)
    model = build_model(run)
    encoder = encoder_of(model)
    if encoder is None:
        raise no_encoder(run.model_type)
    device = choose_device(run.trainer.accelerator)
    views = 2 if run.data.random_flip else 1
    return make_caches(data, encoder, splits, views=views, shard_size=shard_size, device=device, progress=progress)


if __name__ == "__main__":
    main()
