"""The licences of all that the lock file names are listed, as the packages state them."""

from __future__ import annotations

import importlib.metadata
import runpy

from tests.command import ROOT

CODE = runpy.run_path(str(ROOT / ".ci/licenses.py"))
LISTED: dict[str, str] = CODE["listed"]((ROOT / "LICENSES.md").read_text("utf-8"))
LOCKED: list[str] = CODE["locked"]((ROOT / "constraints.txt").read_text("utf-8"))


def test_every_locked_package_has_a_licence() -> None:
    assert len(LOCKED) > 100
    assert list(LISTED) == LOCKED
    assert [name for name, text in LISTED.items() if text == CODE["NOT_STATED"]] == ["resvg-py"]


def test_the_list_says_what_installed_packages_say() -> None:
    pinned = dict(
        line.split(";")[0].strip().split("==")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    )
    compared = 0
    for name, text in LISTED.items():
        stated = CODE["licence"](name)
        if stated is not None and importlib.metadata.version(name) == pinned[name]:
            compared += 1
            assert text == stated, f"{name}: run python .ci/licenses.py constraints.txt LICENSES.md"
    assert compared > 30
