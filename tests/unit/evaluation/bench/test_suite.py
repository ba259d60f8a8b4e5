"""Suites: what a file says, what is refused, and which cells come of it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from blemish.errors import ConfigError, DataError
from blemish.evaluation.bench import cell as cells
from blemish.evaluation.bench import suite
from blemish.methods import get, names
from tests.fakes import write_mvtec

BASE = """
name = "small"
methods = ["padim"]
[[data]]
name = "parts"
source = "parts"
"""


def read(folder: Path, text: str) -> suite.Suite:
    (folder / "suite.toml").write_text(text, encoding="utf-8")
    return suite.read(folder / "suite.toml")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with a data set of two categories and one of one."""
    for name in ("parts/bolt", "parts/nut", "tile"):
        write_mvtec(tmp_path / name, train=3, test=2)
    return tmp_path


def titles(chosen: suite.Suite) -> list[str]:
    return [cell.title for cell in chosen.cells()]


def test_all_means_every_method_of_images(two: Path) -> None:
    chosen = read(two, BASE.replace('["padim"]', '["all"]'))
    listed = [e.label for e in chosen.entries]
    assert listed == [name for name in names() if get(name).needs.source in ("pyramid", "image")]
    assert len(listed) > 9


def test_single_makes_a_cell_per_category_and_multi_one_for_all(two: Path) -> None:
    assert titles(read(two, BASE)) == ["parts: bolt · padim · seed 0", "parts: nut · padim · seed 0"]
    both = read(two, 'settings = ["single", "multi"]\n' + BASE)
    assert titles(both)[-1] == "parts: all in one · padim · seed 0"
    last = list(both.cells())[-1]
    assert {r.group for r in last.records()} == {"bolt", "nut"}
    assert {r.group for r in next(iter(both.cells())).records()} == {"bolt"}


def test_sets_joined_become_categories(two: Path) -> None:
    text = BASE + '[[data]]\nname = "tile"\nsource = "tile"\n[[data]]\nname = "joined"\nof = ["parts", "tile"]\n'
    chosen = read(two, 'settings = ["single", "multi"]\n' + text)
    joined = [c for c in chosen.cells() if c.data.name == "joined"]
    assert [c.setting for c in joined] == ["multi"]
    assert {r.group for r in joined[0].records()} == {"parts", "tile"}
    with pytest.raises(ConfigError, match="is made of 'gone'"):
        list(read(two, text.replace('"parts", "tile"', '"gone"')).cells())


def test_options_seeds_and_rows_of_their_own(two: Path) -> None:
    text = "seeds = [3, 4]\n" + BASE.replace("parts", "tile")
    text += '[[method]]\nname = "padim"\nlabel = "fewer"\noptions = { channels = 5 }\nfirst_seed_only = true\n'
    found = list(read(two, text).cells())
    assert [(c.method.label, c.seed) for c in found] == [("padim", 3), ("fewer", 3), ("padim", 4)]
    assert found[1].options["options"] == {"channels": 5}
    assert found[0].options["calibration"] == "none"


def test_a_model_of_one_category_may_have_other_options(two: Path) -> None:
    text = 'settings = ["single", "multi"]\n' + BASE.replace('methods = ["padim"]', "methods = []")
    text += '[[method]]\nname = "padim"\noptions = { channels = 5 }\nalone = { channels = 7 }\n'
    found = {c.setting: (c.options["options"], c.alone) for c in read(two, text).cells()}
    assert found == {"single": ({"channels": 7}, {"channels": 7}), "multi": ({"channels": 5}, {})}
    with pytest.raises(ConfigError, match="unknown option 'chanels'"):
        read(two, text.replace("alone = { channels", "alone = { chanels"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[[data]]", "metods = 1\n[[data]]"), "unknown key 'metods'"),
        (('"padim"', '"pdim"'), "no method 'pdim'"),
        (('source = "parts"', 'sorce = "parts"'), "unknown option 'sorce'"),
        (('source = "parts"', ""), "needs either a source"),
        (('methods = ["padim"]', "methods = []"), "at least one method"),
        (('methods = ["padim"]', 'methods = ["padim", "padim"]'), "is listed twice"),
        (("[[data]]", "[fit]\nseed = 1\n[[data]]"), "stands in \\[fit\\]"),
        (("[[data]]", "[fit]\nheld_ot = 1\n[[data]]"), "unknown option 'held_ot'"),
        (("name = ", "name == "), "no TOML"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(two: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"suite.toml: .*{message}"):
        read(two, BASE.replace(*change, 1))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        suite.read(tmp_path / "none.toml")


def test_data_sets_by_hand(two: Path) -> None:
    chosen = suite.of_sources([str(two / "tile")], ["padim"], [7], multi=False)
    assert titles(chosen) == ["tile · padim · seed 7"]


def test_a_cell_survives_its_way_through_json(two: Path) -> None:
    for cell in read(two, 'settings = ["single", "multi"]\n' + BASE).cells():
        again = suite.Cell.from_json(json.loads(json.dumps(asdict(cell))))
        assert again == cell
        assert cells.digest(again, again.records()) == cells.digest(cell, cell.records())


def test_a_digest_changes_with_all_it_stands_for(two: Path) -> None:
    def marks(text: str) -> set[str]:
        return {cells.digest(c, c.records()) for c in read(two, text).cells()}

    text = BASE.replace("parts", "tile")
    first = marks(text)
    assert marks(text) == first
    assert marks("seeds = [1]\n" + text) != first
    assert marks(text + '[fit]\nimage_size = "64"\n') != first
    assert marks(text + '[[method]]\nname = "padim"\nlabel = "x"\noptions = { channels = 5 }\n') > first
    image = two / "tile" / "test" / "good" / "1000.png"
    times = image.stat().st_mtime_ns
    image.write_bytes((two / "tile" / "test" / "good" / "1001.png").read_bytes())
    os.utime(image, ns=(times, times + 10**9))
    assert marks(text) != first


def test_an_option_that_came_later_leaves_older_digests_alone() -> None:
    """Red where a new option is not declared with `later=True`, or a default has changed: results lose their names."""
    from blemish import config
    from blemish.evaluation.bench.cell import _named, _taken
    from blemish.learning.options import FitOptions

    plain = config.to_json(config.build(FitOptions, {}))
    text = json.dumps(_named(_taken(plain)), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "991007f7213141ce"
    assert _named({**plain, "multi_class": True})["multi_class"] is True
