"""JSON that a stranger may have written is read through one door, :mod:`toolchain.core.documents`, with its limits."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "toolchain"

#: Readers of what this program, or a library in its own process, has written a moment before, and why they may be.
OWN = {
    "core/documents.py": "the door itself",
    "core/manifest.py": "what is about to be written",
    "core/checked.py": "a record beside the store; a damaged one is an empty one",
    "core/child.py": "the answer of a child process",
    "model/_door_child.py": "the request to a child process",
    "model/_optimum_child.py": "the request to a child process",
    "measure/process.py": "the answer of a worker",
    "measure/worker.py": "the request to a worker",
    "layers/sensitivity.py": "a journal in the folder of the work",
    "compress/low_rank.py": "a journal in the folder of the work",
    "compress/vocabulary_prune/tokenizer_file.py": "what the tokenizers library has made of a tokenizer",
    "augment/shared/examples.py": "a journal in the folder of the work",
    "model/train.py": "progress in the folder of the work",
    "deliver/report/kept.py": "what is about to be written",
}
#: The same of the folders that hold conversions by vendors.
OWN_FOLDERS = ("engines", "optimize")


@functools.cache
def _readers() -> set[str]:
    calls = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and ast.unparse(called) in ("json.load", "json.loads"):
                calls.add(path.relative_to(PACKAGE).as_posix())
    return calls


def test_nothing_else_reads_json() -> None:
    others = {name for name in _readers() if not name.startswith(OWN_FOLDERS)}
    assert others == set(OWN)


@pytest.mark.parametrize("folder", OWN_FOLDERS)
def test_engines_and_passes_read_answers_of_children_and_profiles_alone(folder: str) -> None:
    allowed = ("_child", "inc", "trials", "session")
    assert all(any(part in name for part in allowed) for name in _readers() if name.startswith(folder))
