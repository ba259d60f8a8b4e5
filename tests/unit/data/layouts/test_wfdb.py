"""Annotated recordings: what is anomalous for which task, and who is on which side."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from blemish.data import layouts
from blemish.data.layouts.wfdb import DS1, DS2, PACED, Task, fold, labelled
from blemish.data.modality import Cut
from blemish.errors import ConfigError
from blemish.types import Record
from tests.recordings import RATE, beats, write_beats, write_record

CUT = Cut(4.0)
TASKS: tuple[Task, ...] = get_args(Task)


def recordings(root: Path, symbols: dict[str, str]) -> Path:
    """Four beats of a window of 4 s by name, one symbol each; a space is a missed beat."""
    for k, (name, each) in enumerate(symbols.items()):
        write_record(root, name, beats(len(each), seed=k), leads=("MLII", "V1"))
        at = [(round((s + 0.4) * RATE), symbol) for s, symbol in enumerate(each) if symbol != " "]
        write_beats(root, name, [sample for sample, _ in at], [symbol for _, symbol in at])
    return root


def drawn(records: list[Record]) -> dict[tuple[str, str], str]:
    """Of each window (recording, number) the side, and what it shows where that is anomalous."""
    return {
        (r.path.stem, r.id.split("#")[1][-1]): f"{r.split} {r.defect or 'good'}" for r in records if r.split != "held"
    }


def split(root: Path, task: Task, number: int, count: int, seed: int = 0) -> list[Record]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*paced recordings")
        return fold(root, task, number, count, seed=seed, cut=CUT)


@pytest.mark.parametrize(
    ("symbols", "ectopic", "morphology"),
    [
        ("NNNN", (None, None), (None, None)),
        ("NNVN", ("ventricular", None), (None, "other beats")),
        ("NAAV", ("supraventricular", None), (None, "other beats")),
        ("LLLL", (None, "other beats"), ("left bundle branch block", None)),
        ("NNRN", (None, "other beats"), ("right bundle branch block", None)),
        ("f/NR", ("other", None), ("paced", None)),
        ("ffff", ("other", None), ("paced", None)),
        ("LLLA", ("supraventricular", None), (None, "other beats")),
        ("//V/", ("other", None), (None, "other beats")),
        ("RRRj", (None, "other beats"), (None, "other beats")),
        ("NNNe", (None, "other beats"), (None, "other beats")),
        ("LLQL", ("other", None), (None, "other beats")),
        ("NNN", (None, "few beats"), (None, "few beats")),
        ("LLL", (None, "few beats"), ("left bundle branch block", "few beats")),
    ],
)
def test_beats_say_what_a_window_is(symbols: str, ectopic: Any, morphology: Any) -> None:
    assert labelled(list(symbols), "ectopic") == ectopic
    assert labelled(list(symbols), "morphology") == morphology


def test_the_morphology_of_beats_is_a_split_of_its_own(tmp_path: Path) -> None:
    root = recordings(
        tmp_path,
        {"101": "NNNNNNNV", "109": "LLLLNNNN", "111": "LLLLLLLV", "100": "NNNNNNVN", "107": "////NNNN", "118": "RRRR"},
    )
    records = layouts.index(root, split="morphology", cut=CUT)
    assert drawn(records) == {
        ("101", "0"): "train good",
        ("109", "1"): "train good",
        ("100", "0"): "test good",
        ("111", "0"): "test left bundle branch block",
        ("107", "0"): "test paced",
        ("107", "1"): "test good",
    }
    assert all(r.mask is None for r in records)
    with pytest.warns(UserWarning, match=r"1 paced recordings \(107\)"):
        usual = layouts.index(root, cut=CUT)
    assert {r.path.stem for r in usual} == {"101", "109", "111", "100", "118"}
    assert {r.mask.name for r in usual if isinstance(r.mask, Path)} == {"100.atr", "101.atr", "111.atr"}


@pytest.mark.parametrize("both", [True, False])
def test_nobody_is_learned_from_and_tested(both: bool, tmp_path: Path) -> None:
    """Recordings 201 and 202 are of one person, and lie in different halves."""
    names = ["101", "201", *(["202"] if both else []), "100", "111"]
    root = recordings(tmp_path, {name: "LLLL" if name == "111" else "NNNN" for name in names})
    records = layouts.index(root, split="morphology", cut=CUT)
    sides = {r.path.stem: r.split for r in records}
    assert sides["201"] == ("test" if both else "train")
    assert len({r.unit for r in records if r.path.stem in ("201", "202")}) == 1
    assert {r.path.stem: r.split for r in layouts.index(root, cut=CUT)}["201"] == "train", "as it was published"


def whole(root: Path) -> Path:
    """All of MIT-BIH by name, with normal windows in every recording and others in some."""
    symbols = {name: "NNNNNNVN" for name in sorted(DS1 | DS2)}
    symbols |= {"111": "LLLLNNNN", "118": "RRRRNNNN", **{name: "////NNNN" for name in sorted(PACED)}}
    return recordings(root, symbols)


def test_folds_test_each_recording_once_and_nobody_who_was_learned_from(tmp_path: Path) -> None:
    root, count = whole(tmp_path), 4
    for task in TASKS:
        asked = DS1 | DS2 | (PACED if task == "morphology" else frozenset())
        tested: Counter[str] = Counter()
        for number in range(count):
            records = split(root, task, number, count)
            sides = {side: {r.path.stem for r in records if r.split == side} for side in ("train", "test")}
            assert not sides["train"] & sides["test"]
            assert not sides["train"] & PACED, "a pacemaker is never learned from"
            pair = {"201", "202"}
            assert pair <= sides["train"] or pair <= sides["test"]
            assert all(r.label == 0 for r in records if r.split == "train")
            tested.update(sides["test"])
        assert tested == Counter(asked)


def test_both_tasks_learn_from_the_same_windows(tmp_path: Path) -> None:
    """So that one model serves both."""
    root = whole(tmp_path)
    learned = [[r.id for r in split(root, task, 1, 4) if r.split == "train"] for task in TASKS]
    assert learned[0] == learned[1]
    assert learned[0] != [r.id for r in split(root, TASKS[0], 1, 4, seed=1) if r.split == "train"]


def test_folds_of_other_recordings(tmp_path: Path) -> None:
    """Their names say nothing of persons or pacemakers."""
    root = recordings(tmp_path, {name: "NNNN" for name in ("p1", "p2", "p3", "201", "202", "102")})
    tested: list[str] = []
    for number in range(6):
        records = fold(root, "ectopic", number, 6, cut=CUT)
        tested += [r.path.stem for r in records if r.split == "test"]
        assert sum(r.split == "train" for r in records) == 5
    assert sorted(tested) == ["102", "201", "202", "p1", "p2", "p3"]
    for number, count in ((0, 1), (0, 7), (2, 2), (-1, 2)):
        with pytest.raises(ConfigError, match=f"no fold {number} of {count}"):
            fold(root, "ectopic", number, count, cut=CUT)
    with pytest.raises(ConfigError, match="no split 'morphology'"):
        layouts.index(root, split="morphology", cut=CUT)


def test_a_paced_recording_s_normal_windows_are_on_neither_side_where_it_is_not_tested(tmp_path: Path) -> None:
    root = recordings(tmp_path, {"101": "NNNN", "102": "////NNNN", "103": "NNNN"})
    for number in range(3):
        records = [r for r in fold(root, "morphology", number, 3, cut=CUT) if r.path.stem == "102"]
        assert {r.split for r in records} in ({"test"}, {"held"})
        assert [r.label for r in records] == [1, 0]
