"""Pictures of a report as PNG, beside the SVG: drawn once, and left out where their library fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deliver.test_report import report, three
from toolchain.deliver.report import write
from toolchain.deliver.report.page import raster

pytestmark = pytest.mark.skipif(not raster.available(), reason="needs toolchain[plots]")


def test_a_picture_that_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    found = report(three(tmp_path / "rows"))
    write(found, tmp_path)
    bitmap = tmp_path / "size.png"
    bitmap.write_bytes(b"kept")
    write(found, tmp_path)
    assert bitmap.read_bytes() == b"kept"
    (tmp_path / "size.svg").write_text("another one", "utf-8")
    write(found, tmp_path)
    assert bitmap.read_bytes() != b"kept"


def test_a_report_is_whole_without_the_pictures_that_a_library_fails_to_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class PanicException(BaseException):
        """What a library in Rust raises when it panics."""

    def fail(**arguments: object) -> bytes:
        raise PanicException("no such glyph")

    monkeypatch.setattr("toolchain.core.log.logger.propagate", True)
    monkeypatch.setattr("resvg_py.svg_to_bytes", fail)
    write(report(three(tmp_path / "rows")), tmp_path)
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "size.svg").is_file()
    assert not (tmp_path / "size.png").exists()
    assert "size.png is left out: resvg cannot draw a picture: PanicException: no such glyph" in caplog.text
