"""The numeric tests, once at each instruction set that this processor has: `python -m tests.isa`.

A limit that holds on the processor where it was written may fail on another: rounding differs with the instruction
set, and bf16 is there on some only. OpenVINO's and PyTorch's kernels take no more than `ONEDNN_MAX_CPU_ISA` allows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Level(NamedTuple):
    """The processor's flag that says it is there, as Linux writes it; what PyTorch's own kernels call it.

    `without` names tests that cannot run there, and `why` says the reason.
    """

    flag: str
    torch: str
    without: str = ""
    why: str = ""


LEVELS = {
    "AVX2": Level(
        "avx2", "avx2", "rbd", "OpenVINO 2026.4 crashes in its graph where AVX-512 is there and oneDNN is kept from it"
    ),
    "AVX512_CORE": Level("avx512f", "avx512"),
    "AVX512_CORE_BF16": Level("avx512_bf16", "avx512"),
    "AVX512_CORE_AMX": Level("amx_tile", "avx512"),
}
CPUINFO = Path("/proc/cpuinfo")


def flags(text: str) -> set[str]:
    """What the first processor of `/proc/cpuinfo` has."""
    return next((set(line.partition(":")[2].split()) for line in text.splitlines() if line.startswith("flags")), set())


def plan(flags: set[str]) -> tuple[list[str], dict[str, str]]:
    """(levels to run, those left out and why)."""
    out = {name: f"this processor has no {level.flag}" for name, level in LEVELS.items() if level.flag not in flags}
    return [level for level in LEVELS if level not in out], out


def main(*words: str) -> int:
    """Exit code 0 where the tests passed at every level, or there was none to run; `words` go to pytest."""
    levels, left_out = plan(flags(CPUINFO.read_text(encoding="utf-8")) if CPUINFO.exists() else set())
    failed = []
    for name in levels:
        level = LEVELS[name]
        print(f"== {name}" + (f", without {level.without}: {level.why}" if level.without else ""), flush=True)
        limits = {"ONEDNN_MAX_CPU_ISA": name, "ATEN_CPU_CAPABILITY": level.torch}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "numeric", *words]
        command += ["-k", f"not {level.without}"] if level.without else []
        if subprocess.run(command, env={**os.environ, **limits}, check=False).returncode:
            failed.append(name)
    for level, why in left_out.items():
        print(f"== {level}: left out, {why}")
    print(f"== passed at {', '.join(x for x in levels if x not in failed) or 'none'}")
    if failed:
        print(f"== FAILED at {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
