"""The versions that make, .ci/run and the GPU container install are pinned, and pyproject.toml allows them."""

from __future__ import annotations

import re
import runpy
import tomllib
from collections.abc import Callable

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.command import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LOCKED: Callable[[str, dict[str, str]], str] = runpy.run_path(str(ROOT / ".ci/lock.py"))["locked"]


def pins(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_requirement_of_an_extra_is_pinned_to_a_version_that_it_allows(extra: str) -> None:
    name = "constraints-optimum.txt" if extra == "optimum" else "constraints.txt"
    versions = {canonicalize_name(pin.name): pin for pin in pins(name) if not pin.marker or pin.marker.evaluate()}
    requirements = [Requirement(text) for text in (EXTRAS[extra] if extra else PROJECT["dependencies"])]
    assert requirements
    for requirement in requirements:
        (specifier,) = versions[canonicalize_name(requirement.name)].specifier
        assert specifier.operator == "=="
        assert Version(specifier.version) in requirement.specifier, requirement


def test_optimums_environment_differs_only_in_what_optimum_forces() -> None:
    ours, optimums = ({str(pin) for pin in pins(name)} for name in ("constraints.txt", "constraints-optimum.txt"))
    forced = {"huggingface-hub", "optimum", "optimum-onnx", "tokenizers", "transformers"}
    assert {Requirement(line).name for line in optimums - ours} == forced


def test_all_that_installs_reads_the_pins() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    installs = re.findall(r"install (?:\\\n\s*)?(.*-e .*)", makefile)
    assert len(installs) == 3
    assert all("$(CONSTRAIN)" in line or "-c $(OPTIMUM_LOCK)" in line for line in installs)
    wheels = re.findall(r"pip wheel (.*\.\[\S+)", (ROOT / "Dockerfile.gpu").read_text("utf-8"))
    assert len(wheels) == 2
    assert all(line.startswith("--constraint constraints.txt ") for line in wheels)
    (gate,) = re.findall(r"pip install .*", (ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    assert "-c constraints.txt" in gate
    (encoder,) = re.findall(r"ENCODER := (\S+)", makefile)
    assert encoder in {str(pin) for pin in pins("constraints.txt")}


def test_writing_the_pins_again_keeps_what_this_environment_cannot_show() -> None:
    before = (
        "# old\ngone==1\n"
        'numpy==1.26.3 ; python_version < "3.99"\nnumpy==2.4.0 ; python_version >= "3.99"\n'
        "# What CUDA adds in the GPU container, kept by hand.\ntriton==3.7.1\n"
    )
    assert LOCKED(before, {"torch": "2.13.0", "numpy": "1.26.4"}).splitlines()[1:] == [
        'numpy==1.26.4 ; python_version < "3.99"',
        'numpy==2.4.0; python_version >= "3.99"',
        "torch==2.13.0",
        "# What CUDA adds in the GPU container, kept by hand.",
        "triton==3.7.1",
    ]
