"""JUnit XML, as CI systems read it: one suite, one test case for each check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

#: What XML 1.0 cannot hold, not even escaped; vendors' messages have colour codes and worse.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """A test case.

    Attributes:
        group: Its ``classname``.
        name: Its name.
        state: ``passed``, ``failed`` or ``skipped``.
        message: Why it failed, or was skipped.
        output: What was found.
    """

    group: str
    name: str
    state: str
    message: str
    output: str


def junit(name: str, cases: Sequence[Case], properties: Mapping[str, Any]) -> bytes:
    """One suite of test cases, UTF-8; what XML cannot hold becomes U+FFFD.

    Args:
        name: The suite's name.
        cases: Its test cases.
        properties: Facts about the suite, such as the machine.
    """
    states = [case.state for case in cases]
    counts = {"tests": len(cases), "failures": states.count("failed"), "skipped": states.count("skipped"), "errors": 0}
    totals = {key: str(count) for key, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": _text(name), **totals})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _text(name), **totals})
    if properties:
        held = ElementTree.SubElement(suite, "properties")
        for key, value in properties.items():
            ElementTree.SubElement(held, "property", {"name": _text(key), "value": _text(value)})
    for case in cases:
        element = ElementTree.SubElement(suite, "testcase", {"classname": _text(case.group), "name": _text(case.name)})
        if case.state == "failed":
            ElementTree.SubElement(element, "failure", {"message": _text(case.message)}).text = _text(case.output)
        elif case.state == "skipped":
            ElementTree.SubElement(element, "skipped", {"message": _text(case.message)})
        else:
            ElementTree.SubElement(element, "system-out").text = _text(case.output)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _text(value: Any) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", str(value))
