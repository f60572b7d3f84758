"""The accuracy that an engine must keep where no limit says otherwise."""

from __future__ import annotations

import pytest

from toolchain.deliver.report.limits import floors


@pytest.mark.parametrize(("best", "floor"), [(90.0, 89.1), (0.0, 0.0), (-9.9, -10.0)])
def test_a_floor_is_a_hundredth_below_the_best_baseline_whatever_its_sign(best: float, floor: float) -> None:
    lines = [
        {"seed": 17, "baseline": True, "accuracy_percent": best},
        {"seed": 17, "baseline": True, "accuracy_percent": best - 1},
        {"seed": 17, "baseline": False, "accuracy_percent": best + 1},
    ]
    assert floors(lines) == {17: pytest.approx(floor)}
