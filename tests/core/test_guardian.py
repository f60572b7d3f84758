"""Ctrl-C and SIGTERM end a command within two seconds, whatever it computes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

#: A command whose work is this.
PROGRAM = """
import ctypes, sys, time
import toolchain.cli as cli
from toolchain.cli import options

def native():  # waits for ever and holds the interpreter's lock, as a library's endless loop does
    lock, mutex = ctypes.PyDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
    lock(mutex)
    print("ready", flush=True)
    lock(mutex)

def polite():
    print("ready", flush=True)
    time.sleep(60)

def stubborn():
    while True:
        try:
            print("ready", flush=True)
            time.sleep(60)
        except BaseException:
            pass

class Slow:
    def __del__(self):
        time.sleep(10)

slow = []

def loaded():  # as libraries are, whose parts are let go of when the interpreter ends
    slow.append(Slow())
    polite()

def work(*arguments):
    WORK()

options.print_rich = work
sys.argv[1:] = ["list", "techniques"]
cli.main()
"""


def _start(work: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("WORK", work)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # until it is in the call that follows
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("work", "code"), [("polite", 130), ("loaded", 130), ("native", -9), ("stubborn", -9)])
def test_a_command_ends_within_two_seconds_of_a_signal(work: str, code: int, number: int) -> None:
    process = _start(work)
    process.send_signal(number)
    began = time.monotonic()
    _, said = process.communicate(timeout=30)  # to the end of its output: nobody holds it open
    assert time.monotonic() - began < 3.0
    assert process.returncode == code
    assert said.strip().startswith("stopped: ")
    assert len(said.strip().splitlines()) == 1


def test_the_guardian_ends_with_its_process(tmp_path: Path) -> None:
    process = _start("polite")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        process.communicate()
        pytest.skip("needs /proc")
    (guardian,) = map(int, children.read_text("ascii").split())
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{guardian}").exists() and Path(f"/proc/{guardian}/stat").read_text("ascii").split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)
