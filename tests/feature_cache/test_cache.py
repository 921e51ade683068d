import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from object_discovery.errors import CorruptFileError, DatasetNotFoundError, UserError
from object_discovery.feature_cache.cache import FeatureCache, find_cache
from tests.feature_cache.tiny_cache import SHARD, make_encoder, write


def test_shards_can_be_read_by_h5py(tmp_path: Path) -> None:
    cache = write(tmp_path)
    with h5py.File(cache.path(1)) as file:
        assert dict(file.attrs)["first"] == SHARD
        assert file["features"].chunks is None
        expected = file["features"][2:3]
    np.testing.assert_array_equal(cache.read([SHARD + 2], [0]).numpy(), expected)


def test_pickling_drops_open_shards(tmp_path: Path) -> None:
    cache = write(tmp_path)
    actual = cache.read([3, 9, 3], [0, 0, 0])
    copy = pickle.loads(pickle.dumps(cache))
    assert copy._shards == {}
    assert torch.equal(copy.read([3, 9, 3], [0, 0, 0]), actual)
    assert torch.equal(actual[0], actual[2])


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    cache = write(tmp_path)
    assert cache.missing(np.arange(14)) == []
    assert cache.missing(np.arange(14), views=2) == [0, 1, 2, 3]
    cache.path(2).unlink()
    assert cache.missing(np.array([0, 9, 13])) == [2]
    with pytest.raises(DatasetNotFoundError, match=r"No such file: .*00002\.h5"):
        FeatureCache.open(cache.folder).read([9], [0])


def test_flipped_bit_is_detected(tmp_path: Path) -> None:
    cache = write(tmp_path)
    shard = cache.shard(0)
    content = bytearray(shard.path.read_bytes())
    content[shard.offset + 5] ^= 1
    shard.path.write_bytes(content)
    cache.read([1], [0])
    with pytest.raises(CorruptFileError, match="the features of scene 0 are damaged: delete the file, cache again"):
        cache.read([0], [0])


def test_shards_of_another_cache_are_refused(tmp_path: Path) -> None:
    cache = write(tmp_path)
    cache.path(0).write_bytes(cache.path(1).read_bytes())
    with pytest.raises(CorruptFileError, match=r"00000\.h5: expected first 0, but got 4: delete the file"):
        cache.shard(0)
    content = cache.path(1).read_bytes()
    cache.path(1).write_bytes(content[: len(content) - 2000])
    with pytest.raises(CorruptFileError, match=r"00001\.h5: .*(cannot be opened|damaged)"):
        cache.shard(1)


def test_find_cache_accepts_the_cache_folder_or_its_parent(tmp_path: Path) -> None:
    cache = write(tmp_path)
    for root in (cache.folder, tmp_path / "features"):
        assert find_cache(root, cache.key).folder == cache.folder
    assert find_cache(tmp_path / "features", {**cache.key, "weights": None}).folder == cache.folder


def test_other_keys_are_refused_with_their_differences(tmp_path: Path) -> None:
    cache = write(tmp_path)
    other = {**cache.key, "block": 3, "weights": "f" * 64}
    expected = f"block 2 instead of 3, weights {cache.key['weights'][:12]}... instead of ffffffffffff..."
    with pytest.raises(UserError, match=f"are of another kind: {expected}$"):
        find_cache(tmp_path / "features", other)
    write(tmp_path, encoder=make_encoder(block=3))
    with pytest.raises(UserError, match=r"are of another kind: weights \w{12}\.\.\. instead of ffffffffffff\.\.\.$"):
        find_cache(tmp_path / "features", other)


def test_caches_of_several_weights_need_the_folder_of_one(tmp_path: Path) -> None:
    cache = write(tmp_path)
    FeatureCache.create(tmp_path / "features", {**cache.key, "weights": "0" * 64})
    with pytest.raises(UserError, match="features of several weights: name the folder of one"):
        find_cache(tmp_path / "features", {**cache.key, "weights": None})
    assert find_cache(cache.folder, {**cache.key, "weights": None}).folder == cache.folder


def test_missing_caches_and_damaged_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Expected a feature cache in .*, but found none: write one with"):
        find_cache(tmp_path, {})
    with pytest.raises(UserError, match=r"Expected a cache of features, but there is no .*key\.json"):
        FeatureCache.open(tmp_path)
    for content in ("", "[]", "{}", '{"format": 1}'):
        (tmp_path / "key.json").write_text(content)
        with pytest.raises(CorruptFileError, match="expected the key of a feature cache, but it is damaged"):
            FeatureCache.open(tmp_path)
    newer = {"format": "object_discovery_features", "version": 99, "key": {}, "shard_size": 1}
    (tmp_path / "key.json").write_text(json.dumps(newer))
    with pytest.raises(UserError, match="newer version of the library"):
        FeatureCache.open(tmp_path)
