from __future__ import annotations

from pathlib import Path

import pytest

from toolchain.measure.energy import EnergyMeter


def zone(powercap: Path, folder: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
    path = powercap / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


def packages(used: dict[str, float]) -> dict[str, float]:
    return {name: joules for name, joules in used.items() if name.startswith("package")}


def test_energy_is_the_difference_of_two_readings_in_joules(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    meter = EnergyMeter(tmp_path)
    start = meter.read()
    (package / "energy_uj").write_text("7500000\n")
    assert packages(meter.between(start, meter.read())) == pytest.approx({"package-0": 2.5})


def test_a_counter_that_started_over_is_corrected_by_its_range(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, range_uj=10_000_000)
    meter = EnergyMeter(tmp_path)
    start = meter.read()
    (package / "energy_uj").write_text("500000\n")
    # 1 J up to the range of 10 J, and 0.5 J from there.
    assert packages(meter.between(start, meter.read())) == pytest.approx({"package-0": 1.5})


def test_parts_of_a_package_and_the_platform_are_not_counted_again(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    zone(tmp_path, "intel-rapl:0:0", "core", 1)
    zone(tmp_path, "intel-rapl:1", "package-1", 1)
    zone(tmp_path, "intel-rapl:2", "psys", 1)
    sources = EnergyMeter(tmp_path).sources
    assert [name for name in sources if not name.startswith("gpu")] == ["package-0", "package-1"]


def test_a_machine_without_readable_counters_has_no_sources(tmp_path: Path) -> None:
    (zone(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj").unlink()
    for folder in (tmp_path, tmp_path / "absent"):
        meter = EnergyMeter(folder)
        assert [name for name in meter.sources if not name.startswith("gpu")] == []
        assert packages(meter.between(meter.read(), meter.read())) == {}
