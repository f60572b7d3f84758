from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.core import processors
from toolchain.measure import machine


def test_the_machine_is_the_same_at_every_call_and_plain_json() -> None:
    found = machine.machine()
    assert found == machine.machine()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"]
    assert found["memory_gib"] >= 1
    assert 1 <= found["physical_cores"] <= found["logical_cpus"] <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("cpuinfo", "name", "expected"),
    [
        (
            "processor: 0\ncpu family : 6\nmodel : 143\nmodel name : Xeon\nstepping : 8\n"
            "flags : fpu sse4_2 avx avx2 avx512f avx512_vnni amx_int8\n",
            "Xeon (family 6, model 143, stepping 8)",
            ("sse4_2", "avx", "avx2", "avx512f", "avx512_vnni", "amx_int8"),
        ),
        (
            "processor: 0\nFeatures : fp asimd asimdhp asimddp sve i8mm\nCPU implementer : 0x41\nCPU part : 0xd40\n",
            "0x41 0xd40",
            ("asimd", "asimdhp", "asimddp", "sve", "i8mm"),
        ),
    ],
)
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no /proc/cpuinfo")
def test_processors_of_both_families_are_read(
    cpuinfo: str, name: str, expected: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(processors, "CPUINFO", tmp_path / "cpuinfo")
    for cached in (machine._features, machine._cpu_name, machine.instruction_sets):
        cached.cache_clear()
    try:
        assert machine.instruction_sets() == expected
        assert machine._cpu_name().endswith(name)
    finally:
        for cached in (machine._features, machine._cpu_name, machine.instruction_sets):
            cached.cache_clear()


def test_the_environment_names_versions_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = machine.environment()
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert {"numpy", "tokenizers"} <= set(found["libraries"])
    assert found["machine"] == machine.machine()
    assert json.loads(json.dumps(found)) == found


def test_reading_the_machine_loads_no_library_it_reports_on() -> None:
    program = (
        "import sys; from toolchain.measure import machine; machine.environment()\n"
        "print(*{n.split('.')[0] for n in sys.modules} & {'torch', 'onnx', 'onnxruntime', 'numpy', 'transformers'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
