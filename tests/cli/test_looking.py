"""What only looks starts no program, and imports no package that a recipe names."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.command import python
from tests.tiny import tiny

#: Runs commands one after the other, and prints their codes and what was started or imported meanwhile.
LOOK = """
import json, os, sys
sys.path.insert(0, os.getcwd())
STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
seen = []
sys.addaudithook(lambda event, arguments: seen.append([event, repr(arguments)]) if event in STARTED else None)
from toolchain.cli import main
codes = []
for argv in json.loads(sys.argv[1]):
    try:
        main(argv)
    except SystemExit as stop:
        codes.append(stop.code)
here = [n for n, m in list(sys.modules.items()) if str(getattr(m, "__file__", "") or "").startswith(os.getcwd())]
print("\\n" + json.dumps({"codes": codes, "started": seen, "imported": here}))
"""

PROGRAM = "#!/bin/sh\ntouch {trace}\nexit 1\n"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a store in which all is made, and programs and packages that leave a trace."""
    tiny().copy(tmp_path)
    environment = tmp_path / "env"
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.2\n")
    for name in ("optimum_onnx-0.1.0", "transformers-4.57.6"):
        info = environment / "lib" / "python3.11" / "site-packages" / f"{name}.dist-info"
        info.mkdir(parents=True)
        distribution, _, version = name.rpartition("-")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    for program in (tmp_path / "x.sh", environment / "bin" / "python"):
        program.write_text(PROGRAM.format(trace=tmp_path / "trace"))
        program.chmod(0o755)
    package = tmp_path / "evil" / "sub"
    package.mkdir(parents=True)
    for code in (tmp_path / "evil" / "__init__.py", package / "__init__.py"):
        code.write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    shutil.copytree(tiny().artifact("checkpoint").path, package / "m")
    return tmp_path


def look(here: Path, *commands: tuple[str, ...]) -> tuple[list[int], str]:
    done = python(LOOK, json.dumps(commands), folder=here, path=Path(__file__).parents[2])
    assert "Traceback" not in done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["started"] == []
    assert seen["imported"] == []
    assert not (here / "trace").exists()
    return seen["codes"], done.stderr


def commands(recipe: str) -> list[tuple[str, ...]]:
    store = ("--store", "store")
    return [
        ("validate", recipe), ("explain", recipe, *store), ("run", recipe, "--dry-run", *store),
        ("gc", recipe, "--dry-run", *store), ("export", recipe, "--dry-run", *store),
    ]  # fmt: skip


def test_what_has_been_run_is_looked_at(here: Path) -> None:
    more = [("report", "tiny.yaml", "--store", "store"), ("list", "artifacts", "--store", "store"), ("list", "engines")]
    codes, _ = look(here, *commands("tiny.yaml"), *more)
    assert codes == [0] * len(codes)


def test_an_interpreter_that_a_recipe_names_is_not_started(here: Path) -> None:
    text = (here / "tiny.yaml").read_text()
    for name, program in (("script", "./x.sh"), ("env", str(here / "env" / "bin" / "python"))):
        changed = text.replace("base: [export]", f"base: [export: {{exporter: optimum, python: {program}}}]")
        assert changed != text
        (here / f"{name}.yaml").write_text(changed.replace("[export: ", "[{export: ").replace("}]", "}}]"))
    codes, errors = look(here, *commands("script.yaml"))
    assert codes == [0, 1, 1, 1, 1]
    assert "python: ./x.sh is no Python interpreter of an environment" in errors
    codes, _ = look(here, *commands("env.yaml"))
    assert codes == [0, 0, 0, 0, 0]


def test_a_package_is_found_without_importing_those_around_it(here: Path) -> None:
    text = (here / "tiny.yaml").read_text()
    (here / "package.yaml").write_text(text.replace("scratch:bert-1x32", "package:evil.sub/m"))
    codes, _ = look(here, *commands("package.yaml"))
    assert codes == [0, 0, 0, 0, 0]
    (here / "package.yaml").write_text(text.replace("scratch:bert-1x32", "package:evil.other/m"))
    codes, errors = look(here, ("validate", "package.yaml"), ("explain", "package.yaml", "--store", "store"))
    assert codes == [0, 1]
    assert "the package 'evil.other' is not installed" in errors


@pytest.mark.skipif(os.name != "posix", reason="a program that is a script")
def test_versions_are_read_from_the_environment(here: Path) -> None:
    from toolchain.core import child

    found = child.versions(str(here / "env" / "bin" / "python"), ("optimum-onnx", "transformers", "torch"))
    assert found == {"python": "3.11.2", "optimum-onnx": "0.1.0", "transformers": "4.57.6", "torch": "missing"}
    assert not (here / "trace").exists()
    real = Path(sys.executable).resolve()
    assert child.versions(str(real), ("no-such-distribution",))["no-such-distribution"] == "missing"
