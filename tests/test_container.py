"""The GPU container and the workflow that builds it, as far as that can be held without a container engine or a GPU."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from tests.command import ROOT, python
from tests.tiny import Tiny, call, tiny
from toolchain.cli import cli
from toolchain.measure.machine import machine
from toolchain.pipeline import document, recipe

DOCKERFILE = ROOT / "Dockerfile.gpu"
WORKFLOW = ROOT / ".github/workflows/ci.yml"
ENTRYPOINT = ROOT / "docker/entrypoint.sh"


@dataclass
class Stage:
    """A stage of the Dockerfile: what it is from, and its instructions in order."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.instructions if name == instruction]


@functools.cache
def parsed() -> tuple[dict[str, str], dict[str, Stage]]:
    """Arguments before the first stage, with their defaults, and the stages by name."""
    lines = [line for line in DOCKERFILE.read_text("utf-8").splitlines() if not line.startswith("#")]
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        name, _, text = line.partition(" ")
        if name == "FROM":
            base, _, alias = text.partition(" AS ")
            stages[alias] = Stage(base)
        elif stages:
            list(stages.values())[-1].instructions.append((name, text.strip()))
        else:
            arguments[text.partition("=")[0]] = text.partition("=")[2]
    return arguments, stages


def filled(text: str) -> str:
    """A text with the arguments' defaults put in."""
    arguments, _ = parsed()
    text = re.sub(r"\$\{(\w+):\+[^}]*\}[^ ]*\}?", "", text)  # what stands there only where an argument is given
    return re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m[1], m[0]), text)


def environment(stage: Stage) -> dict[str, str]:
    pairs = (word.partition("=") for text in stage.all("ENV") for word in shlex.split(text))
    return {name: value for name, _, value in pairs}


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build; the last pattern that fits decides."""
    kept_out = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.lstrip("!").removeprefix("**/")
        parts = Path(path).parts
        tops = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if line and not line.startswith("#") and any(fnmatch(top, pattern) for top in (*tops, parts[-1])):
            kept_out = not line.startswith("!")
    return kept_out


def test_stages_follow_each_other_from_a_pinned_base_to_a_small_runtime() -> None:
    arguments, stages = parsed()
    assert list(stages) == ["python", "wheels", "all-wheels", "build", "runtime"]
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.\d\d", arguments["BASE"])
    known: list[str] = []
    for name, stage in stages.items():
        assert stage.base in ("${BASE}", *known)
        read = re.findall(r"from=([\w-]+)", " ".join(text for _, text in stage.instructions))
        assert set(read) <= set(known), f"{name} reads what comes after it"
        known.append(name)
    runtime = "\n".join(text for _, text in stages["runtime"].instructions)
    assert "torch" not in filled(runtime)
    assert not stages["runtime"].all("COPY")[1:], "the runtime holds its packages and its entry point alone"


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    _, stages = parsed()
    copied = [
        source
        for stage in stages.values()
        for text in stage.all("COPY")
        if "--from" not in text
        for source in [word for word in text.split() if not word.startswith("--")][:-1]
    ]
    assert {"pyproject.toml", "toolchain", "docker/entrypoint.sh"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source == "." or not ignored(source), source
    for needed in (
        "recipes/smoke.yaml",
        "benchmarks/gpu.sh",
        "tests/conftest.py",
        "artifacts/published/peers/peers.md",
    ):
        assert not ignored(needed), needed
    assert ignored(".git/config")
    assert ignored("toolchain/core/__pycache__/x.pyc")
    assert ignored("artifacts/engine/0/model.onnx")


def test_the_extras_that_are_installed_are_declared_and_their_wheels_are_built() -> None:
    _, stages = parsed()
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    extras = {
        name: set(re.findall(r"\[([\w,]+)\]", " ".join(map(filled, stage.all("RUN")))))
        for name, stage in stages.items()
    }
    split = {name: {extra for group in found for extra in group.split(",")} for name, found in extras.items()}
    assert split["wheels"] == split["runtime"] >= {"gpu", "build"}
    assert split["all-wheels"] == split["build"] >= {"torch", "gpu"}
    for name, found in split.items():
        assert found <= declared, f"{name}: {found - declared} are no extras"
        assert not {"cpu", "gpu"} <= found, f"{name}: both overwrite each other's files"
    for name in ("build", "runtime"):
        installs = [text for text in stages[name].all("RUN") if "pip install" in text]
        assert installs
        assert all("--no-index --find-links /wheels" in text for text in installs)


@pytest.mark.parametrize("name", ["build", "runtime"])
def test_an_image_runs_as_an_ordinary_user_who_owns_its_volume(name: str) -> None:
    stage = parsed()[1][name]
    names = [instruction for instruction, _ in stage.instructions]
    (user,) = stage.all("USER")
    uid, gid = map(int, user.split(":"))
    assert min(uid, gid) > 0
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])
    made = " ".join(stage.all("RUN"))
    assert f"--uid {uid} --gid {gid}" in made
    assert stage.all("VOLUME") == ["/var/lib/toolchain"]
    assert re.search(r"install -d -m 1777 -o toolchain -g toolchain .*/var/lib/toolchain", made)
    assert not re.search(r"(?i)(password|token|secret)", made)


def engine_folder(run: Tiny) -> Path:
    return next(a.path for a in run.store.artifacts() if a.kind == "engine")


def command(text: str) -> list[str]:
    """The words of a CMD in its exec form."""
    return [str(word) for word in json.loads(text[text.index("[") :])]


@pytest.mark.parametrize("instruction", ["HEALTHCHECK", "CMD"])
def test_the_command_and_the_health_check_tell_an_engine_that_runs_from_one_that_does_not(
    instruction: str, tmp_path: Path
) -> None:
    (text,) = parsed()[1]["runtime"].all(instruction)
    words = command(text)
    assert words[:3] == ["toolchain", "doctor", "--engine"]
    current = tmp_path / "engine"
    current.symlink_to(engine_folder(tiny()))
    words[3] = str(current)
    done = call(*words[1:], cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "can run here" in done.stdout
    assert ("answers" in done.stdout) == (instruction == "CMD")
    current.unlink()
    done = call(*words[1:], cwd=tmp_path)
    assert done.code == 1
    assert "engine.json is missing" in done.stderr


@pytest.mark.skipif(bool(machine()["gpus"]), reason="there is a GPU")
def test_the_health_check_says_what_a_gpus_engine_lacks_and_loads_no_framework(tmp_path: Path) -> None:
    source = engine_folder(tiny())
    folder = Path(shutil.copytree(source, tmp_path / "engine", ignore=shutil.ignore_patterns("manifest.json")))
    built = json.loads((source / "engine.json").read_text("utf-8"))
    built["options"]["provider"] = "cuda"
    (folder / "engine.json").write_text(json.dumps(built), "utf-8")
    code = (
        "import sys\nfrom toolchain.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: code = end.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\nsys.exit(code)"
    )
    done = python(code, "doctor", "--engine", folder)
    assert done.returncode == 1
    assert "onnxruntime (cuda) cannot run here: no NVIDIA GPU with a driver was found" in done.stderr
    done = python(code, "doctor", "--engine", source)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.splitlines()[-1].split()) & {"torch", "transformers", "onnx", "onnxruntime"}


def test_the_health_check_refuses_files_that_are_not_those_that_were_built(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(engine_folder(tiny()), tmp_path / "engine"))
    assert call("doctor", "--engine", "engine", cwd=tmp_path).code == 0
    model = folder / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = call("doctor", "--engine", "engine", "--open", cwd=tmp_path)
    assert found.code == 1
    assert "SHA-256 differs" in found.stderr
    model.write_bytes(whole[:1000])
    found = call("doctor", "--engine", "engine", cwd=tmp_path)
    assert found.code == 1
    assert "missing, or not of the" in found.stderr


def boot(state: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the entry point with the runtime stage's environment, its folders moved under one that is there."""
    declared = {name: value for name, value in environment(parsed()[1]["runtime"]).items() if name != "PATH"}
    moved = {
        name: value.replace("/var/lib/toolchain", str(state)).replace("/run/toolchain", str(state))
        for name, value in declared.items()
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **moved, **variables}
    return subprocess.run([ENTRYPOINT, *words], env=variables, capture_output=True, text=True, cwd=state)


def test_the_entry_point_builds_once_takes_what_is_mounted_and_refuses_nothing(tmp_path: Path) -> None:
    assert os.access(ENTRYPOINT, os.X_OK)
    assert command(parsed()[1]["runtime"].all("ENTRYPOINT")[0]) == ["toolchain-entrypoint"]
    source = next(a.path for a in tiny().store.artifacts() if a.kind == "onnx" and "parity" not in a.metrics)
    words = ("toolchain", "doctor", "--engine", str(tmp_path / "engine"), "--open")
    given = {"TOOLCHAIN_MODEL": str(source), "TOOLCHAIN_BUILD": "onnxruntime", "TOOLCHAIN_ENGINE": "/none"}
    first = boot(tmp_path, *words, **given)
    assert first.returncode == 0, first.stderr
    assert "answers" in first.stdout
    assert json.loads((tmp_path / "built.json").read_text("utf-8"))[0]["made"] is True
    built = (tmp_path / "engine").resolve()
    again = boot(tmp_path, "true", **given)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "built.json").read_text("utf-8"))[0]["made"] is False
    assert (tmp_path / "engine").resolve() == built
    mounted = engine_folder(tiny())
    assert boot(tmp_path, "true", **given | {"TOOLCHAIN_ENGINE": str(mounted)}).returncode == 0
    assert (tmp_path / "engine").resolve() == mounted.resolve()
    nothing = boot(tmp_path, "true", TOOLCHAIN_MODEL="/none", TOOLCHAIN_ENGINE="/none")
    assert nothing.returncode == 1
    assert "there is no engine: mount" in nothing.stderr


def test_a_mounted_engine_needs_no_folder_to_write_to_and_a_build_says_which_one_it_needs(tmp_path: Path) -> None:
    made = " ".join(parsed()[1]["runtime"].all("RUN"))
    assert "ln -s /engine /run/toolchain/engine" in made
    engine, current = tmp_path / "mounted", tmp_path / "current"
    current.mkdir()
    (current / "engine").symlink_to(engine)
    engine.symlink_to(engine_folder(tiny()))
    before = current.stat().st_mtime_ns
    done = boot(tmp_path, "true", TOOLCHAIN_ENGINE=str(engine), TOOLCHAIN_CURRENT=str(current))
    assert (done.returncode, done.stderr) == (0, "")
    assert current.stat().st_mtime_ns == before
    (tmp_path / "model.onnx").touch()
    nowhere = {"TOOLCHAIN_ENGINE": "/none", "TOOLCHAIN_MODEL": str(tmp_path), "TOOLCHAIN_CURRENT": "/proc/none"}
    done = boot(tmp_path, "true", **nowhere)
    assert done.returncode == 1
    assert "cannot write /proc/none: mount a folder there, such as --tmpfs /proc/none:mode=1777" in done.stderr


def steps() -> list[dict[str, Any]]:
    jobs = YAML(typ="safe", pure=True).load(WORKFLOW.read_text("utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_the_workflows_actions_are_pinned_and_its_token_may_only_read() -> None:
    workflow = YAML(typ="safe", pure=True).load(WORKFLOW.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["gpu"]["if"].startswith("vars.GPU_RUNNER == 'true'")
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    used = re.findall(r"uses: (\S+) # (\S+)", WORKFLOW.read_text("utf-8"))
    assert len(used) == sum("uses" in step for step in steps()) >= 5
    for action, version in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r"v\d+\.\d+\.\d+", version), version


def test_the_workflows_commands_parse_and_name_what_is_there() -> None:
    runs = [shlex.split(step["run"], comments=True) for step in steps() if "run" in step]
    found = [words[words.index("toolchain") + 1 :] for words in runs if "toolchain" in words]
    assert [words[0] for words in found] == ["run", "export", "run"]
    for words in found:
        with cli.make_context("toolchain", list(words)) as context:
            name, chosen, rest = cli.resolve_command(context, list(words))
            assert isinstance(chosen, click.Command)
            values = chosen.make_context(name, rest, parent=context).params
        made = document.read(ROOT / "recipes/smoke.yaml")
        parsed_recipe = recipe.parse(made, values.get("sets", ()))
        assert parsed_recipe.check or name == "export"
    targets = {words[words.index("--target") + 1] for words in runs if "--target" in words}
    assert targets == {"build", "runtime"}
    text = WORKFLOW.read_text("utf-8")
    for path in (".ci/run", "Dockerfile.gpu", "benchmarks/gpu.sh"):
        assert path in text
        assert (ROOT / path).exists()
