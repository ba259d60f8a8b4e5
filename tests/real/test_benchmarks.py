"""The benchmarks that are no cells of the ledger still run, on tiny data: what they give says nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blemish.types import Cloud
from tests.fakes import write_images, write_mvtec
from tests.parts import ARROW, at_any_angle, spotted, write

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PARTS = {"train/good": range(24), "test/good": range(30, 36)}
TRAIN = "torch and timm are not installed: pip install 'blemish[train]'"


def run(folder: Path, script: str, *words: object) -> str:
    return said(folder, str(ROOT / "benchmarks" / script), *words)


def parts_of(folder: Path, code: str) -> str:
    """What code says that has the scripts' own functions at hand."""
    return said(folder, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n{code}")


def said(folder: Path, *words: object) -> str:
    command = [sys.executable, *map(str, words)]
    env = {**os.environ, "BLEMISH_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_heartbeats(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason=TRAIN)
    pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'blemish[ecg]'")
    from tests.recordings import RATE, annotated, beats, write_beats, write_record

    root, seconds = tmp_path / "beats", 200
    annotated(root, "101 106 108 109 112 114 115 116 118 119 122 124 100 103".split(), seconds)
    for name in ("100", "109"):  # bundle branch block in the last minute
        write_beats(root, name, [round((s + 0.4) * RATE) for s in range(seconds)], ["N"] * 140 + ["L"] * 60)
    write_record(root, "102", beats(seconds), leads=("V5", "V2"))
    write_beats(root, "102", [100, 350], ["/", "/"])
    words = ["--data", root, "--task", "ectopic", "morphology", "--folds", 2, "--steps", 2]
    page = run(tmp_path, "heartbeats.py", *words)
    both = page.split("## Morphology of beats")
    assert len(both) == 2
    for part in both:
        for row in (
            "RR intervals' variation",
            "width of beats",
            "slow spectrum",
            "neighbours, raw",
            "mean segment, weighted",
            "`mmae_ecg`, paired, weighted",
            "`mmae_ecg`, paired, normalised",
            "`mmae_ecg`, full, weighted",
        ):
            assert part.count(f"| {row}") == 1
        assert part.count("ms a window; 2 models a seed; one seed.") == 1
        assert part.count("| 0 | ") == 1
    assert "no such lead: 102." in page
    assert "14 recordings, 2 of them with windows of both kinds (100, 109)." in both[1]
    kept = tmp_path / ".bench" / "heartbeats"
    models = sorted(path.name for path in kept.glob("*.blemish"))
    assert [name.split("-MLII")[0] for name in models] == ["fold0of2", "fold1of2"], "both tasks have one model"
    times = {path: path.stat().st_mtime_ns for path in kept.rglob("*.json")}
    assert run(tmp_path, "heartbeats.py", *words, "--page", tmp_path / "page.md") == ""
    assert "--folds 2 --steps 2 --page" in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert times == {path: path.stat().st_mtime_ns for path in kept.rglob("*.json")}
    (kept / "ectopic-fold1of2-MLII-default-seed0-steps2.json").unlink()
    collected = run(tmp_path, "heartbeats.py", *words, "--protocols", "A", "--collect")
    assert collected.endswith("\n3 of the runs of that command are not finished.\n\n")
    assert collected.count("| `mmae_ecg`, paired, weighted") == 1
    assert collected.count("### Protocol A\n") == 2, "what needs no learning is there"


def test_intervals_over_recordings_are_those_of_a_plain_bootstrap(tmp_path: Path) -> None:
    """Recordings drawn whole, without their windows being ranked anew for each draw."""
    pytest.importorskip("torch", reason=TRAIN)
    code = """
import numpy as np
from heartbeats import REPLICAS, pooled
from blemish.evaluation.metrics.ranking import auroc
rng = np.random.default_rng(3)
names = np.repeat(list("abcdef"), 20)
labels = (rng.random(120) < 0.4).astype(int)
labels[names == "a"] = 0
scores = np.round(labels * 0.5 + rng.normal(size=120) + (names == "c"), 1)
found = pooled(labels, scores, names)
each = np.unique(names)
values = []
for counts in np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), REPLICAS)[:2000]:
    rows = np.concatenate([np.flatnonzero(names == n) for n, c in zip(each, counts) for _ in range(c)])
    if 0 < labels[rows].sum() < len(rows):
        values.append(auroc(labels[rows], scores[rows]))
low, high = np.quantile(values, [0.025, 0.975])
print(max(abs(found["value"] - auroc(labels, scores)), abs(found["low"] - low), abs(found["high"] - high)) < 1e-9)
"""
    assert parts_of(tmp_path, code) == "True\n"


def test_clouds(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason=TRAIN)
    pytest.importorskip("plyfile", reason="plyfile is not installed: pip install 'blemish[3d]'")
    from blemish.data.cloud.formats import write_cloud

    corners = np.array([[x, y, z] for x in (0, 3) for y in (0, 2) for z in (0, 1)], np.float64)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([triangle for a, b, c, d in sides for triangle in ((a, b, c), (a, c, d))])
    write_cloud(tmp_path / "box.ply", Cloud(corners, faces=faces))
    page = run(tmp_path, "clouds.py", "--data", tmp_path, "--meshes", "box.ply", "--seeds", 0, "--quick")
    for row in ("| 0.02 | 0.25 |", "| hole |", "| sphere |", "| rejected of 2 normal scans"):
        assert row in page
    assert "Against the bank alone, object AUROC" in page


@pytest.mark.parametrize("job", ["coreset,-1,20", "fit,padim,8"])
def test_growth(tmp_path: Path, job: str) -> None:
    write_images(tmp_path / "good", 8)
    row = json.loads(run(tmp_path, "growth.py", "--data", tmp_path / "good", "--job", job))
    assert row["what"].startswith("coreset, " if "coreset" in job else "fit padim, 8 images")
    assert row["peak_mb"] > 0


def test_routing(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="scipy is not installed: pip install 'blemish[bench]'")
    code = """
import numpy as np
import routing
generator = np.random.default_rng(0)
middles = 9 * generator.standard_normal((len(routing.SOURCES), 8, 1, 1))
sides = {s: [(m + generator.standard_normal((30, 8, 3, 4))).astype(np.float32) for m in middles] for s in routing.SIDES}
for make in (routing.by_name, lambda parts, seed: routing.by_cluster(parts, seed, len(middles))):
    print(*routing.accuracies(make(sides, 0), sides))
"""
    named, clustered = (list(map(float, line.split())) for line in parts_of(tmp_path, code).splitlines())
    assert named == [1.0, 1.0, 1.0]
    assert len(clustered) == 3
    assert min(clustered) > 0.5


def test_categories(tmp_path: Path) -> None:
    write_images(tmp_path / "good", 12)
    code = """
import warnings
from pathlib import Path
import categories
warnings.simplefilter("ignore")
model = categories.Detector("dfc", image_size="64").fit(Path("good")).model
wider = categories.widened(model, 12)
print(len(wider.categories.names), categories.Inspector(wider, threads=1).inspect("good/000.png").category)
"""
    assert parts_of(tmp_path, code).split() == ["12", "good"]


def test_speed(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason=TRAIN)
    pytest.importorskip("timm", reason=TRAIN)
    write_images(tmp_path / "good", 8)
    code = """
import warnings
from pathlib import Path
import speed
warnings.simplefilter("ignore")
records = [speed.Record(path.name, path) for path in sorted(Path("good").iterdir())]
for name, values in speed.interleaved(speed.contenders(records), [records[0].path], 1).items():
    print(len(values), name)
"""
    rows = parts_of(tmp_path, code).splitlines()
    assert len(rows) == 5
    assert all(row.startswith("1 ") for row in rows)


def test_attenuation(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason=TRAIN)
    code = """
import attenuation
attenuation.TRAIN, attenuation.TEST, attenuation.SHARES = 8, 4, (0.2,)
attenuation.OPTIONS |= {"steps": 1, "gate_steps": 1}
options = attenuation.FitOptions(method="fader", calibration="none")
table, covered = attenuation.measured(attenuation.load_backbone(options), 0)
print(table.shape, len(covered))
"""
    assert parts_of(tmp_path, code).splitlines()[-1] == "(1, 5, 5) 1"


def test_light(tmp_path: Path) -> None:
    words = ["--python", sys.executable, "--against", sys.executable, "--methods", "padim"]
    write_images(tmp_path / "good", 8)
    page = run(tmp_path, "light.py", *words, "--images", tmp_path / "good", "--counts", 8, "--repeats", 1)
    row = page.splitlines()[-1].strip("| ").split(" | ")
    assert row[:2] == ["padim", "8"]
    assert all(float(cell) > 0 for cell in row[2:])


def test_ranks(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "data" / "mtd", train=24, test=8)
    words = ["--data", tmp_path / "data", "--sets", "mtd", "--repeats", 2, "--out", tmp_path / "page.md"]
    words += ["--methods", "padim,padim-1,padim-stride32"]
    page = run(tmp_path, "ranks.py", *words)
    for row in ("| `graded`, rise |", "| `cutpaste`, AUROC |", "| crack |", "| padim-stride32 |", "| *real defects*"):
        assert row in page
    assert (tmp_path / "page.md").read_text(encoding="utf-8") in page
    models = tmp_path / ".bench" / "ranks" / "mtd"
    held = [json.loads((models / "padim" / str(k) / "held.json").read_text()) for k in range(2)]
    assert held[0] != held[1]
    scores = json.loads((models / "padim" / "0" / "scores.json").read_text())
    assert len(scores["good"]) == len(held[0])
    assert set(scores["defects"]["graded"]["kind"]) == {"spot", "crack", "chip", "gap", "moved", "bent", "uneven"}
    times = {path: path.stat().st_mtime_ns for path in models.rglob("*.json")}
    assert run(tmp_path, "ranks.py", *words).endswith(page[page.index("# Do") :])
    assert times == {path: path.stat().st_mtime_ns for path in models.rglob("*.json")}
    (models / "padim" / "1" / "scores.json").unlink()
    (models / "padim" / "1" / "held.json").unlink()
    with pytest.raises(AssertionError, match="which images were held out"):
        run(tmp_path, "ranks.py", *words)


def test_synthetic_defects(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "data" / "mtd", train=24, test=2)
    words = ["--data", tmp_path / "data", "--sets", "mtd"]
    lines = run(tmp_path, "synthetic_defects.py", *words, "padim", "padim:windows=1+3,top=0.0").splitlines()
    assert [line.split(": AUROC 0.")[0] for line in lines] == [
        "mtd padim seed 0",
        "mtd padim:windows=1+3,top=0.0 seed 0",
    ]
    assert lines[0].split(":", 1)[1] != lines[1].rsplit(":", 1)[1]  # the options arrive
    with pytest.raises(AssertionError, match="no set of"):
        run(tmp_path, "synthetic_defects.py", "--sets", "none", "padim")


def test_light_and_pose(tmp_path: Path) -> None:
    write_mvtec(tmp_path / "data" / "mtd", train=24, test=8)
    words = ["--data", tmp_path / "data", "--sets", "mtd", "--methods", "padim,patchcore"]
    page = run(tmp_path, "light_and_pose.py", *words)
    rows = [line for line in page.splitlines() if line.startswith("| as it is")]
    assert len(rows) == 2
    assert rows[0] == "| as it is | 0.00 | 0.00 |"  # at most a twentieth of eight good images
    assert sum(line.startswith("| a shadow across") for line in page.splitlines()) == 2
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / ".bench").rglob("*.json")}
    assert len(times) == 2
    assert run(tmp_path, "light_and_pose.py", *words) == page
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / ".bench").rglob("*.json")}
    with pytest.raises(AssertionError, match="no set of"):
        run(tmp_path, "light_and_pose.py", "--sets", "none")


def test_locating(tmp_path: Path) -> None:
    parts = {split: [at_any_angle(ARROW, seed)[0] for seed in seeds] for split, seeds in PARTS.items()}
    for split, images in parts.items():
        write(tmp_path / "data" / "aws_aliens" / split, images)
    write(tmp_path / "data" / "aws_aliens" / "test" / "spot", [spotted(seed) for seed in range(50, 56)])
    page = run(tmp_path, "locating.py", "--data", tmp_path / "data", "--methods", "padim")
    row = next(line for line in page.splitlines() if line.startswith("| `padim`"))
    values = [float(cell.split("[")[0]) for cell in row.split("|")[2:6]]
    assert values[3] >= values[2]
    assert "which is an alarm" in page


@pytest.mark.parametrize("kind", ["graded", "cutpaste"])
def test_made_defects(tmp_path: Path, kind: str) -> None:
    """Trees of one kind of defects."""
    write_mvtec(tmp_path / "set", train=20)
    code = f"""
from pathlib import Path
from blemish.data import layouts
from blemish.learning.splits import good_training_records
from made_defects import write
print(write({kind!r}, good_training_records(layouts.index(Path('set'))), Path('made')))"""
    assert "'learn': 14, 'good': 3, 'made': 3" in parts_of(tmp_path, code)
    assert len(list((tmp_path / "made" / "ground_truth" / "made").iterdir())) == 3


def test_tiling(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason=TRAIN)
    words = ["--methods", "padim", "--sets", "drawn", "--images", 3, "--side", 512]
    run(tmp_path, "tiling.py", *words, "--page", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "A trial on at most 3 pictures" in page
    rows = [row.split(" | ") for row in page.splitlines() if row.startswith("| `padim`")]
    assert [(row[1], row[2]) for row in rows] == [("256", ""), ("384", ""), ("512", ""), ("256", "256"), ("256", "512")]
    assert rows[0][5] == "1.0"
