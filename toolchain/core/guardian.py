"""Ends this process two seconds after it was asked to stop, also where a library computes and never comes back.

Python answers Ctrl-C between two of its own steps. In a loop of C++ there are none, and no thread of ours runs while
it holds the interpreter's lock. So a small process is forked at the start. The interpreter's signal handler, which is
C and waits for no lock, writes the signal into a pipe that the guardian reads; if we are still there after
:data:`PATIENCE_S`, it kills us. Our workers and children end with us. It ends by itself when we do.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

#: Seconds that unwinding may take; whoever asked to stop waits no longer than two.
PATIENCE_S = 1.6

_STOPS = (signal.SIGINT, signal.SIGTERM)

_MESSAGE = (
    b"stopped: a library that did not answer was ended; what is finished stays, the same command goes on from here\n"
)


def start() -> None:
    """Fork the guardian of this process; does nothing where processes cannot be forked.

    It is called once, at the start of the program, before there are threads.
    """
    if not hasattr(os, "fork"):
        return
    reads, writes = os.pipe()
    parent = os.getpid()
    try:
        guardian = os.fork()
    except OSError:  # no process is left to be had: Ctrl-C is answered by Python alone
        os.close(reads)
        os.close(writes)
        return
    if guardian == 0:
        try:
            os.close(writes)
            _watch(reads, parent)
        finally:
            os._exit(0)
    os.close(reads)
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)


def _watch(reads: int, parent: int) -> None:
    for number in (*_STOPS, signal.SIGHUP, signal.SIGQUIT):  # a terminal sends them to all of its processes
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # whoever reads our output must not wait for this process
        os.dup2(nowhere, stream)
    deadline = None
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        ready, _, _ = select.select([reads], [], [], left)
        if ready:
            received = os.read(reads, 64)
            if not received:
                return  # the parent has ended
            if deadline is None and any(number in received for number in _STOPS):
                deadline = time.monotonic() + PATIENCE_S
        elif deadline is not None:
            break
    if os.getppid() == parent:
        with contextlib.suppress(OSError):
            os.write(2, _MESSAGE)
        with contextlib.suppress(OSError):
            os.kill(parent, signal.SIGKILL)
