"""Digests of code: what they see, and what they are blind to."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest

from blemish import methods
from blemish.learning import code_digest as module
from blemish.learning.code_digest import code_digest, learning_sources

SOURCE = '''
"""A page."""
from blemish.ops import moments

SHARE = 0.5  # of them


class Kept:
    """Whatever."""

    def far(self, x: float, y: float | None = None) -> str:
        """How far."""
        return f"{{{x:.3f}}} of {y!r:{x}}" if x > SHARE else "near" "by"

    def recall(self) -> None:
        raise NotImplementedError
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# of them", "# of all that there are"),
        ('"""How far."""', '"""Where to."""\n        # why'),
        ('"""A page."""\n', ""),
        ("from blemish.ops import moments", "from blemish.nn.moments import Moments\nimport math"),
        ("\nSHARE", "\nif TYPE_CHECKING:\n    from torch import Tensor\nSHARE"),
        ("x: float, y: float | None = None", "\n        x: float,\n        y: float | None = None,\n    "),
        ('"near" "by"', "'nearby'"),
        ("if x > SHARE else", "if (x > SHARE) else"),
    ],
)
def test_blind_to_how_code_is_written(old: str, new: str) -> None:
    assert old in SOURCE
    assert code_digest(SOURCE.replace(old, new)) == code_digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("0.5", "'0.5'"),
        ("> SHARE", ">= SHARE"),
        (":.3f", ":.4f"),
        ("{y!r:", "{y:"),
        (" of {", " off {"),
        ("float | None = None", "float | None = 1"),
        ("NotImplementedError", "ValueError"),
        ("def far", "def near"),
        ("class Kept:", "@final\nclass Kept:"),
    ],
)
def test_sees_what_code_does(old: str, new: str) -> None:
    assert old in SOURCE
    assert code_digest(SOURCE.replace(old, new)) != code_digest(SOURCE)


def test_a_function_may_be_left_out() -> None:
    other = SOURCE.replace("NotImplementedError", "ValueError")
    assert code_digest(other, without=["recall"]) == code_digest(SOURCE, without=["recall"])
    assert code_digest(SOURCE, without=["recall"]) != code_digest(SOURCE)


def test_an_attribute_may_be_left_out() -> None:
    stated, other = (f"class A:\n    x = 1\n    efforts = {{'quick': {n}}}" for n in (1, 2))
    assert code_digest(stated) != code_digest(other)
    assert len({code_digest(text, without=["efforts"]) for text in (stated, other, "class A:\n    x = 1")}) == 1
    assert code_digest("efforts.x = 1", without=["efforts"]) != code_digest("", without=["efforts"])


def test_one_digest_on_every_version_of_python() -> None:
    """Python 3.12 reads f-strings otherwise, and gives nodes fields that 3.11 has not."""
    assert code_digest(SOURCE) == "4e24097d4a92a71eacf4325429a20bce501f8b3fc53b95b2ad1a1aed8dbec090"


def test_the_order_of_sources_counts() -> None:
    assert code_digest("a = 1", "b = 2") != code_digest("b = 2", "a = 1")


@pytest.mark.slow
def test_what_is_kept_is_named_by_all_sources_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any block that a method is built of, also at second hand, finds nothing kept; elsewhere it does."""
    package = tmp_path / "blemish"
    shutil.copytree(Path(module.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    trained = next(m for m in map(methods.get, methods.names()) if m.fitted_modules)
    method_file = package / "methods" / f"{trained.__module__.rpartition('.')[2]}.py"
    monkeypatch.setattr(module, "__file__", str(package / "learning" / "code_digest.py"))
    monkeypatch.setattr(inspect, "getfile", lambda _: str(method_file))
    before = learning_sources(trained)
    counted = [
        "learning/training.py",
        "learning/sources/image.py",
        "data/synthesis/scenes.py",
        "nn/blocks.py",
        "methods/base.py",
        f"methods/{method_file.name}",
    ]
    for name, differs in [
        *((name, True) for name in counted),
        ("evaluation/report/page.py", False),
        ("nn/unheard_of.py", False),
    ]:
        path = package / name
        text = path.read_text() if path.exists() else ""
        path.write_text(text + "\n# only said\n")
        assert learning_sources(trained) == before, name
        path.write_text(text + "\nCHANGED = 1\n")
        assert (learning_sources(trained) != before) is differs, name
        path.write_text(text)
    assert learning_sources(trained) == before
