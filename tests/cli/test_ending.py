"""Whatever ends a command is one message of at most a screen, and an exit code; on whatever outputs are left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.command import ROOT
from tests.tiny import call
from toolchain.cli import ending, options
from toolchain.core import failure, limits
from toolchain.core.errors import GateError, ToolchainError


class PanicException(BaseException):
    """What a library in Rust raises when it panics: no ``Exception``."""


def _shell(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's line in which $T is the command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "T": f"{sys.executable} -m toolchain", **variables}
    return subprocess.run(["bash", "-c", line], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def _raise(monkeypatch: pytest.MonkeyPatch, error: BaseException, *argv: str) -> tuple[int, str, str]:
    """Run a command whose work raises this, and return its exit code and outputs."""

    def work(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(options, "print_rich", work)
    monkeypatch.setattr(options, "echo_json", work)
    result = call("list", "techniques", *argv, cwd=ROOT)
    return result.code, result.stdout, result.stderr


@pytest.mark.parametrize("kind", [PanicException, ValueError, AssertionError])
def test_what_nobody_foresaw_is_one_sentence_and_its_traceback_is_in_a_file(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = _raise(monkeypatch, kind("index out of bounds\nmore"))
    (file,) = tmp_path.glob("toolchain-error-*.txt")
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        f"error: internal error: {kind.__name__}: index out of bounds",
        f"  hint: please report it with the command and its traceback, which is in {file}",
    ]
    assert "Traceback (most recent call last)" in file.read_text("utf-8")


def test_a_traceback_goes_to_stderr_where_no_file_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    assert "stands above" in failure.explain(KeyError("labels")).hint
    assert "KeyError: 'labels'" in capsys.readouterr().err


def test_a_library_that_ends_the_program_has_not_done_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = _raise(monkeypatch, SystemExit(0))
    assert code == 1
    assert "a library ended the program with code 0" in err


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (OSError(28, "No space left on device", "a.onnx"), "a.onnx: No space left on device", "free some space"),
        (OSError(24, "Too many open files"), "Too many open files", "ulimit -n 1024"),
        (PermissionError(13, "Permission denied", "/store"), "/store: Permission denied", "may read and write"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "no folder for tempo", "TMPDIR="),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory: MemoryError: Unable to allocate 9 GiB", "memory"),
        ("a\udc80".encode, r"a\udc80 holds surrogates", "UTF-8"),
        (GateError("parity failed", "quantize less"), "parity failed", "quantize less"),
    ],
)
def test_errors_of_the_machine_are_named_with_the_way_out(error: object, message: str, hint: str) -> None:
    if callable(error):
        with pytest.raises(UnicodeEncodeError) as caught:
            error()
        error = caught.value
    assert isinstance(error, BaseException)
    explained = failure.explain(error)
    assert message in explained.message
    assert hint in explained.hint


def test_a_message_is_never_longer_than_a_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ToolchainError("\n".join(f"{number}: {'x' * 3000}" for number in range(500)), "y " * 5000)
    code, out, err = _raise(monkeypatch, long, "--json")
    rows = sum(1 + len(line) // 80 for line in err.splitlines())
    assert (code, json.loads(out)["error"]["exit_code"]) == (1, 1)
    assert rows <= 26
    assert len(err) < 1900
    usage = click.UsageError("z" * 9000)
    assert ending.answer(usage, as_json=False) == 2
    assert len(capsys.readouterr().err) < failure.MESSAGE_CHARACTERS + 20


def test_what_is_left_out_of_a_message_is_counted() -> None:
    assert failure.shorten("a\nb\nc\nd", 3) == "a\nb\n... and 2 more lines"
    assert failure.shorten("short") == "short"
    assert len(failure.shorten("x" * 5000, 1, 400)) <= 400


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full_is_said_once_and_one_that_nobody_reads_ends_quietly() -> None:
    done = _shell(
        "$T list >/dev/full; echo $?; $T list >/dev/full 2>/dev/full; echo $?; $T show nope 2>/dev/full; echo $?; "
        "$T list >&-; echo $?; $T show nope 2>&-; echo $?; { $T list; echo $? >&2; } | true"
    )
    codes, said = done.stdout.split(), done.stderr.splitlines()
    assert codes == ["1", "1", "1", "0", "1"]
    assert said == [
        "error: standard output cannot be written: No space left on device",
        "  hint: write to another file or program",
        "141",
    ]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("RANK", "x", "RANK is 'x'"), ("WORLD_SIZE", "-1", "WORLD_SIZE is '-1'"), ("RANK", "5", "0 to 0"),
        ("OMP_NUM_THREADS", "²", "OMP_NUM_THREADS is '²'"), ("OMP_NUM_THREADS", "2,3", ""),
        ("COLUMNS", "x", ""), ("COLUMNS", "²", ""), ("COLUMNS", "9" * 30, ""), ("LINES", "x", ""),
    ],
)  # fmt: skip
def test_variables_that_hold_no_number_are_answered(
    variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, value)
    result = call("run", "recipes/quickstart.yaml", "--dry-run", "--store", str(tmp_path / "store"), cwd=ROOT)
    assert result.code == bool(expected)
    assert expected in result.stderr
    assert not re.search("Traceback|internal error", result.stderr)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("~nosuchuser/x.yaml", "there is no home folder ~nosuchuser"), ("a\udcff.yaml", "no text"),
        ("a\0.yaml", "NUL"), ("a" * 300 + ".yaml", "File name too long"),
    ],
)  # fmt: skip
def test_names_that_no_file_can_have_are_refused(word: str, expected: str) -> None:
    for argv in (("validate", word), ("list", "artifacts", "--store", word)):
        result = call(*argv, cwd=ROOT)
        assert result.code == 1
        assert expected in result.stderr
        assert not re.search("Traceback|internal error", result.stderr)


def test_a_limit_is_named_and_set_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits.limit("rows") == 1_000_000
    monkeypatch.setenv("TOOLCHAIN_LIMIT_ROWS", "7")
    assert limits.limit("rows") == 7
    assert "TOOLCHAIN_LIMIT_ROWS (now 7: rows of one data file)" in limits.way_out("rows")
    for text in ("x", "0", "-1", "1e6", "²", "9" * 40):
        monkeypatch.setenv("TOOLCHAIN_LIMIT_ROWS", text)
        with pytest.raises(ToolchainError, match="TOOLCHAIN_LIMIT_ROWS is"):
            limits.limit("rows")


def test_the_page_on_security_names_every_limit_with_its_default() -> None:
    page = (ROOT / "SECURITY.md").read_text("utf-8")
    assert len(limits.LIMITS) > 10
    for name, limit in limits.LIMITS.items():
        assert f"| `{limits.variable_of(name)}` | {limit.default:,} | {limit.what} |" in page


def test_problems_of_a_recipe_fit_on_a_screen_and_json_has_more(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("variants: {base: [export]}\n" + "".join(f"key{number}: 1\n" for number in range(300)), "utf-8")
    result = call("validate", str(path), cwd=ROOT)
    assert result.code == 1
    assert len(result.stderr) <= failure.SCREEN_CHARACTERS + 1
    assert (
        len(call("validate", str(path), "--json", cwd=ROOT).json[0]["problems"]) == 1 + 100
    )  # the first says that there may be more
    result = call("validate", "recipes/quickstart.yaml", "--set", f"finetune.batch_size={'9' * 4000}", cwd=ROOT)
    assert "above 4096" in result.stderr
    assert len(result.stderr) < 700
