"""The parent's end of a worker: starts the process, asks, waits, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from toolchain.core import child, errors
from toolchain.core.errors import TRY_AGAIN, EngineError, LostProcessError, ToolchainError, from_outside
from toolchain.core.log import logger
from toolchain.core.registry import PACKAGE

#: A worker that says nothing for so long hangs; its longest silence is loading, or compiling, a large engine.
PATIENCE_S = 900.0

#: After so many seconds of silence a worker that is stopped is spoken of.
SILENCE_S = 10.0

#: How much of a worker's stderr an error repeats.
TAIL_LINES = 12

#: How long a worker may take to end by itself.
GRACE_S = 5.0

# Started so, it finds the package whatever the current folder holds, and that folder shadows no module of it.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from toolchain.measure.worker import main; main()"


class WorkerProcess:
    """A process that holds one engine.

    Leaving its ``with`` block ends the process: by itself when all went well, at once when not.

    Args:
        name: The engine's name in errors.
        threads: Threads that it may compute with.
        environment: Variables that it has besides this process's own.
        prefix: A command that runs it, such as an emulator and its options.
    """

    def __init__(
        self, name: str, threads: int, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        self._name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._pending = b""
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-c", _PROGRAM, str(PACKAGE.parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={
                **os.environ,
                **child.thread_counts(threads),
                "TOKENIZERS_PARALLELISM": "true",
                "TOOLCHAIN_PARENT": str(os.getpid()),
                **(environment or {}),
            },
        )

    def call(self, do: str, on_progress: Callable[[int], None] | None = None, **arguments: Any) -> dict[str, Any]:
        """Gives a command and waits for its answer.

        Args:
            do: The command, a method of ``worker.Worker``.
            on_progress: Told how many examples more are done.
            **arguments: The command's arguments, JSON values.

        Raises:
            ToolchainError: What the worker raised, as the same class.
            LostProcessError: It was killed, crashed, hangs, or ran out of memory.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._died(do) from error
        while True:
            reply = json.loads(self._line(do))
            if "progress" not in reply:
                break
            if on_progress is not None:
                on_progress(reply["progress"])
        if "error" in reply:
            raise self._raised(do, reply["error"])
        answer: dict[str, Any] = reply
        return answer

    def close(self, *, at_once: bool = False) -> None:
        """Ends the process; calling it again does nothing."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if at_once:
            self._process.kill()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=error is not None)

    def _line(self, do: str) -> bytes:
        assert self._process.stdout is not None
        stdout, deadline, stopped = self._process.stdout.fileno(), time.monotonic() + PATIENCE_S, False
        while b"\n" not in self._pending:
            ready, _, _ = select.select([stdout], [], [], min(SILENCE_S, max(deadline - time.monotonic(), 0)))
            if not ready and time.monotonic() < deadline:
                stopped = stopped or self._speak_of_stop()
                continue
            if not ready:
                raise LostProcessError(
                    f"{self._name}: no answer to {do!r} for {PATIENCE_S:.0f} s\n{self._tail()}".rstrip(), TRY_AGAIN
                )
            received = os.read(stdout, 1 << 20)
            if not received:
                raise self._died(do)
            self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _speak_of_stop(self) -> bool:
        """Return whether the process is stopped, as by SIGSTOP, and say so."""
        try:
            state = Path(f"/proc/{self._process.pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return False
        if state not in ("T", "t"):
            return False
        logger.warning(
            "    %s: its process %d is stopped and computes nothing; let it go on: kill -CONT %d",
            self._name, self._process.pid, self._process.pid,
        )  # fmt: skip
        return True

    def _raised(self, do: str, error: dict[str, str]) -> ToolchainError:
        kind = getattr(errors, error["type"], None) if error["type"] else None
        if isinstance(kind, type) and issubclass(kind, ToolchainError):
            return kind(f"{self._name}: {error['message']}", error["hint"])
        return EngineError(f"{self._name}: {do!r} failed: {error['message']}", error["hint"])

    def _died(self, do: str) -> LostProcessError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        code = self._process.returncode
        hint = f"{TRY_AGAIN}; where it ends so every time, leave it out"
        return LostProcessError(
            f"{self._name}: its process {child.ended(code)} while it did {do!r}\n{self._tail()}".rstrip(),
            f"{child.OUT_OF_MEMORY}{TRY_AGAIN}" if code == -signal.SIGKILL else hint,
            crashed=code is not None and not from_outside(code),
        )  # fmt: skip

    def _tail(self) -> str:
        return child.tail_of(self._stderr, TAIL_LINES)


@contextlib.contextmanager
def texts_file(work: Path) -> Iterator[Path]:
    """Where texts for workers are written, in a folder that the caller's driver clears even after a kill."""
    work.mkdir(parents=True, exist_ok=True)
    path = work.resolve() / "texts.json"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_texts(path: Path, texts: Sequence[tuple[str, ...]]) -> None:
    """Writes texts for a worker to read."""
    path.write_text(json.dumps([list(parts) for parts in texts], ensure_ascii=True), encoding="utf-8")
