"""A short run of the fuzzer and of the faults: what they count today, and that they see what they are for."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT
from tests.tiny import tiny

#: Readers whose cases take milliseconds and need no framework.
READERS = ("recipe", "set", "task", "data", "report", "arguments", "manifest", "evaluation", "timing")

#: What may never be found again; what else is found is in artifacts/published/fuzz.
NEVER = ("outside", "code", "hang", "crash")


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_changed_inputs_run_nothing_and_read_nothing_outside(tmp_path: Path) -> None:
    output = tmp_path / "fuzz.json"
    command = [sys.executable, "benchmarks/fuzz.py", "--cases", "60", "--seed", "24", "--good", str(tiny().root)]
    command += ["--readers", *READERS, "--output", str(output)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert output.exists(), done.stderr
    result = json.loads(output.read_text("utf-8"))
    assert set(result["readers"]) == set(READERS)
    assert result["cases"] >= 55
    assert [each for each in result["findings"] if each["what"] in NEVER] == []


def test_what_the_fuzzer_looks_for_is_seen(tmp_path: Path) -> None:
    code = """
import os, sys, runpy, pickle
from pathlib import Path
sys.path.insert(0, "benchmarks")
from fuzz_readers import watch, readers, goods
root = Path(sys.argv[1])
watching = watch.Watch(root, root / "good", frozenset())
watching.prepare()
def attack(argv):
    open("../outside/secret.txt").read()
    pickle.loads(Path("p").read_bytes())
    print("\\x1b[2J", file=sys.stderr)
    raise KeyError("x")
watch.call = attack
def make(rng, good):
    Path("p").write_bytes(pickle.dumps(goods.Reducer()))
    return ["validate", "p"]
readers.READERS["recipe"] = make
case = watching.run(1, watch.Case("recipe", 0))
print(*sorted({what for what, _ in case.findings}))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["code", "outside", "text", "traceback"], done.stderr


@pytest.mark.parametrize("name", ["full", "descriptors"])
def test_a_fault_is_one_message_and_loses_nothing(tmp_path: Path, name: str) -> None:
    faults: Any = importlib.import_module("faults")
    store = tiny().copy(tmp_path)
    argv = [sys.executable, "-m", "toolchain", "report", str(tmp_path / "tiny.yaml"), "--store", str(store)]
    limit = 'exec "$@" > /dev/full' if name == "full" else 'ulimit -n 20; exec "$@"'
    answer = faults.ended(["bash", "-c", limit, "bash", *argv], store, faults.Answer(name))
    assert answer.problems == []
    assert answer.code == (1 if name == "full" else 0)
    assert faults.published(store) == {artifact.key for artifact in tiny().store.artifacts()}


def test_the_table_of_faults_names_codes_and_problems() -> None:
    faults: Any = importlib.import_module("faults")
    answers = [faults.Answer("| head", 0, "fine"), faults.Answer("| head", 1, "bad", problems=["a traceback"])]
    row = faults.table(answers).splitlines()[-1]
    assert row == r"| \| head | 2 | 0, 1 | a traceback | fine |"
