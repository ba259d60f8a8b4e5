"""Large sets are observed in chunks: who observes them changes nothing, and the bounds that are stated hold."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from blemish.data.image.modality import Images
from blemish.data.image.preprocess import Preprocess
from blemish.inspection.modelfile import Model
from blemish.learning import observing
from blemish.learning.chunks import Chunk, Observed
from blemish.learning.fit import fit
from blemish.learning.options import FitOptions
from blemish.methods import get, names
from blemish.types import Record
from tests.fakes import SIZE, FakeBackbone, arrays_of, good_image, write_images
from tests.tiny import shortened

MERGEABLE = [n for n in names() if get(n).mergeable() and get(n).needs.source == "pyramid"]

KIND = Images(Preprocess(SIZE))


class Elsewhere:
    """Observes every chunk in a copy of all that it needs, last chunk first, as another machine might."""

    def __init__(self) -> None:
        self.chunks: list[int] = []
        self.warmed: list[int] = []

    def warm(self, chunk: Chunk, records: Sequence[Record]) -> None:
        self.warmed.append(len(records))

    def observe(self, chunk: Chunk, chunks: Sequence[Sequence[Record]]) -> Iterator[Observed]:
        self.chunks = [len(c) for c in chunks]
        done = {}
        for i in reversed(range(len(chunks))):
            copy = pickle.loads(pickle.dumps(chunk))
            done[i] = pickle.loads(pickle.dumps(copy.observe(copy.source(threads=1), chunks[i])))
        return (done[i] for i in range(len(chunks)))


def fitted(records: Sequence[Record], method: str, **more: Any) -> Model:
    method_options = shortened(get(method).brief)  # bits are compared: what they come to does not matter
    options = FitOptions(method=method, backbone="fake", image_size="64x48", calibration="none", options=method_options)
    return fit(records, options, backbone=FakeBackbone(), **more)


@pytest.fixture
def chunks_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "CHUNK", 8)


@pytest.mark.usefixtures("chunks_of_8")
@pytest.mark.parametrize("method", MERGEABLE)
@pytest.mark.slow
def test_where_chunks_are_observed_changes_no_bit(method: str, tmp_path: Path) -> None:
    records = write_images(tmp_path / "good", 20)
    elsewhere = Elsewhere()
    local, remote = fitted(records, method), fitted(records, method, spread=elsewhere)
    learned = 20 - round(20 * get(method).needs.held)
    assert elsewhere.chunks == [8, 8, learned - 16]
    assert local.tensors == remote.tensors
    assert local.meta.data == remote.meta.data
    assert len(local.meta.data.content_ids) == 20


def test_a_set_of_one_chunk_is_only_warmed_elsewhere(tmp_path: Path) -> None:
    records = write_images(tmp_path / "good", 6)
    elsewhere = Elsewhere()
    assert fitted(records, "padim", spread=elsewhere).tensors == fitted(records, "padim").tensors
    assert (elsewhere.warmed, elsewhere.chunks) == ([6], [])


def chunk_of(method: str, **more: Any) -> Chunk:
    cls = get(method)
    return Chunk(cls, cls.Config(**more.pop("options", {})), 0, FakeBackbone(), KIND, "f32", None, **more)


def test_what_another_machine_is_sent_knows_the_decided_categories(tmp_path: Path) -> None:
    records = write_images(tmp_path / "good", 3)
    chunk = chunk_of("padim", categories={r.id: k for k, r in enumerate(records)})
    (batch,) = chunk.source(threads=1).batches(records)
    assert batch.category is not None
    assert batch.category.tolist() == [0, 1, 2]


def test_what_another_machine_is_sent_gives_the_image_to_a_method_that_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = write_images(tmp_path / "good", 2)
    for image in (False, True):
        monkeypatch.setattr(get("padim"), "needs", replace(get("padim").needs, image=image))
        (batch,) = chunk_of("padim").source(threads=1).batches(records)
        assert (batch.x is not None) == image


def test_what_another_machine_sends_back_is_condensed(tmp_path: Path) -> None:
    chunk = chunk_of("patchcore", options={"bank": 4, "pool": 10_000, "level": 0})
    method, seen = chunk.observe(chunk.source(threads=1), write_images(tmp_path / "good", 3))
    assert method._pool.size == 8
    assert len(seen) == 3


def observed(name: str, images: range, **options: object) -> Any:
    cls = get(name)
    backbone = FakeBackbone()
    method = cls(cls.Config(**options), backbone.spec(SIZE), SIZE, 0)
    observing.observe(method, [arrays_of(backbone, [good_image(i) for i in images])])
    return method


def test_merged_statistics_are_those_of_one_pass() -> None:
    whole, first, second = (observed("padim", r) for r in (range(20), range(12), range(12, 20)))
    observing.merge(first, [second])
    for name in ("mean", "covariance"):
        one, merged = getattr(whole._statistics, name)(), getattr(first._statistics, name)()
        np.testing.assert_allclose(merged, one, rtol=1e-4, atol=1e-6 * float(np.abs(one).max()))


def test_a_merged_coreset_covers_every_patch_within_its_radius() -> None:
    options = {"bank": 10, "pool": 60, "level": 0}
    parts = [observed("patchcore", range(i, i + 5), **options) for i in range(0, 20, 5)]
    for part in parts:
        part.condense()
        assert part._pool.size == 20
    observing.merge(parts[0], parts[1:])
    observing.conclude(parts[0])
    bank = parts[0].memory + parts[0].centre
    assert len(bank) == 10
    found = parts[0]._descriptors(arrays_of(FakeBackbone(), [good_image(i) for i in range(20)]))
    reached = cdist(found.reshape(-1, bank.shape[1]), bank).min(1).max()
    assert reached <= parts[0].radius + 1e-3
    assert parts[0].radius < 4 * reached
