"""The instruction sets that `make isa` runs at are those of the processor, and what is left out is said."""

from __future__ import annotations

from tests import isa

OLD = "processor\t: 0\nflags\t\t: fpu sse2 avx2\nbugs\t\t: avx512f\n\nprocessor\t: 1\nflags\t\t: fpu avx512_bf16\n"


def test_flags_are_those_of_the_first_processor() -> None:
    assert isa.flags(OLD) == {"fpu", "sse2", "avx2"}
    assert isa.flags("") == isa.flags("Features : neon\n") == set()


def test_levels_that_the_processor_lacks_are_left_out_with_the_reason() -> None:
    levels, left_out = isa.plan(isa.flags(OLD))
    assert levels == ["AVX2"]
    assert list(left_out) == ["AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_AMX"]
    assert left_out["AVX512_CORE_AMX"] == "this processor has no amx_tile"
    levels, left_out = isa.plan({level.flag for level in isa.LEVELS.values()})
    assert (levels, left_out) == (list(isa.LEVELS), {})
