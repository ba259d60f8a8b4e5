"""Recordings that tests draw: beats, leads that stand still, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.data.signal.preprocess import SignalPlan

wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'blemish[ecg]'")

RATE = 250.0
PLAN = SignalPlan(("I", "II"), window=4.0)


def beats(seconds: float, rate: float = RATE, seed: int = 0) -> NDArray[np.float64]:
    """(N, 2) in mV: a sharp wave each second, on a slow drift."""
    at = np.arange(round(seconds * rate)) / rate
    wave = np.exp(-(((at % 1) - 0.4) ** 2) / 2e-4)
    noise = np.random.default_rng(seed).normal(0, 0.02, (len(at), 2))
    return np.stack([1.2 * wave + 0.3 * np.sin(at / 3), -0.6 * wave + 0.1], 1) + noise


def write_record(
    folder: Path, name: str, values: NDArray[Any], rate: float = RATE, leads: tuple[str, ...] = ("I", "II")
):
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name, rate, ["mV"] * values.shape[1], list(leads), values, fmt=["16"] * values.shape[1], write_dir=str(folder)
    )
    return folder / f"{name}.hea"


def write_csv(path: Path, values: NDArray[Any], header: str = "") -> Path:
    np.savetxt(path, values, delimiter=",", header=header, comments="", fmt="%.6f")
    return path


def annotated(root: Path, names: list[str], seconds: int = 40) -> Path:
    """Recordings of a beat each second: window 1 holds an ectopic beat, window 2 bundle branch beats, window 3 two."""
    for k, name in enumerate(names):
        write_record(root, name, beats(seconds, seed=k), leads=("MLII", "V1"))
        samples = [round((s + 0.4) * RATE) for s in range(seconds)]
        symbols = ["N"] * seconds
        symbols[5], symbols[9] = "V", "L"
        keep = [i for i in range(seconds) if not 12 <= i < 14]
        write_beats(root, name, [samples[i] for i in keep], [symbols[i] for i in keep])
    return root


def write_beats(folder: Path, name: str, samples: list[int], symbols: list[str]) -> Path:
    wfdb.wrann(name, "atr", np.array(samples), symbols, write_dir=str(folder))
    return folder / f"{name}.atr"


def flat(values: NDArray[np.float64], start: float, stop: float, shape: str, lead: int = 0) -> NDArray[np.float64]:
    """The recording (N, K) with a stretch, in seconds, in which a lead does not move."""
    a, b = round(start * RATE), round(stop * RATE)
    out, noise = values.copy(), np.random.default_rng(1).integers(-1, 2, b - a)
    stretch = {
        "constant": out[a, lead],
        "zero": 0.0,
        "rail": values[:, lead].max() + 3,
        "one step": out[a, lead] + noise * 0.005,
        "tiny noise": out[a, lead] + noise * 1e-4,
        "not a number": np.nan,
    }
    out[a:b, lead] = stretch[shape]
    return out


STRETCHES = ["constant", "zero", "rail", "one step", "tiny noise"]
