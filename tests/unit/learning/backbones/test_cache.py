"""The feature cache: same values or none, whatever happens to its files and whoever else writes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blemish.errors import ConfigError
from blemish.learning.backbones.cache import FeatureCache, default_root, feature_key
from blemish.types import FeatureSpec

SPEC = FeatureSpec((0, 1), (3, 5), ((6, 8), (3, 4)))
ENTRY = 16 + 4 * SPEC.values


def maps_of(seed: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    return tuple(
        generator.standard_normal((c, *g)).astype(np.float32) for c, g in zip(SPEC.channels, SPEC.grids, strict=True)
    )


def key_of(seed: int) -> str:
    return feature_key(str(seed).encode(), {"size": [48, 64]}, "net@1", "openvino-f32")


def same(got: tuple[np.ndarray, ...] | None, seed: int) -> bool:
    return got is not None and all(np.array_equal(a, b) for a, b in zip(got, maps_of(seed), strict=True))


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path)


def file_of(cache: FeatureCache, seed: int) -> Path:
    return cache.root / key_of(seed)[:2] / f"{key_of(seed)}.feat"


def test_a_hit_has_the_same_values(cache: FeatureCache) -> None:
    assert cache.get(key_of(0), SPEC) is None
    cache.put(key_of(0), maps_of(0))
    assert same(cache.get(key_of(0), SPEC), 0)
    assert cache.get(key_of(1), SPEC) is None


def test_what_is_read_is_mapped_and_cannot_be_changed(cache: FeatureCache) -> None:
    cache.put(key_of(0), maps_of(0))
    got = cache.get(key_of(0), SPEC)
    assert got is not None
    for level in got:
        assert level.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            level[0, 0, 0] = 1
        base: object = level
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)


BASE = (b"bytes of a file", {"size": [48, 64], "white_float": 1.0}, "net@1/0,1", "openvino-f32")


@pytest.mark.parametrize(("place", "other"), [
    (0, b"bytes of a filf"), (0, b""), (1, {"size": [64, 48], "white_float": 1.0}),
    (1, {"size": [48, 64], "white_float": 2.0}), (2, "net@2/0,1"), (2, "net@1/0,2"), (3, "openvino-bf16"),
])  # fmt: skip
def test_everything_that_changes_features_changes_the_key(place: int, other: object) -> None:
    changed = [*BASE]
    changed[place] = other  # type: ignore[call-overload]
    assert feature_key(*BASE) == feature_key(*BASE)
    assert feature_key(*changed) != feature_key(*BASE)  # type: ignore[arg-type]


def test_the_order_of_options_does_not_change_the_key() -> None:
    turned = dict(reversed(BASE[1].items()))
    assert feature_key(BASE[0], turned, *BASE[2:]) == feature_key(*BASE)


@pytest.mark.parametrize("length", [0, 1, 15, 16, ENTRY - 1, ENTRY + 4])
def test_an_entry_of_another_length_is_dropped(cache: FeatureCache, length: int) -> None:
    cache.put(key_of(0), maps_of(0))
    path = file_of(cache, 0)
    path.write_bytes((path.read_bytes() + b"\0" * 8)[:length])
    assert cache.get(key_of(0), SPEC) is None
    cache.put(key_of(0), maps_of(0))
    assert same(cache.get(key_of(0), SPEC), 0)


def test_a_flipped_bit_is_never_read_as_a_value(cache: FeatureCache) -> None:
    cache.put(key_of(0), maps_of(0))
    path = file_of(cache, 0)
    data = path.read_bytes()
    generator = random.Random(0)
    for place in {0, 8, 16, ENTRY - 1, *generator.sample(range(ENTRY), 60)} - set(range(12, 16)):  # 4 unused bytes
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        assert cache.get(key_of(0), SPEC) is None
        assert not path.exists()


def test_an_entry_for_another_shape_is_dropped(cache: FeatureCache) -> None:
    cache.put(key_of(0), maps_of(0))
    assert cache.get(key_of(0), FeatureSpec((0,), (3,), ((6, 8),))) is None


def test_an_entry_that_another_process_drops_while_it_is_read(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(key_of(0), maps_of(0))
    real = os.utime

    def late(path: Path) -> None:
        path.unlink()
        real(path)

    monkeypatch.setattr(os, "utime", late)
    assert same(cache.get(key_of(0), SPEC), 0)


def test_a_cache_that_another_process_clears_while_it_is_written(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def late(source: str, target: Path) -> None:
        assert FeatureCache(cache.root.parent).clear() == 1
        real(source, target)

    monkeypatch.setattr(os, "replace", late)
    cache.put(key_of(0), maps_of(0))
    assert cache.get(key_of(0), SPEC) is None


def test_a_failed_write_leaves_nothing(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="No space"):  # slower from now on, but no reason to lose the run
        cache.put(key_of(0), maps_of(0))
    assert [p for p in cache.root.rglob("*") if p.is_file()] == []


def _write_and_read(root: Path, rounds: int) -> None:
    cache = FeatureCache(root)
    for _ in range(rounds):
        for seed in range(20):
            got = cache.get(key_of(seed), SPEC)
            assert got is None or same(got, seed)
            cache.put(key_of(seed), maps_of(seed))


def test_two_processes_write_the_same_keys(cache: FeatureCache) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_and_read, args=(cache.root.parent, 15)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert all(same(cache.get(key_of(seed), SPEC), seed) for seed in range(20))
    assert cache.describe()["entries"] == 20
    assert list(cache.root.rglob("*.tmp")) == []


_ENDLESS = """
import os, sys, time
from pathlib import Path
from blemish.learning.backbones.cache import FeatureCache
os.replace = lambda *_: (print("ready", flush=True), time.sleep(60))
import numpy as np
FeatureCache(Path(sys.argv[1])).put("ab" * 32, [np.zeros(9, np.float32)])
"""


def test_a_killed_writer_leaves_only_what_clear_removes(cache: FeatureCache) -> None:
    cache.put(key_of(0), maps_of(0))
    with subprocess.Popen([sys.executable, "-c", _ENDLESS, cache.root.parent], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        writer.send_signal(signal.SIGKILL)
    left = [p.suffix for p in cache.root.rglob("*") if p.is_file()]
    assert sorted(left) == [".feat", ".tmp"]
    assert cache.describe()["entries"] == 1
    assert same(cache.get(key_of(0), SPEC), 0)
    assert cache.clear() == 2
    assert cache.describe() == {"folder": str(cache.root), "entries": 0, "bytes": 0, "limit": cache.limit}


def test_the_limit_drops_what_was_used_longest_ago(cache: FeatureCache) -> None:
    for seed in range(4):
        cache.put(key_of(seed), maps_of(seed))
        os.utime(file_of(cache, seed), (1000 + seed, 1000 + seed))
    assert same(cache.get(key_of(0), SPEC), 0)  # now the one that was used last
    assert cache.trim(2 * ENTRY) == 2
    kept = [seed for seed in range(4) if cache.get(key_of(seed), SPEC) is not None]
    assert kept == [0, 3]


def test_the_limit_is_looked_at_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish.learning.backbones.cache._TRIM_EVERY", 4)
    cache = FeatureCache(tmp_path, limit=3 * ENTRY)
    for seed in range(8):
        cache.put(key_of(seed), maps_of(seed))
    assert cache.describe()["bytes"] == 3 * ENTRY
    assert cache.trim() == 0


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path / "own"))
    assert default_root() == tmp_path / "own"
    monkeypatch.delenv("BLEMISH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "blemish"


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert FeatureCache(tmp_path).limit == 20 * 2**30
    monkeypatch.setenv("BLEMISH_CACHE_GIB", "0.5")
    assert FeatureCache(tmp_path).limit == 2**29
    for bad in ("much", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("BLEMISH_CACHE_GIB", bad)
        with pytest.raises(ConfigError, match="BLEMISH_CACHE_GIB"):
            FeatureCache(tmp_path)
