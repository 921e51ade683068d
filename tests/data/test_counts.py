from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from object_discovery.data.counts import cached_counts


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "a.h5"
    path.write_text("scenes")
    return path


class Counter:
    """Counts one more at every call."""

    calls = 0

    def __call__(self) -> NDArray[np.int64]:
        self.calls += 1
        return np.array([self.calls, 2, 3])


def test_counts_are_kept(scenes: Path) -> None:
    count = Counter()
    for _ in range(3):
        counts = cached_counts(scenes, "frame", count)
        assert counts.dtype == np.int64
        assert counts.tolist() == [1, 2, 3]
    assert cached_counts(scenes, "crop", count).tolist() == [2, 2, 3]
    assert count.calls == 2


def test_damaged_caches_are_counted_again(scenes: Path) -> None:
    count = Counter()
    cached_counts(scenes, "frame", count)
    (cache,) = scenes.parent.glob("a.h5.*.counts.npy")
    whole = cache.read_bytes()
    for number, damage in enumerate((b"", b"junk", whole[:-3]), 2):
        cache.write_bytes(damage)
        assert cached_counts(scenes, "frame", count).tolist() == [number, 2, 3]
        assert np.load(cache).tolist() == [number, 2, 3]
    for wrong in (np.zeros(3), np.zeros((3, 1), np.int64)):
        np.save(cache, wrong)
        assert cached_counts(scenes, "frame", count)[0] == count.calls


def test_where_nothing_can_be_written_it_still_counts(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("read-only")

    count = Counter()
    monkeypatch.setattr("os.replace", refuse)
    assert cached_counts(scenes, "frame", count).tolist() == [1, 2, 3]
    assert count.calls == 1
    assert [path.name for path in scenes.parent.iterdir() if path.is_file()] == ["a.h5"]
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cached_counts(scenes, "frame", count).tolist() == [2, 2, 3]
