from __future__ import annotations

from toolchain.core.docstrings import reflowed


def test_paragraphs_become_one_line_and_lists_and_tables_stay() -> None:
    text = "One line,\nand another.\n\n- an item\n  that goes on\n- another\n\n| a | b |\n\nThe\nend."
    assert reflowed(text) == ("One line, and another.\n\n- an item\n  that goes on\n- another\n\n| a | b |\n\nThe end.")
