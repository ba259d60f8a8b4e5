"""Which defects of a scanned surface a bank of FPFH finds, by depth and size, and what learning from made ones adds.

    python benchmarks/clouds.py [--data FOLDER] [--seeds 0 1 2] [--meshes fandisk.obj ...]
    python benchmarks/clouds.py --page docs/results/clouds.md

Everything here is synthetic, normal scans too: points taken anew from a mesh, with a sensor's noise, anywhere in space.
Method `fpfh` learns normal scans; a small network learns its features of normal scans against those of scans with defects
by Perlin noise (`data.synthesis.surface3d`), the same normal scans and no more. Both are tested on such defects, on scans whose
defect has strength 0, and on defects that no Perlin noise has made: holes, flats that were cut off, spheres that were
added. Every finished run of one mesh and seed lies in `.bench/clouds/`, named by its options: what was stopped goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from clouds_page import DETECTORS, FAMILIES, page
from kept import kept
from numpy.typing import NDArray
from torch import nn

from blemish.config import to_json
from blemish.data.cloud.formats import read_cloud
from blemish.data.cloud.modality import Clouds
from blemish.data.cloud.preprocess import CloudPlan, part_of
from blemish.data.synthesis.surface3d import SurfaceDefect, damage, options_of
from blemish.evaluation.metrics.ranking import auroc
from blemish.inspection.conformal import Calibrator
from blemish.learning.sources.cloud import CloudSource
from blemish.methods.fpfh import Config, Fpfh
from blemish.ops import histograms
from blemish.ops.geometry import nearest as nearest_point
from blemish.ops.geometry import sampled, tree_of
from blemish.ops.histograms import Looked
from blemish.ops.neighbours import nearest
from blemish.types import Cloud

OUT = Path(".bench/clouds")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "meshes3d"
MESHES = ("fandisk.obj", "igea.ply", "spot.obj", "stanford-bunny.obj")
OPTIONS: dict[str, Any] = {
    "points": 4000,  # of a scan
    "noise": 0.0004,  # of the sensor, as a share of the diagonal
    "learn": 12,  # normal scans
    "negatives": 12,  # the same scans with synthetic defects, which the network alone sees
    "held": 12,  # normal scans that thresholds come from
    "good": 12,  # normal scans to test on
    "null": 8,  # with a defect of strength 0
    "each": 2,  # scans with a defect, of each depth and size
    "others": 4,  # of each family that is not Perlin noise
    "depths": [0.005, 0.01, 0.02],  # of the diagonal
    "sizes": [0.08, 0.15, 0.25],  # radius of the defect's window, of the part's longer side
    "rate": 0.1,  # of false alarms, promised
    "steps": 400,  # of the network
}
QUICK = dict.fromkeys(("learn", "negatives", "held", "good"), 2) | dict.fromkeys(("null", "each", "others"), 1)
QUICK |= {"points": 800, "steps": 5, "depths": [0.02], "sizes": [0.25], "rate": 0.4}


class Scan(NamedTuple):
    """A scan with its labels, as it was inspected."""

    seen: Looked
    at: NDArray[np.float32]  # (N, 3)
    labels: NDArray[np.bool_]  # (N,)


class Part:
    """Scans of one mesh, 1 across."""

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        mesh = read_cloud(path)
        assert mesh.faces is not None
        points = mesh.points.astype(np.float64)
        self.points, self.faces = points / np.linalg.norm(np.ptp(points, axis=0)), mesh.faces
        self.options = options

    def scan(self, generator: np.random.Generator) -> Cloud:
        """Points taken anew from the surface, with noise; the scanner knows where outside is."""
        points, normals = sampled(self.points, self.faces, self.options["points"], generator)
        return Cloud(points + generator.normal(0, self.options["noise"], points.shape), normals)


def moved(cloud: Cloud, generator: np.random.Generator) -> Cloud:
    """The same anywhere in space, in millimetres."""
    turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    assert cloud.normals is not None
    points = 100 * (cloud.points @ turn.T + generator.normal(0, 2, 3))
    return Cloud(points, cloud.normals @ turn.T)


def perlin(cloud: Cloud, generator: np.random.Generator, depth: float, size: float) -> tuple[Cloud, NDArray[np.bool_]]:
    """A dent or bump by Perlin noise."""
    made = damage(cloud, SurfaceDefect(strength=depth, radius=size), generator)
    return made.cloud, made.labels > 0


def hole(cloud: Cloud, generator: np.random.Generator) -> tuple[Cloud, NDArray[np.bool_]]:
    """A ball of points is missing; its rim is what can be found."""
    centre, radius = cloud.points[generator.integers(len(cloud.points))], generator.uniform(0.03, 0.06)
    distance = np.linalg.norm(cloud.points - centre, axis=1)
    kept = distance > radius
    return _some(cloud, kept), distance[kept] < radius + 0.02


def cut(cloud: Cloud, generator: np.random.Generator) -> tuple[Cloud, NDArray[np.bool_]]:
    """What stands out in some direction is ground off, a flat is left."""
    axis = generator.normal(size=3)
    axis /= np.linalg.norm(axis)
    height = cloud.points @ axis
    over = height - (height.max() - generator.uniform(0.02, 0.05))
    gone = over > 0
    assert cloud.normals is not None
    points = cloud.points - np.maximum(over, 0)[:, None] * axis
    normals = np.where(gone[:, None], axis, cloud.normals)
    return Cloud(points, normals), gone


def sphere(cloud: Cloud, generator: np.random.Generator) -> tuple[Cloud, NDArray[np.bool_]]:
    """Half a ball sticks to the surface."""
    assert cloud.normals is not None
    row, radius = generator.integers(len(cloud.points)), generator.uniform(0.015, 0.03)
    centre, up = cloud.points[row], cloud.normals[row]
    distance = np.linalg.norm(cloud.points - centre, axis=1)
    outside = _some(cloud, distance > radius)
    density = (distance <= 0.1).sum() / (np.pi * 0.1**2)
    out = generator.normal(size=(max(round(density * 4 * np.pi * radius**2), 8), 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    out = out[out @ up > 0]
    points = np.concatenate([outside.points, centre + radius * out])
    labels = np.arange(len(points)) >= len(outside.points)
    return Cloud(points, np.concatenate([outside.normals, out])), labels  # type: ignore[list-item]


def _some(cloud: Cloud, kept: NDArray[np.bool_]) -> Cloud:
    assert cloud.normals is not None
    return Cloud(cloud.points[kept], cloud.normals[kept])


OTHERS: dict[str, Callable[..., tuple[Cloud, NDArray[np.bool_]]]] = {"hole": hole, "cut": cut, "sphere": sphere}


Floats = NDArray[np.float32]


def network(good: Floats, defective: Floats, steps: int, seed: int) -> Callable[[Floats], Floats]:
    """A classifier 33-64-1 of features of points: logits, larger = more like a defect."""
    normal, made = torch.from_numpy(good), torch.from_numpy(defective)
    mean, spread = normal.mean(0), normal.std(0).clamp_min(1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(normal.shape[1], 64), nn.ReLU(), nn.Linear(64, 1))
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.cat([side[torch.randint(len(side), (256,), generator=generator)] for side in (normal, made)])
        y = torch.cat([torch.zeros(256), torch.ones(256)])
        loss = nn.functional.binary_cross_entropy_with_logits(net((x - mean) / spread)[:, 0], y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.requires_grad_(False)
    return lambda x: np.asarray(net((torch.from_numpy(x) - mean) / spread)[:, 0])


def measure(mesh: Path, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Everything about one mesh and seed."""
    start = process_time()
    part = Part(mesh, options)

    def lots(*what: int) -> np.random.Generator:
        return np.random.default_rng([seed, *what])

    first = [moved(part.scan(lots(0, k)), lots(1, k)) for k in range(options["learn"])]
    kind = Clouds(CloudPlan.of(map(part_of, first[:8])))
    method = Fpfh(Config(), CloudSource(kind).spec, (), seed)  # type: ignore[arg-type]

    def looked(cloud: Cloud, labels: NDArray[np.bool_] | None, place: np.random.Generator) -> Scan:
        sample = kind.prepare(kind.read(moved(cloud, place)))
        none = np.zeros(len(sample), np.bool_)
        return Scan(method.look(sample), sample[:, :3], none if labels is None else labels)

    for k, cloud in enumerate(first):
        features = method.look(kind.prepare(kind.read(cloud))).features
        method._pool.add(features, [(str(k), len(features))])
    normal = np.concatenate(method._pool.parts)
    method.conclude()

    made = []
    for k in range(options["negatives"]):  # defects of all depths and sizes, on the scans that the bank has seen
        defect = damage(part.scan(lots(0, k)), options_of("random", {}, lots(2, k)), lots(2, k))
        scan = looked(defect.cloud, defect.labels > 0, lots(1, k))
        made.append(scan.seen.features[_owned(scan)])
    judge = network(normal, np.concatenate(made), options["steps"], seed)

    held = [looked(part.scan(lots(3, k)), None, lots(4, k)) for k in range(options["held"])]
    raw = {
        "bank": lambda x: nearest(x - method.centre, method.memory)[0],
        "network": judge,
    }
    levels = {}
    for name, score in raw.items():
        values = np.concatenate([score(s.seen.features) for s in held])
        levels[name] = float(values.mean()), float(values.std(ddof=1))

    def maps(scan: Scan) -> dict[str, tuple[float, NDArray[np.float32]]]:
        """Score and map by each detector; both = the sum of the two, standardised on held-out normal scans."""
        x = scan.seen.features
        values = {name: (score(x) - levels[name][0]) / levels[name][1] for name, score in raw.items()}
        values["both"] = values["bank"] + values["network"]
        return {
            name: (float(method.blurred(v, scan.seen, scan.seen.points).max()), method.blurred(v, scan.seen, scan.at))
            for name, v in values.items()
        }

    good = [looked(part.scan(lots(5, k)), None, lots(6, k)) for k in range(options["good"])]
    of_good = [maps(scan) for scan in good]
    of_held = [maps(scan) for scan in held]
    out: dict[str, Any] = {"mesh": mesh.name, "seed": seed, "voxel": float(method.voxel), "bank": len(method.memory)}
    out["looked"] = len(held[0].seen.points)
    thresholds = {}
    for name in DETECTORS:
        calibrator = Calibrator.fit([m[name][0] for m in of_held], [m[name][1].max() for m in of_held], options["rate"])
        thresholds[name] = calibrator.threshold
    out["false_alarms"] = {n: sum(m[n][0] > thresholds[n] for m in of_good) for n in DETECTORS}

    def found(scans: Sequence[Scan]) -> dict[str, Any]:
        """Object and point AUROC against the good scans, and how many are rejected."""
        of_bad, entry = [maps(scan) for scan in scans], {}
        for n in DETECTORS:
            labels = np.array([0] * len(of_good) + [1] * len(of_bad))
            entry[n] = {
                "object": auroc(labels, np.array([m[n][0] for m in of_good + of_bad])),
                "rejected": sum(m[n][0] > thresholds[n] for m in of_bad),
            }
            if any(scan.labels.any() for scan in scans):
                truth = np.concatenate([scan.labels for scan in scans])
                entry[n]["point"] = auroc(truth.astype(int), np.concatenate([m[n][1] for m in of_bad]))
        share = float(np.mean([scan.labels.mean() for scan in scans]))
        return {**entry, "scans": len(scans), "share": share}

    def made_by(number: int, count: int, maker: Callable[..., tuple[Cloud, NDArray[np.bool_]]]) -> dict[str, Any]:
        scans = []
        for k in range(count):
            cloud, labels = maker(part.scan(lots(7, number, k)), lots(8, number, k))
            scans.append(looked(cloud, labels, lots(9, number, k)))
        return found(scans)

    out["null"] = made_by(0, options["null"], lambda cloud, lot: perlin(cloud, lot, 0.0, 0.15))
    out["perlin"] = {}
    for i, depth in enumerate(options["depths"]):
        for j, size in enumerate(options["sizes"]):
            out["perlin"][f"{depth:g} {size:g}"] = made_by(
                10 + 10 * i + j, options["each"], lambda cloud, lot, d=depth, s=size: perlin(cloud, lot, d, s)
            )
    out["others"] = {name: made_by(100 + i, options["others"], OTHERS[name]) for i, name in enumerate(FAMILIES)}
    out["seconds"] = round(process_time() - start, 1)
    return out


def _owned(scan: Scan) -> NDArray[np.bool_]:
    """Which of the points that were looked at lie on a defect: those whose nearest point of the scan does."""
    near = nearest_point(tree_of(scan.at.astype(np.float64)), scan.seen.points, 1)[:, 0]
    return np.asarray(scan.labels[near])


def name_of(options: dict[str, Any]) -> str:
    """Of a run, by all that its figures depend on; the page may change without measuring anew."""
    bench_code = (measure, network, Part, moved, perlin, hole, cut, sphere)
    package_code = (
        histograms.look,
        histograms.thinned,
        histograms.fast_histograms,
        histograms.spfh,
        histograms.pair_angles,
    )
    code = [inspect.getsource(what) for what in (*bench_code, *package_code)]
    text = json.dumps([options, to_json(Config()), *code], sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:12]


def main() -> None:
    """Measure what is missing; write the page where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--meshes", nargs="+", default=list(MESHES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", type=Path)
    parser.add_argument("--quick", action="store_true", help="shows that it runs; its figures say nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = {**OPTIONS, **QUICK} if arguments.quick else OPTIONS
    folder, runs = OUT / name_of(options), []
    for seed in arguments.seeds:
        for mesh in arguments.meshes:
            file = folder / f"{Path(mesh).stem}-{seed}.json"
            runs.append(kept(file, lambda m=mesh, s=seed: measure(arguments.data / m, s, options)))
            print(f"{file}: {runs[-1]['seconds']} s", flush=True)
    text = page(runs, options)
    print(text)
    if arguments.page is not None:
        arguments.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
