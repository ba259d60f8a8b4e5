"""What the project's own files say of it: versions, Pythons, ranges, targets."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import blemish

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'blemish[train]'")

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
HIDDEN = sorted((ROOT / ".github").rglob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def requirements(*extras: str) -> list[Requirement]:
    """Of the light core and of extras, but for the project itself."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    return [r for r in map(Requirement, texts) if r.name != "blemish"]


def test_every_page_names_the_same_pythons() -> None:
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert named == PYTHONS
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(python) for python in PYTHONS)
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS
    for page in ("README.md", "CONTRIBUTING.md"):
        assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / page).read_text(encoding="utf-8")


def test_the_citation_is_of_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["version"] == blemish.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["title"] == "Blemish"


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=str)
def test_nothing_is_pinned(requirement: Requirement) -> None:
    assert not {s.operator for s in requirement.specifier} & {"==", "===", "~="}


def test_the_lowest_releases_are_those_that_are_run() -> None:
    lines = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    run = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    bounds = {
        r.name: next((s.version for s in r.specifier if s.operator == ">="), None)
        for r in requirements("train", "bench", "3d", "ecg")
    }
    for name, bound in bounds.items():
        assert (name in run) is (bound is not None), name
        assert bound is None or SpecifierSet(f"=={bound}.*").contains(run[name]), name


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md", ".github/pull_request_template.md"])
def test_targets_are_there(page: str) -> None:
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8")))
    named |= set(re.findall(r"^make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), re.M))
    assert named <= TARGETS


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_what_the_pages_name_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for place in re.findall(r"`((?:src|tests|docs)/[\w/.]+)`", text):
        assert (ROOT / place).exists(), place
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", HIDDEN, ids=lambda path: path.name)
def test_the_forms_of_the_host_are_read(path: Path) -> None:
    content = read(path)
    assert isinstance(content, dict)
    if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        assert {"name", "description", "body"} <= set(content)
        fields = [f for f in content["body"] if f["type"] != "markdown"]
        assert len({f["id"] for f in fields}) == len(fields)
        assert all(f["attributes"]["label"] for f in fields)


def test_the_workflow_runs_what_is_there() -> None:
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {t for c in commands for t in re.findall(r"make ([a-z-]+)", c)} <= TARGETS
    for place in (p for c in commands for p in re.findall(r"tests/\w+", c)):
        assert (ROOT / place).is_dir(), place
    assert {need for job in jobs.values() for need in [job.get("needs")] if need} <= set(jobs)
    assert set(jobs["light"]["strategy"]["matrix"]["os"]) == {"ubuntu-latest", "windows-latest", "macos-latest"}
