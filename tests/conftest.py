"""Shared by all tests: the cache lies in a folder of its own, and real data are found beside the repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from hypothesis import settings

from tests.fakes import FakeBackbone

try:
    import torch
except ModuleNotFoundError:
    pass  # without the extra [train]: what needs it is skipped, see below
else:
    torch.set_num_threads(
        1
    )  # the bits of a sum depend on how many share it: what is trained here is the same everywhere


# `make check` runs with few examples of each property, `make test` with as many as each test asks for
settings.register_profile("all", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=25)
settings.load_profile(os.environ.get("BLEMISH_TESTS", "all"))


EXTRAS = {"torch": "train", "torchvision": "train", "timm": "train", "onnxruntime": "train", "pyarrow": "bench"}
"""Packages of extras without which the suite runs too, as far as it goes."""
ABSENT = {name: extra for name, extra in EXTRAS.items() if find_spec(name) is None}


def lacking(error: BaseException | None) -> str | None:
    """The absent package that an error comes from."""
    while error is not None:
        name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if name in ABSENT:
            return name
        error = error.__cause__ or error.__context__
    return None


def _needed(name: str) -> str:
    return f"{name} is not installed: pip install 'blemish[{ABSENT[name]}]'"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    for name in ABSENT if report.failed else ():
        if f"No module named '{name}" in str(report.longrepr):
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {_needed(name)}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    name = lacking(call.excinfo.value if call.excinfo else None)
    if report.failed and name is None:  # a command that said so
        name = next((each for each in ABSENT if f"{each} is not installed" in report.longreprtext), None)
    if report.failed and name is not None:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {_needed(name)}")
    return report


# what a file's tests share is made once: one process runs them all, unless they are grouped otherwise
@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks at the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            alone = item.path.parent.name == "cluster"  # one cluster at a time, started once
            item.add_marker(pytest.mark.xdist_group("cluster" if alone else item.path.name))


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For the whole session: fixtures of a module run before those of a test, and must not find the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLEMISH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def backbone() -> FakeBackbone:
    return FakeBackbone()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, where they are."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside the repository (../shared/data)")
    return folder
