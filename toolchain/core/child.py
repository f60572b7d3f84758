"""Runs a script of ours in another Python and speaks to it in files: a vendor's pins, prints and exits stay its own.

The script imports nothing of this package. It finds a JSON object in the file ``sys.argv[1]`` and writes another to
``sys.argv[2]``; the current folder is one that may be littered. Whatever else ends it becomes an error here.

It answers once, and its Python may lack this package. What holds an engine and answers many times, with progress, is
another kind of process: :mod:`toolchain.measure.process`, which reads how one ended, and what it printed, as this does.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from toolchain.core import disk
from toolchain.core.errors import TRY_AGAIN, EngineError, LostProcessError, RecipeError, from_outside

#: How much of what a failed script printed an error repeats.
TAIL_LINES = 8
TAIL_BYTES = 4000

#: Stands before what to do about a process that was killed.
OUT_OF_MEMORY = "the machine may have run out of memory; "

#: How often a caller looks at what a script has done, in seconds.
POLL_S = 0.5

#: Ends with its parent, even one that is killed; runs the script; keeps what ended it, ``sys.exit(0)`` included.
_START = """
import json, os, runpy, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
del sys.argv[:2]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except BaseException as error:
    if not os.path.exists(sys.argv[2]):
        with open(sys.argv[2], "w", encoding="utf-8") as answer:
            json.dump({"error": type(error).__name__, "said": str(error)}, answer)
    raise
"""

#: Where an environment, or an installation of Python, has its packages.
_PACKAGES = ("lib*/python3*/site-packages", "lib*/python3*/dist-packages", "local/lib/python3*/dist-packages",
             "Lib/site-packages")  # fmt: skip


class ChildError(EngineError):
    """A script failed in its own process.

    Attributes:
        kind: Name of the exception that ended it, or empty when it was ended from outside.
        said: The exception's text.
        log: The end of what it printed.
    """

    def __init__(self, what: str, kind: str, said: str, log: str, hint: str = "") -> None:
        self.kind, self.said, self.log = kind, said, log
        first = f"{kind}: {said.strip().splitlines()[0] if said.strip() else 'no message'}" if kind else said
        super().__init__(f"{what}: {first}\n{log}".rstrip(), hint)


def run(
    script: Path, request: Mapping[str, Any], *, python: str, work: Path, threads: int, what: str,
    keep_log: Path | None = None, watch: Callable[[], None] | None = None, limit_s: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Runs a script and waits for its answer.

    Args:
        script: A file that imports only the standard library and what the vendor needs.
        request: What it is asked, JSON values.
        python: The interpreter, a path or a name on PATH; empty for this one.
        work: Folder for its litter; a new one is made inside and removed.
        threads: Threads that its libraries may compute with.
        what: What it does, for errors.
        keep_log: File for all that it prints, which outlives it and is named in errors; None keeps only the end.
        watch: Called twice a second while it works.
        limit_s: Seconds after which it is ended.

    Returns:
        The object that it wrote.

    Raises:
        RecipeError: There is no such interpreter.
        ChildError: It raised, exited, crashed, took too long, or left no answer.
        LostProcessError: It was killed, or memory ran out.
    """
    interpreter = resolve(python)
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="child-", dir=work) as folder:
        asked, answered, log = (Path(folder).resolve() / name for name in ("request.json", "answer.json", "log.txt"))
        asked.write_text(json.dumps(request), encoding="utf-8")
        log = keep_log.absolute() if keep_log else log
        with log.open("wb") as printed:
            process = subprocess.Popen(
                [interpreter, "-I", "-c", _START, str(os.getpid()), str(script), str(asked), str(answered)],
                stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, cwd=folder,
                env={**os.environ, **thread_counts(threads), "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"},
            )  # fmt: skip
            code = _wait(process, watch, limit_s)
        with log.open("rb") as file:
            printed_last = tail_of(file, TAIL_LINES)
        tail = printed_last + (f"\n    all that it printed: {keep_log}" if keep_log else "")
        if code is None:
            raise ChildError(what, "", f"was ended after {limit_s:.0f} s", tail)
        try:
            answer = json.loads(answered.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if from_outside(code):
                hint = f"{OUT_OF_MEMORY}{TRY_AGAIN}" if -code == signal.SIGKILL else TRY_AGAIN
                raise LostProcessError(f"{what}: {ended(code)}\n{tail}".rstrip(), hint) from error
            raise ChildError(what, "", ended(code) + ("" if code < 0 else " and no answer"), tail) from error
    if answer.get("error") == "MemoryError":
        raise LostProcessError(f"{what}: memory ran out\n{tail}".rstrip(), TRY_AGAIN)
    if code or "error" in answer:
        raise ChildError(what, str(answer.get("error", "")), str(answer.get("said", f"ended with code {code}")), tail)
    return dict(answer)


def _wait(process: subprocess.Popen[bytes], watch: Callable[[], None] | None, limit_s: float | None) -> int | None:
    """The exit code; None when the process was ended at its limit. Whatever happens, it does not outlive the call."""
    deadline = time.monotonic() + limit_s if limit_s is not None else None
    try:
        while deadline is None or time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_S)
            if watch is not None:
                watch()
    finally:
        process.kill()
        process.wait()
        if watch is not None:
            watch()
    return None


def resolve(python: str) -> str:
    """Path of an interpreter; empty is the one that runs this.

    Raises:
        RecipeError: There is none.
    """
    if not python:
        return sys.executable
    found = shutil.which(Path(python).expanduser().absolute() if "/" in python else python)
    if found is None:
        raise RecipeError(
            f"python: {python} is no program that can be run", "name the interpreter of an environment: ENV/bin/python"
        )
    return str(Path(found).absolute())  # not resolved: an environment is known by where its link lies


@cache
def versions(python: str, distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions of distributions in another environment, and of its Python; what is not there is ``missing``.

    They are read from the folders of the environment: whoever only looks at a recipe starts no program that it names.

    Args:
        python: The interpreter, as in ``run``.
        distributions: Their names, a tuple.

    Raises:
        RecipeError: There is no such interpreter, or it is not an environment's.
    """
    interpreter = Path(resolve(python))
    if interpreter == Path(sys.executable):
        version, folders = platform.python_version(), sys.path
    else:
        version, folders = _environment(interpreter, python)
    known = {name: list(metadata.distributions(name=name, path=folders)) for name in distributions}
    return {"python": version} | {name: each[0].version if each else "missing" for name, each in known.items()}


def _environment(interpreter: Path, python: str) -> tuple[str, list[str]]:
    """Return the version of an environment's Python, and the folders that hold its distributions.

    Raises:
        RecipeError: The file is not the interpreter of an environment or an installation.
    """
    prefix, version, prefixes = interpreter.parent.parent, "", []
    if (prefix / "pyvenv.cfg").is_file():
        lines = (prefix / "pyvenv.cfg").read_text("utf-8", "replace").splitlines()
        settings = {key.strip().lower(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
        version = ".".join((settings.get("version") or settings.get("version_info", "")).split(".")[:3])
        prefixes = [prefix]
        if settings.get("include-system-site-packages", "").lower() == "true":
            prefixes.append(Path(settings.get("home", "")).parent)
    elif (interpreter.resolve().parent.parent / "lib").is_dir():
        prefixes = [interpreter.resolve().parent.parent]
    folders = [folder for each in prefixes for pattern in _PACKAGES for folder in sorted(each.glob(pattern))]
    if not interpreter.name.startswith(("python", "pypy")) or not folders:
        raise RecipeError(
            f"python: {python} is no Python interpreter of an environment: it is not called python, or its folder has "
            "no packages; it is not started to be asked",
            "make one: python3 -m venv ENV, and name ENV/bin/python",
        )
    folders += [added for folder in folders for added in _added(folder)]
    return version or folders[0].parent.name.removeprefix("python"), [str(folder) for folder in folders]


def _added(folder: Path) -> list[Path]:
    """Return the folders that the ``.pth`` files of a folder add to it; their lines of code are not run."""
    files = sorted(file for file in folder.glob("*.pth") if disk.regular(file))
    lines = [line.strip() for file in files for line in file.read_text("utf-8", "replace").splitlines()]
    named = [folder / line for line in lines if line and not line.startswith(("#", "import ", "import\t"))]
    return [each for each in named if disk.is_folder(each)]


def thread_counts(threads: int) -> dict[str, str]:
    """Return the variables by which a process's libraries know how many threads to compute with."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))


def ended(code: int | None) -> str:
    """Say how a process ended: its exit code, or the signal that a negative one stands for."""
    return f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"


def tail_of(file: BinaryIO, most: int) -> str:
    """Return the last lines of what a process printed, indented, as an error repeats them."""
    file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
    lines = file.read().decode("utf-8", "replace").splitlines()[-most:]
    return "\n".join(f"    {line}" for line in lines)
