"""The report in a real browser: no complaint, no request, plots that are there; to look at it: REPORT_PICTURES=FOLDER."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import past_runs
import pytest
from browser import Browser

from runner.report import page

PLOTS = ("rates", "fill", "timeline", "times")
#: How many different colours a plot's canvas has.
COLOURS = """(id => {
  const canvas = document.querySelector(`#${id} canvas`);
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return new Set(pixels).size;
})"""
#: The least contrast of any text with what lies behind it, as WCAG counts it.
CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    const part = [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return { value: 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2], there: a > 250 };
  };
  const behind = (element) => {
    const box = element.closest(".topology g.task, .topology g.queue");
    if (box) return light(getComputedStyle(box.querySelector("rect")).fill).value;
    for (let e = element; e; e = e.parentElement) {
      const found = light(getComputedStyle(e).backgroundColor);
      if (found.there) return found.value;
    }
  };
  let least = [99, ""];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest("script, style, title")) continue;
    const style = getComputedStyle(e);
    const a = light(e.closest("svg") ? style.fill : style.color).value, b = behind(e);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, `${e.tagName}.${e.className.baseVal ?? e.className}: ${e.textContent.slice(0, 40)}`];
  }
  return least;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    records = {"usual": past_runs.past_run(), "hostile": past_runs.hostile(), "big": past_runs.big()}
    records["lives"] = replace(records["usual"], lives=past_runs.LIVES)
    for name, record in records.items():
        (folder / f"{name}.html").write_text(page.render_page(record, records["usual"]), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["usual", "hostile", "big", "lives"])
def test_so_it_is_on_every_screen(browser, pages, name, width, dark):
    check(browser, pages, name, width, dark=dark)


def check(browser, pages, name, width, *, dark):
    browser.look(width=width, dark=dark, phone=width < 500)
    browser.open(pages / f"{name}.html")
    assert browser.value("document.documentElement.dataset.drawn") == "yes"
    for plot in PLOTS:
        if browser.value(f"!document.querySelector('#{plot}').closest('figure').hidden"):
            assert browser.value(f"{COLOURS}('{plot}')") > 10, plot
        else:
            assert (name, plot) == ("hostile", "times")
    assert browser.complaints == []
    assert browser.requests == [(pages / f"{name}.html").as_uri()]
    assert browser.value("document.documentElement.scrollWidth") <= width, "it scrolls to the side"
    least, where = browser.value(CONTRAST)
    assert least >= 4.5, where
    if folder := os.environ.get("REPORT_PICTURES"):
        browser.look(
            width=width,
            dark=dark,
            phone=width < 500,
            height=min(6000, browser.value("document.documentElement.scrollHeight")),
        )
        browser.picture(Path(folder) / f"{name}-{width}-{'dark' if dark else 'light'}.png")


@pytest.mark.slow
def test_the_policy_holds(browser, pages, tmp_path):
    """What it forbids is refused, and would be noticed by the test above."""
    text = (pages / "usual.html").read_text(encoding="utf-8")
    extra = "<script>document.title = 'broken into'</script><img src='http://127.0.0.1:9/x.png'><p style='color: red'>"
    (tmp_path / "x.html").write_text(text.replace("</main>", f"{extra}</main>"), encoding="utf-8")
    browser.open(tmp_path / "x.html")
    assert browser.value("document.title") == "Thumbnails: run 20261123-101500"
    refused = [entry["entry"]["text"] for entry in browser.complaints]
    assert len(refused) == 3, refused
    assert all("Content Security Policy" in text for text in refused)


@pytest.mark.slow
def test_plots_are_read_with_the_keyboard(browser, pages):
    browser.look()
    browser.open(pages / "usual.html")
    browser.value("document.getElementById('timeline').focus()")
    browser.press("ArrowRight")
    told = "document.getElementById('timeline-now').textContent"
    assert "(upload)" in browser.value(told) or "(resize)" in browser.value(told)
    assert "%" in browser.value(told)
    button = "document.querySelectorAll('#rates .u-legend th')[1]"
    browser.value(f"{button}.focus()")
    browser.press("Enter")
    assert browser.value(f"{button}.getAttribute('aria-pressed')") == "false"


@pytest.mark.slow
def test_it_turns_dark_while_it_is_open(browser, pages):
    browser.look(dark=False)
    browser.open(pages / "usual.html")
    pixel = "[...document.querySelector('#timeline canvas').getContext('2d').getImageData(400, 60, 1, 1).data].join()"
    light = browser.value(pixel)
    browser.look(dark=True)
    changed = f"""new Promise((done) => {{
      let frames = 0;
      const look = () => ({pixel} !== "{light}" || frames++ > 1000 ? done({pixel}) : requestAnimationFrame(look));
      look();
    }})"""
    assert browser.value(changed) != light


@pytest.mark.slow
def test_it_prints(browser, pages):
    browser.open(pages / "usual.html")
    made = browser.call("Page.printToPDF", printBackground=True)["data"]
    assert len(made) > 50_000
    if folder := os.environ.get("REPORT_PICTURES"):
        import base64

        (Path(folder) / "usual.pdf").write_bytes(base64.b64decode(made))


@pytest.mark.slow
def test_of_very_many_lines_the_largest_are_shown(browser, pages):
    browser.look()
    browser.open(pages / "big.html")
    pressed = "document.querySelectorAll('#fill .u-legend [aria-pressed=true]').length"
    assert browser.value(pressed) == 8
    assert "8 largest of 20" in browser.value("document.getElementById('fill-title').textContent")
    browser.value("document.querySelector('#fill .u-legend [aria-pressed=false]').click()")
    assert browser.value(f"new Promise(done => requestAnimationFrame(() => done({pressed})))") == 9
