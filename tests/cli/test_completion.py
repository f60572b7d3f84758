from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.tiny import RECIPE
from toolchain.core import registry

#: Runs the completion as a shell does, then says on stderr what was loaded.
PROGRAM = """
import sys
from toolchain.cli import main
try:
    main([])
except SystemExit:
    pass
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def _complete(folder: Path, line: str) -> list[str]:
    """What Tab offers behind a line; its last word, which may be empty, is being typed."""
    words = line.split(" ")
    environment = {
        **os.environ, "_TOOLCHAIN_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert not set(done.stderr.split()) & {"torch", "transformers", "onnx", "onnxruntime"}
    return [item.partition(",")[2] for item in done.stdout.split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion")
    (path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("toolchain optimize graph --technique ", list(registry.names("optimize"))),
        ("toolchain compress model -t low", ["low_rank"]),
        ("toolchain build graph --engine ", list(registry.names("engines"))),
        ("toolchain run tiny.yaml --variant ", ["base", "dynamic-int8"]),
        ("toolchain run tiny.yaml --set benchmark.th", ["benchmark.threads="]),
        ("toolchain run tiny.yaml --set finetune.learn", ["finetune.learning_rate="]),
        ("toolchain run tiny.yaml --set dynamic_int8.per", ["dynamic_int8.per_channel="]),
        ("toolchain run tiny.yaml --set vari", ["variants="]),
        ("toolchain run ti", ["tickets", "tiny.yaml"]),
        ("toolchain run missing.yaml --variant ", []),
        ("toolchain show static_", ["static_fp8", "static_int8"]),
        ("toolchain list rec", ["recipes"]),
    ],
)
def test_names_are_offered_without_loading_a_framework(folder: Path, line: str, offers: list[str]) -> None:
    assert _complete(folder, line) == offers


def test_recipes_of_a_checkout_are_offered_once() -> None:
    offered = _complete(ROOT, "toolchain run smo")
    assert offered == ["smoke"]
