"""The machine that a measurement was taken with."""

from pathlib import Path

import pytest

from aerogel.benchmark import environment, has_amx
from aerogel.benchmark.machine import processor

CPUINFO = """processor	: 0
model name	: Some processor
flags		: fpu avx512_vnni {flags} arch_capabilities

processor	: 1
"""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("amx_bf16 amx_tile amx_int8", True), ("avx512_bf16", False), ("famx_tile amx_tiles", False)],
)
def test_amx_is_found_by_its_flag(tmp_path: Path, flags: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags=flags))
    assert has_amx(tmp_path / "cpuinfo") == expected


def test_a_system_that_does_not_say_has_no_amx(tmp_path: Path) -> None:
    assert not has_amx(tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("Features	: fp asimd\n")  # as on ARM
    assert not has_amx(tmp_path / "cpuinfo")


def test_the_environment_names_the_processor() -> None:
    assert environment()["processor"] == processor() != ""
