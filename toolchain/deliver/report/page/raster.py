"""Pictures as PNG, by resvg and with a font that comes with it, so that they look alike wherever they are made."""

from __future__ import annotations

from importlib.util import find_spec

from toolchain.core.errors import ToolchainError, require
from toolchain.core.vendor import vendor

#: The extra that brings both packages.
EXTRA = "plots"

#: Pixels of the PNG for each of the SVG's.
ZOOM = 2


def available() -> bool:
    """Whether pictures can be made into PNG here."""
    return all(find_spec(name) is not None for name in ("resvg_py", "font_roboto"))


def png(svg: str) -> bytes:
    """A picture as PNG.

    Args:
        svg: A picture alone, its colours in it.

    Raises:
        MissingPackageError: What draws it is not installed, or cannot be loaded.
        ToolchainError: It fails.
    """
    with vendor(
        "cannot draw a picture", "resvg", ToolchainError, f"pip install --force-reinstall 'toolchain[{EXTRA}]'"
    ):
        resvg, fonts = require("resvg_py", EXTRA), require("font_roboto", EXTRA)
        return bytes(
            resvg.svg_to_bytes(
                svg_string=svg,
                zoom=ZOOM,
                skip_system_fonts=True,
                font_files=list(fonts.font_files.values()),
                sans_serif_family="Roboto",
            )
        )
