"""The report page in a real browser: what a reader clicks, types and sees, on a desktop and on a phone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolchain.deliver.report.page.document import html
from toolchain.deliver.report.scenarios import scenarios

CHROMIUM = Path("/usr/bin/chromium")
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}

#: Opens the page at a size, and gives it with everything that its console said and that it asked for.
Open = Callable[..., Any]


def _report() -> dict[str, Any]:
    """A report of six engines, as a machine measured it, in which one has failed a gate."""
    report: dict[str, Any] = json.loads(Path(__file__).with_name("six_engines.json").read_text("utf-8"))
    line = next(line for line in report["lines"] if line["name"] == "dynamic-int8/onnxruntime")
    line["gates"] = [{"gate": "invariance", "passed": False, "evidence": "29 of 300 labels changed", "reason": ""}]
    line["marks"] = ["failed invariance"]
    line["barred"] = ["failed invariance"]
    for index, each in enumerate(report["lines"]):
        each["engine_key"] = f"{index:032x}"
    report["made"] = {"command": "toolchain run recipes/quickstart.yaml"}
    report["scenarios"] = scenarios(report["lines"])
    return report


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the page; afterwards its console must have been silent, and nothing asked of a network."""
    file = tmp_path / "report.html"
    file.write_text(html(_report()), "utf-8")
    messages: list[str] = []
    requests: list[str] = []
    contexts = []

    def opened(size: dict[str, int] = DESKTOP, **settings: Any) -> Any:
        context = browser.new_context(viewport=size, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert messages == []
    assert set(requests) == {file.as_uri()}, "the page asks for nothing but itself"


def test_nothing_of_a_strangers_report_runs(show: Open, tmp_path: Path) -> None:
    attack = "\"'></script><img src=x onerror=window.ran=1><script>window.ran=1</script>"
    report = _report()
    for line in report["lines"]:
        line["name"] = f"{attack}{line['name']}"
        line["marks"] = [attack]
    report["notes"] = [attack]
    (tmp_path / "report.html").write_text(
        html(report, [(attack, '<svg xmlns="http://www.w3.org/2000/svg"/>')]), "utf-8"
    )
    page = show()
    assert page.evaluate("window.ran === undefined")
    assert page.locator("img[src=x]").count() == 0
    assert len(_names(page)) == 6


def _names(page: Any) -> list[str]:
    names: list[str] = page.eval_on_selector_all(
        "#ranking tbody tr", "rows => rows.filter(r => r.checkVisibility()).map(r => r.cells[1].dataset.value)"
    )
    return names


def _in_view(page: Any, selector: str) -> bool:
    """Whether all of an element lies between the left and the right edge of the screen."""
    box = page.locator(selector).first.bounding_box()
    return bool(box) and box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]


def test_filters_leave_engines_out_of_table_and_figures(show: Open) -> None:
    page = show()
    everything = _names(page)
    assert len(everything) == 6
    page.select_option("select[name=runtime]", "pytorch")
    assert _names(page) == ["base/pytorch"]
    assert page.text_content(".filters output") == "1 of 6 engines"
    assert page.locator(".picture.wide .mark:not(.off)").first.get_attribute("data-line") == str(
        everything.index("base/pytorch")
    )
    page.click("button[type=reset]")
    page.fill("input[name=text]", "static")
    assert _names(page) == [name for name in everything if "static" in name]
    page.fill("input[name=text]", "")
    page.check("input[name=ships]")
    assert _names(page) == [name for name in everything if name != "dynamic-int8/onnxruntime"]


def test_headings_sort_and_turn_the_order_round(show: Open) -> None:
    page = show()
    lines = {line["name"]: line for line in _report()["lines"]}
    ranked = _names(page)
    heading = page.locator("#ranking th", has_text="size MB")
    heading.locator("button").click()
    sizes = [lines[name]["size_mb"] for name in _names(page)]
    assert (heading.get_attribute("aria-sort"), sizes) == ("ascending", sorted(sizes))
    heading.locator("button").press("Enter")
    assert [lines[name]["size_mb"] for name in _names(page)] == sorted(sizes, reverse=True)
    page.locator("#ranking th button").first.click()
    assert _names(page) == ranked


def test_limits_are_typed_in_milliseconds_and_sentences_a_second(show: Open) -> None:
    page = show()
    lines = _report()["lines"]

    def faded() -> set[str]:
        return set(page.eval_on_selector_all("#ranking tr.beyond", "rows => rows.map(r => r.cells[1].dataset.value)"))

    page.fill("[data-limit=latency_engine_p50_ms][data-end=high]", "1.28")
    slow = {line["name"] for line in lines if line["latency_engine_p50_ms"] > 1.28}
    assert 0 < len(slow) < len(lines)
    assert faded() == slow
    assert page.text_content(".limits output") == f"{len(lines) - len(slow)} of {len(lines)} engines within"
    page.fill("[data-limit=per_s_sorted_engine_batch_32][data-end=low]", "1200")
    few = {line["name"] for line in lines if line["per_s_sorted_engine_batch_32"] < 1200}
    assert faded() == slow | few
    page.click(".limits button")
    assert faded() == set()
    assert page.input_value("[data-limit=latency_engine_p50_ms][data-end=high]") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_what_must_not_be_shipped(show: Open, scheme: str) -> None:
    page = show(PHONE, color_scheme=scheme, has_touch=True)
    row = '#ranking tr[data-line]:has([data-value="dynamic-int8/onnxruntime"])'
    page.locator(row).scroll_into_view_if_needed()
    assert page.text_content(f"{row} .never") == "do not ship"
    assert _in_view(page, f"{row} .never")
    assert _in_view(page, f"{row} .tag")
    assert page.locator("#ranking .never").count() == 1


def test_nothing_is_cut_off_on_a_phone_without_a_cue(show: Open) -> None:
    page = show(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"], "the page itself does not scroll"
    cut = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((element) => {
          const box = element.getBoundingClientRect();
          const apart = element.closest(".scroll, svg, pre, .drawn, caption, details:not([open]), .tabs > input");
          return element.checkVisibility() && !apart && box.width && box.right > innerWidth + 1;
        }).map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert cut == []
    wide = page.locator(".scroll").all()
    assert len(wide) >= 2
    for region in wide:
        if region.is_visible() and region.evaluate("e => e.scrollWidth > e.clientWidth"):
            assert region.evaluate("e => e.previousElementSibling.checkVisibility()")
            assert "Swipe" in region.evaluate("e => e.previousElementSibling.textContent")
    assert "linear-gradient" in page.locator("nav .wrap").evaluate("e => getComputedStyle(e).maskImage")


def test_the_ranking_fits_a_desktop(show: Open) -> None:
    page = show(DESKTOP)
    region = page.locator(".scroll", has=page.locator("#ranking"))
    assert region.evaluate("e => e.scrollWidth - e.clientWidth") == 0


def test_headings_are_explained_without_a_pointer(show: Open) -> None:
    page = show(PHONE, has_touch=True)
    summary = page.get_by_text("What the columns mean")
    meanings = page.locator("details.more dl").first
    assert not meanings.is_visible()
    summary.tap()
    heads = [head.strip() for head in page.locator("#ranking th.sorts").all_text_contents()]
    terms = page.locator("details.more dl").first.locator("dt").all_text_contents()
    assert meanings.is_visible()
    assert set(heads) - {"#", "engine"} == set(terms)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_cards_name_the_folder_and_the_command_that_takes_the_engine(show: Open, size: dict[str, int]) -> None:
    page = show(size)
    report = _report()
    for card, scenario in zip(page.locator(".card").all(), report["scenarios"], strict=True):
        line = next(line for line in report["lines"] if line["name"] == scenario["name"])
        text = card.locator(".take").inner_text()
        assert f"engine/{line['engine_key']}" in text
        command = f"toolchain build recipes/quickstart.yaml --variant {line['variant']} --engine {line['engine']}"
        assert f"{command} -o engine" in text
        box = card.bounding_box()
        assert box["x"] + box["width"] <= size["width"]


def test_a_page_without_scripts_has_its_table_and_no_controls(show: Open) -> None:
    page = show(java_script_enabled=False)
    assert page.locator("#ranking tbody tr").count() == 6
    assert not page.locator(".filters").is_visible()
    assert not page.locator(".limits").is_visible()
