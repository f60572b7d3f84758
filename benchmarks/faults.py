"""Breaks what a run stands on, and notes what it prints, how it ends, and what is left.

    python benchmarks/faults.py --times 5 --output faults.json
    python benchmarks/faults.py --faults dev-full head closed-output --times 1

Faults: signals at every stage and at every worker, a full disk, no inodes, few descriptors, little memory, folders that
may not be written, a clock that is set back, odd encodings, closed outputs, odd variables. A fault is answered well
when the command says one thing in a few lines without a traceback, ends with a code of its own, leaves no process and
loses no artifact, and the same command completes afterwards with the digests of a run that nothing disturbed.
``kills.py`` kills at random moments; this file kills at each stage, and shares its runs and its comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kills import RECIPE, Digests, command, digests, leftovers, published, run

from toolchain.core.store import Store

#: Signals are sent when this stage is named.
STAGES = ("finetune", "export", "optimize", "build", "evaluate", "time")

#: Seconds after which a command that a signal should have ended counts as hung, and any other.
ENDS_S, LIMIT_S = 10.0, 240.0

#: A message has at most so many lines; more is a screen that nobody reads.
LINES = 14

_BROKEN = re.compile(r"Traceback \(most recent|bug of ours|internal error|Segmentation|core dumped")


@dataclass
class Answer:
    """How a command answered a fault."""

    fault: str
    code: int | None = None
    said: str = ""
    seconds: float = 0.0
    skipped: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ground:
    """What faults work with: a recipe, a finished store, and what it must come to."""

    folder: Path
    recipe: Path
    finished: Path
    expected: Digests

    def store(self, name: str, *, without: Sequence[str] = ()) -> Path:
        """A copy of the finished store, without some kinds of artifacts."""
        store = self.folder / name / "store"
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.finished, store)
        for kind in without:
            shutil.rmtree(store / kind)
        return store


#: A fault: breaks something, runs the command, and says how it answered.
Fault = Callable[[Ground], Answer]

#: What a run makes again when only the checkpoint is there.
AFTER_TRAINING = ("onnx", "engine", "evaluation", "timing")


def ended(
    argv: Sequence[str], store: Path, answer: Answer, *, stage: str = "", act: Callable[[int], None] | None = None,
    env: Mapping[str, str] | None = None, before: Callable[[], None] | None = None, stdout: Any = subprocess.DEVNULL,
) -> Answer:  # fmt: skip
    """Run a command under a fault and note its code and what it said.

    Args:
        argv: The command.
        store: Its store, by which its processes are known.
        answer: Gets the outcome.
        stage: When the log names this stage, ``act`` is done.
        act: What is done to the process, by its id.
        env: Variables.
        before: Done in the child before the command starts.
        stdout: Where its output goes.
    """

    def ready() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        if before is not None:
            before()

    started = time.monotonic()
    process = subprocess.Popen(
        argv, env={**os.environ, "KILLS_STORE": str(store), **(env or {})}, stdin=subprocess.DEVNULL, stdout=stdout,
        stderr=subprocess.PIPE, preexec_fn=ready, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[str] = []
    for raw in process.stderr:
        lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
        if act is not None and re.search(rf"\] {stage}\b", lines[-1]):
            act(process.pid)
            started, act = time.monotonic(), None
    try:
        answer.code = process.wait(ENDS_S if stage else LIMIT_S)
    except subprocess.TimeoutExpired:
        answer.problems.append("did not end")
        process.kill()
        answer.code = process.wait()
    answer.seconds = round(time.monotonic() - started, 1)
    text = "\n".join(lines)
    found = [line for line in lines if line and not re.match(r"\s*\[\d+/\d+\]|    \w|\d+ of \d+", line)]
    answer.said = "\n".join(found[-LINES:])[:1000]
    if _BROKEN.search(text):
        answer.problems.append("a traceback or an internal error")
    if len(found) > LINES:
        answer.problems.append(f"{len(found)} lines")
    return answer


def _undone(ground: Ground, store: Path, answer: Answer, kept: set[str]) -> Answer:
    """Run again without the fault: nothing may be lost, left, or different."""
    time.sleep(0.5)
    answer.problems += [f"left: {each}" for each in leftovers(store) if each.startswith("process")]
    lost = kept - published(store)
    answer.problems += [f"lost {len(lost)} artifacts"] if lost else []
    code, _ = run(ground.recipe, store)
    answer.problems += [f"the next run ended with {code}"] if code else []
    changed = [name for name, value in ground.expected.items() if digests(store).get(name) != value]
    answer.problems += [f"other digests: {', '.join(changed)}"] if changed and not code else []
    answer.problems += [f"left: {each}" for each in leftovers(store)]
    shutil.rmtree(store.parent, ignore_errors=True)
    return answer


def _signalled(number: signal.Signals, stage: str, worker: bool = False) -> Fault:
    def fault(ground: Ground) -> Answer:
        store = ground.folder / "signalled" / "store"
        shutil.rmtree(store.parent, ignore_errors=True)
        answer = Answer(f"{number.name} {'to a worker ' if worker else ''}at {stage}")
        act = (lambda pid: _to_worker(store, pid, number)) if worker else (lambda pid: os.kill(pid, number))
        ended(command(ground.recipe, store), store, answer, stage=stage, act=act)
        right = {signal.SIGKILL: (-9,), signal.SIGINT: (130,), signal.SIGTERM: (130,)}[number]
        if not worker and answer.code not in right:
            answer.problems.append(f"code {answer.code} in place of {right[0]}")
        if worker and answer.code == 0 and not answer.skipped:
            answer.problems.append("code 0 although a worker was killed")
        return _undone(ground, store, answer, published(store))

    return fault


def _to_worker(store: Path, parent: int, number: signal.Signals) -> None:
    """Send a signal to the first process of a run that is not its main one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in leftovers(store):
            if line.startswith("process ") and int(line.split()[1]) != parent:
                time.sleep(0.3)
                try:
                    os.kill(int(line.split()[1]), number)
                except ProcessLookupError:
                    continue
                return
        time.sleep(0.05)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[str]:
    """Mount a small file system and yield why that cannot be, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
    )  # fmt: skip
    try:
        yield done.stderr.strip() if done.returncode else ""
    finally:
        if not done.returncode:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def _small_disk(name: str, options: str) -> Fault:
    def fault(ground: Ground) -> Answer:
        answer = Answer(name)
        folder = ground.folder / "disk"
        with _mounted(folder, options) as reason:
            if reason:
                answer.skipped = f"nothing can be mounted here: {reason}"
                return answer
            ended(command(ground.recipe, folder / "store"), folder / "store", answer)
            answer.problems += _must_fail(answer)
            answer.problems += [f"left: {each}" for each in leftovers(folder / "store") if each.startswith("process")]
        return answer

    return fault


def _must_fail(answer: Answer) -> list[str]:
    return [f"code {answer.code} in place of 1"] if answer.code != 1 else []


def _limited(name: str, kind: int, value: int) -> Fault:
    def fault(ground: Ground) -> Answer:
        store = ground.store("limited", without=AFTER_TRAINING)
        kept = published(store)
        answer = Answer(name)
        ended(
            command(ground.recipe, store), store, answer, before=lambda: resource.setrlimit(kind, (value, value))
        )  # fmt: skip
        if answer.code not in (0, 1):
            answer.problems.append(f"code {answer.code} in place of 0 or 1")
        return _undone(ground, store, answer, kept)

    return fault


def _with(name: str, codes: Sequence[int] = (0,), *, shell: str = "", **env: str) -> Fault:
    """The report of a finished store with other variables, or its output somewhere else."""

    def fault(ground: Ground) -> Answer:
        store = ground.store("with")
        answer = Answer(name)
        argv = command(ground.recipe, store)
        argv = ["bash", "-c", f'"$@" {shell}; exit ${{PIPESTATUS[0]}}', "bash", *argv] if shell else argv
        ended(argv, store, answer, env=env)
        if answer.code not in codes:
            answer.problems.append(f"code {answer.code} in place of {' or '.join(map(str, codes))}")
        shutil.rmtree(store.parent, ignore_errors=True)
        return answer

    return fault


def _read_only(ground: Ground) -> Answer:
    answer = Answer("a store that may not be written")
    store = ground.store("rights", without=AFTER_TRAINING)
    if os.geteuid() == 0:
        answer.skipped = "root may write everywhere: run this as another user"
        return answer
    store.chmod(0o500)
    ended(command(ground.recipe, store), store, answer)
    store.chmod(0o700)
    answer.problems += _must_fail(answer)
    return answer


#: Two seconds after its start the wall clock goes back by an hour.
_BACK = """
import sys, time
real, start = time.time, time.time()
time.time = lambda: real() - (3600 if real() > start + 2 else 0)
from toolchain.cli import main
main(sys.argv[1:])
"""


def _clock(ground: Ground) -> Answer:
    """The clock that Python reads; libfaketime would set that of native code too."""
    store = ground.store("clock", without=AFTER_TRAINING)
    kept = published(store)
    argv = command(ground.recipe, store)
    answer = ended([argv[0], "-c", _BACK, *argv[3:]], store, Answer("a clock that is set back"))
    answer.problems += [f"code {answer.code}"] if answer.code else []
    negative = [a.key[:12] for a in Store(store).artifacts() if float(a.manifest["duration_s"]) < 0]
    answer.problems += [f"negative durations: {', '.join(negative)}"] if negative else []
    return _undone(ground, store, answer, kept)


FAULTS: dict[str, Fault] = {
    **{
        f"{number.name.lower()}-{stage}": _signalled(number, stage)
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) for stage in STAGES
    },
    **{f"worker-{stage}": _signalled(signal.SIGKILL, stage, worker=True) for stage in ("build", "evaluate", "time")},
    "full-disk": _small_disk("a full disk", "size=300k"),
    "no-inodes": _small_disk("no inodes", "size=50m,nr_inodes=25"),
    "file-size": _limited("files of at most 60 kB", resource.RLIMIT_FSIZE, 60_000),
    "descriptors": _limited("20 descriptors", resource.RLIMIT_NOFILE, 20),
    "memory": _limited("1 GB of address space", resource.RLIMIT_AS, 1 << 30),
    "read-only": _read_only,
    "clock": _clock,
    "latin-1": _with("output in latin-1", PYTHONIOENCODING="latin-1"),
    "ascii": _with("a locale of ASCII", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    "dev-full": _with("output to /dev/full", (1,), shell="> /dev/full"),
    "closed-output": _with("closed output", (0, 1), shell=">&-"),
    "closed-errors": _with("closed errors", shell="2>&-"),
    "head": _with("| head -1", (0, 141), shell="| head -1"),
    "no-home": _with("no HOME", HOME="/nonexistent"),
    "no-temporary-folder": _with("a TMPDIR that is not there", (0, 1), TMPDIR="/nonexistent"),
    "odd-variables": _with("COLUMNS=x, RANK=x", (0, 1), COLUMNS="x", RANK="x", WORLD_SIZE="y"),
    "optimized": _with("PYTHONOPTIMIZE=2", PYTHONOPTIMIZE="2"),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the faults and print a table of the answers.

    Args:
        arguments: Those of the command line.

    Returns:
        0, or 1 where an answer has problems.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="NAME")
    parser.add_argument("--times", type=int, default=1, help="how often each")
    parser.add_argument("--output", type=Path, help="write JSON here and Markdown beside it")
    chosen = parser.parse_args(arguments)
    answers = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        ground = prepare(Path(name).resolve())
        for fault in chosen.faults:
            for _ in range(chosen.times):
                answers.append(FAULTS[fault](ground))
                print(json.dumps(asdict(answers[-1])), file=sys.stderr, flush=True)
    if chosen.output:
        chosen.output.write_text(json.dumps([asdict(answer) for answer in answers], indent=1) + "\n", "utf-8")
        chosen.output.with_suffix(".md").write_text(table(answers), "utf-8")
    print(table(answers), end="")
    return int(any(answer.problems for answer in answers))


def prepare(folder: Path) -> Ground:
    """Run the recipe once, undisturbed."""
    recipe, store = folder / "tiny.yaml", folder / "finished"
    recipe.write_text(RECIPE, "utf-8")
    code, _ = run(recipe, store)
    if code:
        sys.exit(f"the undisturbed run ended with {code}")
    return Ground(folder, recipe, store, digests(store))


def table(answers: Sequence[Answer]) -> str:
    """Return what was printed and what went wrong, a row for each fault."""
    lines = ["| fault | times | code | problems | last words |", "| --- | ---: | ---: | --- | --- |"]
    for name in dict.fromkeys(answer.fault for answer in answers):
        same = [answer for answer in answers if answer.fault == name]
        codes = ", ".join(dict.fromkeys(str(answer.code) for answer in same if not answer.skipped))
        problems = "; ".join(dict.fromkeys(each for answer in same for each in answer.problems)) or "none"
        said = (same[0].skipped and f"skipped: {same[0].skipped}") or " / ".join(same[0].said.splitlines()[-2:])
        cells = (name, str(len(same)), codes, "" if same[0].skipped else problems, said[:240])
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
