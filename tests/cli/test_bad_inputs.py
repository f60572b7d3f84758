from __future__ import annotations

import importlib.util

import pytest

from tests.cli.bad.case import Case
from tests.cli.bad.page import GROUPS, PAGE, message, outcome, page

CASES = [case for cases in GROUPS.values() for case in cases]


def _cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_bad_input_gets_a_message_that_says_what_is_wrong_and_no_traceback(case: Case) -> None:
    if "wheel of the CPU" in case.what and _cuda():
        pytest.skip("this is the wheel of the GPU")
    result = outcome(case)
    assert result.code == case.code
    assert "Traceback" not in result.stderr
    assert message(result)
    for part in case.says:
        assert part in result.stderr


def test_names_are_unique_and_the_cases_are_many() -> None:
    assert len(CASES) == len({case.what for case in CASES})
    assert len(CASES) >= 100


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="a row of the page needs pyarrow")
@pytest.mark.skipif(_cuda(), reason="a row of the page is about the wheel of the CPU")
def test_the_page_of_errors_is_what_the_cases_give() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.cli.bad.page writes it anew"
