"""Runs one case in this process and says what went wrong: opens outside, code run, tracebacks, memory, raw text."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import sys
import sysconfig
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_readers.goods import CANARY, TRACE
from fuzz_readers.readers import READERS, UNCHANGED, UNCHANGED_HEAVY

#: What is counted, in the order of the table; hangs and crashes are seen from outside.
COUNTED = ("outside", "code", "traceback", "hang", "crash", "memory", "text", "long")

#: Above the warm parent's memory.
MEMORY_BYTES = 2 << 30

#: A message fits on a screen.
SCREEN_CHARS = 4000

_FAILED = re.compile(r"Traceback \(most recent call last\)|bug of ours|internal error|panicked at")
_MEMORY = re.compile(r"MemoryError|bad_alloc|[Uu]nable to allocate|[Cc]an(no|')t allocate memory|out of memory")
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_FRAME = re.compile(r'File "[^"]*/(toolchain/[^"]+)", line (\d+)')


@dataclass
class Case:
    """One case, and what was seen of it.

    Attributes:
        reader: The reader.
        number: Its number; with the seed it decides everything.
        seconds: Processor time of this process for making the case, its command, and looking at what came of it.
        findings: ``(what, where)`` of all that went wrong.
    """

    reader: str
    number: int
    argv: list[str] = field(default_factory=list)
    code: int | None = None
    message: str = ""
    seconds: float = 0.0
    findings: list[tuple[str, str]] = field(default_factory=list)


class Watch:
    """Sees what this process opens and starts.

    Args:
        root: Folder of the cases and of the folders that no case may touch.
        good: The good inputs.
        learned: Files outside and programs that a good input needs; what else is opened or started is a finding.
    """

    def __init__(self, root: Path, good: Path, learned: frozenset[str]) -> None:
        self.root, self.good, self.learned = root, good, learned
        self.folder: Path | None = None
        self.base_bytes = _peak_bytes()
        self.seen: set[tuple[str, str]] = set()
        self.everything: set[str] = set()
        prefixes = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), str(Path(__file__).parents[2])}
        inside = [f"{os.path.realpath(path)}/" for path in prefixes]
        self.allowed: tuple[str, ...] = (*inside, "/sys/", "/dev/null", "/dev/urandom", f"{root}/trace/")
        self.trace = root / "trace"
        sys.addaudithook(self._hook)

    def prepare(self) -> None:
        """Make the folders that no case may touch, and the place for traces."""
        self.trace.mkdir(parents=True, exist_ok=True)
        os.environ[TRACE] = str(self.trace)
        for folder in self._outside():
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("secret.txt", "secret.safetensors", "data.arrow"):
                (folder / name).write_text(f"{CANARY} {name}\n")
                os.utime(folder / name, (0, 10))  # the next read sets its access time: "relatime"

    def _outside(self) -> tuple[Path, ...]:
        return (self.root / "outside", self.root / "cases" / "outside", self.root / "cases" / "outside.removed")

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            self._opened(arguments[0])
        elif event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"):
            program = str(arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0])
            self.everything.add(f"program {program}")
            if (
                os.path.realpath(program) != os.path.realpath(sys.executable)
                and f"program {program}" not in self.learned
            ):
                self.seen.add(("code", f"program {program}"))

    def _opened(self, path: object) -> None:
        if not isinstance(path, (str, bytes)) or self.folder is None:
            return
        real = os.path.realpath(os.fsdecode(path))
        if real.startswith((f"{self.folder}/", *self.allowed)) or real == str(self.folder):
            return
        if re.match(r"/proc/(self|\d+)/(?!environ)", real) or real.startswith(("/proc/", "/dev/pts")):
            return
        self.everything.add(real)
        if real not in self.learned and not real.startswith(str(self.good)):
            self.seen.add(("outside", real))

    def run(self, seed: int, case: Case) -> Case:
        """Make a case and run its command here."""
        started = time.process_time()
        folder = self.root / "cases" / str(case.number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.chdir(folder)
        modules = set(sys.modules)
        try:
            case.argv = READERS[case.reader](random.Random(f"{seed}/{case.reader}/{case.number}"), self.good)
        except RecursionError:
            case.message = "not made: nested too deeply to be changed again"
            return case
        self.seen.clear()
        failure = None
        with Captured(self.root / "stdout", self.root / "stderr") as captured:
            self.folder = folder
            try:
                case.code = call(case.argv)
            except BaseException as error:
                failure = error
            self.folder = None
        case.findings += sorted(self.seen)
        self._judge(case, captured, failure, modules)
        os.chdir(self.root)
        _remove(folder)
        case.seconds = round(time.process_time() - started, 3)
        return case

    def learn(self, *, heavy: bool) -> None:
        """Run commands on inputs that nobody changed, and note all that they open.

        Args:
            heavy: Those too that need PyTorch or a runtime.
        """
        folder = self.root / "cases" / "unchanged"
        shutil.copytree(self.good, folder)
        os.chdir(folder)
        for argv in (*UNCHANGED, *(UNCHANGED_HEAVY if heavy else ())):
            with Captured(self.root / "stdout", self.root / "stderr") as captured:
                self.folder = folder
                code = call(argv)
                self.folder = None
            if code not in (0, 1, 3):
                raise RuntimeError(f"{argv} ended with {code}: {captured.err}")

    def _judge(self, case: Case, captured: Captured, failure: BaseException | None, modules: set[str]) -> None:
        out, err = captured.out, captured.err
        case.message = (err.strip() or out.strip())[:300]
        if failure is not None:
            kind = "memory" if isinstance(failure, MemoryError) or _MEMORY.search(str(failure)) else "traceback"
            case.findings.append((kind, _signature(failure)))
        elif _MEMORY.search(err):
            case.findings.append(("memory", _printed(err)))
        elif _FAILED.search(err):
            case.findings.append(("traceback", _printed(err)))
        elif case.code not in (0, 1, 2, 3):
            case.findings.append(("traceback", f"exit code {case.code}"))
        if _peak_bytes() > MEMORY_BYTES + self.base_bytes:
            case.findings.append(("memory", f"{_peak_bytes() / 1e9:.1f} GB"))
        for path in self.trace.iterdir():
            case.findings.append(("code", f"a {path.name} of a stranger ran"))
            path.unlink()
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(self.root / "cases")):
                case.findings.append(("code", f"module {name} imported"))
        self._look_outside(case)
        if CANARY in out or CANARY in err:
            case.findings.append(("outside", "a text from outside was printed"))
        shown = err + ("" if "--json" in case.argv or case.argv[0] == "completion" else out)
        if raw := _RAW.search(shown):
            case.findings.append(("text", f"U+{ord(raw[0]):04X} was printed by {case.argv[0]}"))
        if len(err) > SCREEN_CHARS and not _FAILED.search(err):
            case.findings.append(("long", f"a message longer than a screen by {case.argv[0]}"))
        for path in sorted(Path.cwd().glob("out/*")):
            self._look_at(case, path)

    def _look_outside(self, case: Case) -> None:
        changed = False
        for folder in self._outside():
            names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
            if names != ["data.arrow", "secret.safetensors", "secret.txt"]:
                case.findings.append(("outside", f"{folder.name} was changed: {', '.join(names) or 'removed'}"))
                changed = True
                continue
            for path in folder.iterdir():
                status = path.stat()
                if status.st_atime != 0 or status.st_mtime != 10:
                    case.findings.append(
                        ("outside", f"{path.name} was {'read' if status.st_mtime == 10 else 'written'}")
                    )
                    changed = True
        if changed:
            self.prepare()

    def _look_at(self, case: Case, path: Path) -> None:
        if not path.is_file() or path.suffix not in (".html", ".svg", ".md", ".csv"):
            return
        content = path.read_text("utf-8", "replace")
        if "<img src=x onerror" in content:
            case.findings.append(("text", f"markup in {path.suffix}"))
        if path.suffix == ".csv" and re.search(r'(?m)(^|[,;])"?[=@+]', content):
            case.findings.append(("text", "a formula in .csv"))


def call(argv: list[str]) -> int:
    """Run the command line here and return its exit code."""
    from toolchain.cli import main

    try:
        main(argv)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


class Captured:
    """Sends what this process and vendors' native code print to two files, and reads them.

    Args:
        out: File for standard output.
        err: File for standard error.
    """

    def __init__(self, out: Path, err: Path) -> None:
        self.files = (out, err)
        self.out = self.err = ""

    def __enter__(self) -> Captured:
        sys.stdout.flush()
        sys.stderr.flush()
        self._before = [os.dup(1), os.dup(2)]
        for number, path in zip((1, 2), self.files, strict=True):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        return self

    def __exit__(self, *error: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue
        for number, before in zip((1, 2), self._before, strict=True):
            os.dup2(before, number)
            os.close(before)
        texts = [path.read_bytes()[: 1 << 22].decode("utf-8", "replace") for path in self.files]
        self.out, self.err = texts


def _peak_bytes() -> int:
    """Return the most memory that this process or one that it waited for has used."""
    return 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _signature(error: BaseException) -> str:
    """Return type and place of an exception: the last line of ours that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/toolchain/" in frame.filename]
    where = frames[-1] if frames else None
    place = f"{where.filename.partition('/toolchain/')[2]}:{where.lineno}" if where else "outside of ours"
    return f"{type(error).__name__} at {place}: {str(error)[:120]!r}"


def _printed(err: str) -> str:
    """Return the same of a traceback that was printed, or written to a file that the message names."""
    if (named := re.search(r"\S+/toolchain-error-\w+\.txt", err)) and Path(named[0]).is_file():
        err = Path(named[0]).read_text("utf-8", "replace")
    frames = _FRAME.findall(err)
    lines = [line for line in err.strip().splitlines() if line and not line.startswith((" ", "hint"))]
    last = next(
        (line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Warning|Exit|Panic)\b", line)), ""
    )
    place = f"{frames[-1][0].removeprefix('toolchain/')}:{frames[-1][1]}" if frames else "no place"
    return f"{(last or (lines[-1] if lines else ''))[:140]!r} at {place}"


def _remove(folder: Path) -> None:
    """Remove a case's folder, unreadable parts included."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def grouped(cases: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how many cases of each reader had each finding."""
    table: dict[str, dict[str, int]] = {}
    for case in cases:
        row = table.setdefault(case["reader"], {"cases": 0, **dict.fromkeys(COUNTED, 0)})
        row["cases"] += 1
        for what in {what for what, _ in case["findings"]}:
            row[what] += 1
    return table
