from __future__ import annotations

import signal
import threading

import pytest

from toolchain.core.interrupt import held_back


def test_ctrl_c_is_answered_when_the_block_is_left() -> None:
    done = []

    def work() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            done.append("first half")
            signal.raise_signal(signal.SIGINT)
            done.append("second half")
        done.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["first half", "second half"]


def test_handlers_are_those_of_before_when_the_block_is_left() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with held_back():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_error_of_the_block_is_not_lost() -> None:
    def work() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        work()


def test_another_thread_goes_on_as_it_is() -> None:
    done = []

    def work() -> None:
        with held_back():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
