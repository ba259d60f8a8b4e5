"""Parts are judged in a real browser: by keys, by touch, twelve at once; nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from blemish.station.ledger.schema import reviews

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SIZES = [(1920, 1080), (1024, 768), (360, 740)]


def ready(page: Page) -> None:
    """A picture is in view, for long enough to be judged."""
    page.wait_for_selector("body[data-ready]")
    page.wait_for_selector("#stage img")
    page.wait_for_timeout(330)


def judge(page: Page, key: str) -> None:
    part = page.locator("#part").text_content()
    page.keyboard.press(key)
    page.wait_for_function("was => document.getElementById('part').textContent !== was", arg=part)
    page.wait_for_timeout(330)


def kept(served: Any) -> list[Any]:
    rows = served.station.rows(reviews)
    over = {row["supersedes"] for row in rows}
    return [row for row in rows if row["id"] not in over and row["truth"] != "withdrawn"]


def test_sixty_parts_by_keys(served: Any, parts: Any, opening: Any) -> None:
    parts(61)
    page = opening("/review")
    ready(page)
    for i in range(60):
        judge(page, "123456789"[i % 9])
    served.station.until(lambda: len(kept(served)) == 60)
    truths = [row["truth"] for row in kept(served)]
    assert truths[:4] == ["good", "unsure", "defect", "defect"]
    assert {row["type"] for row in kept(served)} == {None, "scratch", "dent", "stain", "dirt", "missing", "other"}
    assert all(row["blind"] for row in kept(served))
    assert len({row["seq"] for row in kept(served)}) == 60
    page.wait_for_function("document.getElementById('saved').textContent.startsWith('saved 60 / 60')")
    times = page.evaluate("performance.getEntriesByName('judged').map((entry) => entry.duration)")
    assert len(times) >= 59
    if os.environ.get("BLEMISH_FIGURES"):
        print(f"key to next picture painted: median {median(times):.0f} ms, p95 {quantiles(times, n=20)[-1]:.0f} ms")
    assert page.seen.errors == []
    assert page.seen.hosts == []


def test_a_key_too_early_or_held_down_judges_nothing(served: Any, parts: Any, opening: Any) -> None:
    parts(4)
    page = opening("/review")
    ready(page)
    page.keyboard.press("1")
    page.keyboard.press("1")  # the next one has not been looked at yet
    page.wait_for_timeout(330)
    page.keyboard.down("3")
    for _ in range(3):
        page.keyboard.down("3")  # repeats by itself
        page.wait_for_timeout(330)
    page.keyboard.up("3")
    page.keyboard.press("c")
    page.keyboard.type("1 3 looks odd")
    page.wait_for_timeout(330)
    page.keyboard.press("Enter")
    page.keyboard.press("2")
    served.station.until(lambda: len(kept(served)) == 3)
    assert [(row["truth"], row["comment"]) for row in kept(served)] == [
        ("good", None),
        ("defect", None),
        ("unsure", "1 3 looks odd"),
    ]


def test_undo_takes_back_any_number(served: Any, parts: Any, opening: Any) -> None:
    parts(6)
    page = opening("/review")
    ready(page)
    first = page.locator("#part").text_content()
    for key in "1313":
        judge(page, key)
    for key in ("0", "Backspace", "Control+z", "0"):
        page.keyboard.press(key)
    page.wait_for_function("was => document.getElementById('part').textContent === was", arg=first)
    served.station.until(lambda: len(served.station.rows(reviews)) == 8 and kept(served) == [])
    page.wait_for_timeout(330)
    judge(page, "3")
    served.station.until(lambda: [row["truth"] for row in kept(served)] == ["defect"])


def test_nothing_is_lost_while_the_station_is_away(served: Any, parts: Any, opening: Any) -> None:
    parts(8)
    page = opening("/review")
    ready(page)
    judge(page, "1")
    served.station.until(lambda: len(kept(served)) == 1)
    served.stop()
    for key in "313":
        judge(page, key)
    page.wait_for_function("document.getElementById('away').textContent.includes('3 wait here')")
    served.start()
    served.station.until(lambda: len(kept(served)) == 4)
    assert [row["truth"] for row in kept(served)] == ["good", "defect", "good", "defect"]
    page.reload()
    ready(page)
    judge(page, "2")
    served.station.until(lambda: len(kept(served)) == 5)
    assert len({row["seq"] for row in kept(served)}) == 5


def test_what_waits_in_the_browser_outlives_the_page(served: Any, parts: Any, opening: Any) -> None:
    parts(5)
    page = opening("/review")
    ready(page)
    served.stop()
    judge(page, "3")
    judge(page, "1")
    page.goto("about:blank")
    served.start()
    page.goto(served.address + "/review")
    served.station.until(lambda: [row["truth"] for row in kept(served)] == ["defect", "good"])
    ready(page)
    assert page.locator("#left").text_content() == "3 left"


def test_two_people_never_get_the_same_part(served: Any, parts: Any, opening: Any) -> None:
    parts(30)
    pages = [opening("/review", who) for who in ("anna", "ben")]
    for page in pages:
        ready(page)
    for _ in range(6):
        for page in pages:
            judge(page, "1")
    served.station.until(lambda: len(kept(served)) == 12)
    assert len({row["seq"] for row in kept(served)}) == 12


def test_twelve_at_once(served: Any, parts: Any, opening: Any) -> None:
    parts(20)
    page = opening("/review/grid")
    page.wait_for_selector("#cells button:nth-child(12)")
    page.keyboard.press("w")
    page.keyboard.press("c")
    page.keyboard.press("c")  # not after all
    page.keyboard.press("v")
    page.wait_for_function("document.getElementById('confirm').textContent === 'Enter: 10 OK, 2 NG'")
    page.wait_for_timeout(330)
    page.keyboard.press("Enter")
    served.station.until(lambda: len(kept(served)) == 12)
    assert sorted(row["truth"] for row in kept(served)) == ["defect"] * 2 + ["good"] * 10
    page.wait_for_function("document.querySelectorAll('#cells button').length === 8")
    page.keyboard.press("0")
    served.station.until(lambda: kept(served) == [])


def test_by_touch(served: Any, parts: Any, opening: Any) -> None:
    parts(6)
    page = opening("/review")
    ready(page)
    for action in ("good", "defect", "type2", "unsure"):
        box = page.locator(f"[data-action={action}]").bounding_box()
        assert box is not None
        assert box["height"] >= (48 if action == "type2" else 72)
        page.locator(f"[data-action={action}]").tap()
        page.wait_for_timeout(400)
    served.station.until(lambda: [row["truth"] for row in kept(served)] == ["good", "defect", "defect", "unsure"])


def test_names_from_outside_are_text(served: Any, parts: Any, opening: Any) -> None:
    parts(2, part="<img src=x onerror=document.title='broken'>")
    page = opening("/review")
    ready(page)
    assert "<img" in (page.locator("#part").text_content() or "")
    assert page.title() == "Review"
    assert page.seen.errors == []


@pytest.mark.parametrize("path", ["/review", "/review/grid", "/"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pages_can_be_used_by_everybody(
    served: Any, parts: Any, opening: Any, tmp_path: Path, path: str, width: int, height: int
) -> None:
    parts(15)
    page = opening(path, width=width, height=height)
    if path != "/":
        page.wait_for_selector("#stage img, #cells button")
    page.wait_for_timeout(600)
    found = Axe().run(page)
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found.response["violations"]] == []
    inside = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert inside, "it scrolls sideways"
    if width > 360:
        assert page.evaluate("document.documentElement.scrollHeight <= innerHeight"), "it scrolls"
    if os.environ.get("BLEMISH_FIGURES"):
        page.screenshot(
            path=f"{os.environ['BLEMISH_FIGURES']}/{path.strip('/').replace('/', '-') or 'live'}-{width}.png"
        )
    assert page.seen.errors == []
    assert page.seen.hosts == []
