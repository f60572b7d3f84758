"""What a launcher of several processes, such as torchrun, tells each of them."""

from __future__ import annotations

from toolchain.core import limits


def processes() -> tuple[int, int]:
    """Return the rank and the number of processes as a launcher set them; (0, 1) without one.

    Raises:
        ToolchainError: RANK or WORLD_SIZE is no number, or the rank is none of that many.
    """
    count = limits.whole_number("WORLD_SIZE", 1, least=1, most=1_000_000)
    return limits.whole_number("RANK", 0, most=count - 1), count
