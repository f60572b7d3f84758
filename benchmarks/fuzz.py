"""Changes what strangers send, hands it to the command line, and counts what goes wrong, by reader.

    python benchmarks/fuzz.py --cases 5000 --seed 1
    python benchmarks/fuzz.py --reader recipe --case 17 --seed 1      # one case again, with all that it printed

Every case is a real command on a good input of which a part was changed: a value in its tree, a piece of its text, its
bytes, or what kind of file it is. It runs in a forked child of one warm process, with limits of time and memory.
Counted are opens outside of the case's folder, code that ran, tracebacks, hangs, crashes, memory, foreign text that
reached a terminal or a page as it was, and messages longer than a screen. The result is written as JSON and Markdown.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import select
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fuzz_readers import goods
from fuzz_readers.readers import CHEAP, HEAVY, READERS
from fuzz_readers.watch import COUNTED, MEMORY_BYTES, Case, Watch, grouped

from toolchain.measure.machine import machine

PUBLISHED = Path(__file__).parent.parent / "artifacts" / "published" / "fuzz"

#: Seconds of computing that a case may take: an export of the tiny model, or reading the largest file there is twice,
#: 3 GiB, on a core that it shares.
LIMIT_S = 60.0
#: Cases that one child runs, as long as nothing is found.
BATCH = 50
#: Cases with findings that the result names, of each kind at each place.
NAMED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases.

    Args:
        arguments: Those of the command line.

    Returns:
        0, or 1 where anything was found.
    """
    chosen = _parser().parse_args(arguments)
    unknown = set(chosen.readers) - set(READERS)
    if unknown:
        sys.exit(f"no such reader: {', '.join(sorted(unknown))}; there are {', '.join(READERS)}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        root = Path(name).resolve()
        good = root / "good"
        _surroundings(root)
        heavy = not HEAVY.isdisjoint([chosen.reader] if chosen.reader else chosen.readers)
        _in_child(lambda: goods.make(good, chosen.good and chosen.good.resolve(), heavy=heavy))
        _warm(root, good, heavy)
        gc.collect()
        gc.freeze()  # children share all that is loaded: their collectors would copy it by looking at it
        if chosen.reader:
            return _one(root, good, chosen.seed, chosen.reader, chosen.case)
        started = time.monotonic()
        shares = share(chosen.cases, chosen.readers)
        cases = list(run(root, good, chosen.seed, shares, chosen.jobs, started + 60 * chosen.minutes))
        seconds = time.monotonic() - started
    result = {
        "what": chosen.title, "command": shlex.join(["python", "benchmarks/fuzz.py", *(arguments or sys.argv[1:])]),
        "seed": chosen.seed, "cases": len(cases), "seconds": round(seconds), "machine": machine()["cpu"],
        "readers": grouped(cases), "findings": named(cases),
    }  # fmt: skip
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(json.dumps(result, indent=1, ensure_ascii=True) + "\n", "utf-8")
        chosen.output.with_suffix(".md").write_text(markdown(result), "utf-8")
    print(markdown(result))
    return 1 if result["findings"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readers", nargs="+", default=list(READERS), help="only these [default: all]")
    parser.add_argument("--jobs", type=int, default=1, help="cases that run at the same time")
    parser.add_argument("--good", type=Path, help="folder of a run of the tiny recipe, in place of running it")
    parser.add_argument("--minutes", type=float, default=600, help="begin no batch after so long")
    parser.add_argument("--title", default="the program as it is", help="what the result is of")
    parser.add_argument(
        "--output", type=Path, help=f"write JSON here and Markdown beside it, e.g. {PUBLISHED}/now.json"
    )
    parser.add_argument("--reader", help="run one case of this reader and show all that it printed")
    parser.add_argument("--case", type=int, default=0, help="number of that case")
    return parser


def share(cases: int, readers: Sequence[str]) -> dict[str, int]:
    """Return how many cases each reader gets: those that take milliseconds get most."""
    weights = {reader: CHEAP.get(reader, 1) for reader in readers}
    return {reader: max(1, round(cases * weight / sum(weights.values()))) for reader, weight in weights.items()}


def _surroundings(root: Path) -> None:
    """Give this process a home, a temporary folder and no network, all inside the folder of the cases."""
    for name in ("home", "tmp", "cases", "packages/evil_installed"):
        (root / name).mkdir(parents=True)
    (root / "packages/evil_installed/__init__.py").write_text(goods.MODULE, "utf-8")
    sys.path.append(str(root / "packages"))
    os.environ |= {
        "HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "COLUMNS": "100", "HF_HOME": str(root / "home" / "hub"), "TOOLCHAIN_TRACES": str(root / "traces"),
    }  # fmt: skip
    tempfile.tempdir = None


def _in_child(work: Any, *arguments: Any) -> None:
    """Do something in a forked child, so that this process keeps no thread of it."""
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("the fuzzer could not prepare itself")


def _warm(root: Path, good: Path, heavy: bool) -> None:
    """Import whatever unchanged inputs import, and learn what they open; each is run in a child first."""
    import importlib

    names = root / "modules.json"

    def learn() -> None:
        watch = Watch(root, good, frozenset())
        watch.prepare()
        watch.learn(heavy=heavy)
        names.write_text(json.dumps([sorted(sys.modules), sorted(watch.everything)]), "utf-8")

    _in_child(learn)
    modules, _ = json.loads(names.read_text("utf-8"))
    for name in modules:
        if name.partition(".")[0] not in ("evil_installed", "__main__", "evil"):
            try:
                importlib.import_module(name)
            except Exception:  # made at run time by a library: it has no file
                continue
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def run(
    root: Path, good: Path, seed: int, shares: dict[str, int], jobs: int, deadline: float
) -> Iterator[dict[str, Any]]:
    """Run every case, several batches at a time and in a drawn order, and yield what was seen.

    Args:
        root: Folder of the cases.
        good: The good inputs.
        seed: Decides every case.
        shares: How many cases of each reader.
        jobs: How many batches at a time.
        deadline: By the monotonic clock; what is left then is not run.
    """
    batches = [
        (reader, range(start, min(start + BATCH, count)))
        for reader, count in shares.items() for start in range(0, count, BATCH)
    ]  # fmt: skip
    random.Random(seed).shuffle(batches)
    files = []
    children = []
    for job in range(jobs):
        own = root / f"job-{job}"
        own.mkdir()
        files.append(own / "cases.jsonl")
        child = os.fork()
        if child == 0:
            try:
                _job(own, good, seed, batches[job::jobs], files[-1], deadline)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit("the fuzzer itself has failed")
    for path in files:
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line)


def _job(
    root: Path, good: Path, seed: int, batches: Sequence[tuple[str, range]], output: Path, deadline: float
) -> None:
    """Run batches one after the other, and write down every case as soon as it is done."""
    with output.open("w", encoding="utf-8", buffering=1) as file:
        for place, (reader, numbers) in enumerate(batches):
            if time.monotonic() > deadline:
                return
            for case in _batch(root, good, seed, reader, list(numbers)):
                file.write(json.dumps(case) + "\n")
            if place % 20 == 0:
                print(f"{root.name}: {place} of {len(batches)} batches", file=sys.stderr, flush=True)


def _batch(root: Path, good: Path, seed: int, reader: str, numbers: list[int]) -> Iterator[dict[str, Any]]:
    """Run cases in children: one for all, and a new one after every case with a finding."""
    while numbers:
        done, ended = _child(root, good, seed, reader, numbers)
        if len(done) > 1 and any(what == "memory" for what, _ in done[-1]["findings"]):
            done, ended = done[:-1], None  # it may be the others' memory: once more, alone
        yield from done
        numbers = numbers[len(done) :]
        if ended and numbers:
            yield asdict(Case(reader, numbers[0], findings=[ended]))
            numbers = numbers[1:]


def _child(
    root: Path, good: Path, seed: int, reader: str, numbers: Sequence[int]
) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    """Run cases in one child until one has a finding; return them, and how the child ended where that was early."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:  # nothing of a child may reach the code that removes the folder of the cases
            os.setpgid(0, 0)
            _work(root, good, seed, reader, numbers, write)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    os.close(write)
    done: list[dict[str, Any]] = []
    rest, ended = b"", None
    limit = _Limit(child)
    while True:
        ready, _, _ = select.select([read], [], [], 1.0)
        if not ready:
            ended = limit.passed()
            if ended:
                break
            continue
        limit = _Limit(child)
        block = os.read(read, 1 << 20)
        if not block:
            break
        *lines, rest = (rest + block).split(b"\n")
        done += [json.loads(line) for line in lines]
    os.close(read)
    for process in (-child, child):
        try:
            os.kill(process, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    _, status = os.waitpid(child, 0)
    if ended is None and os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
        ended = ("crash", signal.Signals(os.WTERMSIG(status)).name)
    elif ended is None and len(done) < len(numbers) and not (done and done[-1]["findings"]):
        ended = ("crash", f"ended with status {status}")
    return done, ended


class _Limit:
    """The time that a case may take: on a busy machine, what it computes counts, and waiting counts where it idles.

    Args:
        child: The process that runs the case.
    """

    def __init__(self, child: int) -> None:
        self.child, self.started, self.before_s = child, time.monotonic(), _cpu_s(child)

    def passed(self) -> tuple[str, str] | None:
        """Return what to count when the time is up; a process that somebody stopped has all the time that it needs."""
        if _state(self.child) == "T":
            self.started, self.before_s = time.monotonic(), _cpu_s(self.child)
        seconds, computed_s = time.monotonic() - self.started, _cpu_s(self.child) - self.before_s
        if computed_s > LIMIT_S:
            return ("hang", f"computes for longer than {LIMIT_S:.0f} s")
        if seconds > LIMIT_S and computed_s < seconds / 20:
            return ("hang", f"waits for longer than {LIMIT_S:.0f} s")
        return ("hang", f"takes longer than {6 * LIMIT_S:.0f} s") if seconds > 6 * LIMIT_S else None


def _work(root: Path, good: Path, seed: int, reader: str, numbers: Sequence[int], write: int) -> None:
    """Run cases here and write each down as soon as it is done."""
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ["TMPDIR"] = str(root / "tmp")
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = None
    _, learned = json.loads((good.parent / "modules.json").read_text("utf-8"))
    watch = Watch(root, good, frozenset(learned))
    own = (f"{good.parent}/{name}/" for name in ("home", "packages", "traces"))
    watch.allowed += (f"{root}/tmp/", *own)
    watch.prepare()
    for number in numbers:
        case = watch.run(seed, Case(reader, number))
        os.write(write, json.dumps(asdict(case)).encode() + b"\n")
        if case.findings:
            return


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _cpu_s(process: int) -> float:
    return sum(map(int, _status(process)[11:15])) / os.sysconf("SC_CLK_TCK")


def _state(process: int) -> str:
    return _status(process)[0]


def _status(process: int) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _one(root: Path, good: Path, seed: int, reader: str, number: int) -> int:
    """Run one case in a child and print what it did."""
    done, ended = _child(root, good, seed, reader, [number])
    for case in done:
        print(json.dumps(case, indent=1))
    for name in ("stdout", "stderr"):
        path = root / name
        print(f"--- {name}\n{path.read_bytes()[:20_000].decode('utf-8', 'backslashreplace') if path.exists() else ''}")
    if ended:
        print(f"--- ended early: {ended[0]}: {ended[1]}")
    return int(bool(ended) or any(case["findings"] for case in done))


def named(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every kind of finding at every place: how often, and a few cases that show it."""
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], list[int]] = {}
    for case in cases:
        for what, where in case["findings"]:
            key = (case["reader"], what, where)
            counts[key] += 1
            if len(examples.setdefault(key, [])) < NAMED:
                examples[key].append(case["number"])
    return [
        {"reader": reader, "what": what, "where": where, "times": times, "cases": examples[reader, what, where]}
        for (reader, what, where), times in counts.most_common()
    ]


def markdown(result: dict[str, Any]) -> str:
    """Return the table of a result."""
    total = Counter[str]()
    lines = [f"| reader | cases | {' | '.join(COUNTED)} |", f"| --- |{' ---: |' * (1 + len(COUNTED))}"]
    for reader, row in result["readers"].items():
        total.update(row)
        lines.append(f"| {reader} | {row['cases']:,} | {' | '.join(f'{row[what]:,}' for what in COUNTED)} |")
    lines.append(f"| all | {total['cases']:,} | {' | '.join(f'{total[what]:,}' for what in COUNTED)} |")
    head = (
        f"Fuzzing of {result['what']}: seed {result['seed']}, {result['seconds']:,} s on {result['machine']}, "
        f"`{result['command']}`."
    )
    return "\n".join([head, "", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
