"""The real report in a real browser: it asks nothing of the network, fits a phone, and shows the numbers of its JSON."""

import json
import re
import shutil

import numpy as np
import pytest

from calibrant.diagnosis import diagnose
from calibrant.reporting import Domain, report
from calibrant.scores import Scores

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the path")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
HISTORY = [{"epoch": i, "accuracy": 0.6 + 0.01 * i, "conf_ece": 0.18 - 0.06 * i, "floor_p95": 0.06} for i in range(3)]
TUNING = {"objective": "cft", "adapter": "a-very-long-path/" * 8, "seconds": 60.0, "history": HISTORY, "config": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report with everything on it: two domains, option mass, diagnosis, tuning, long words."""
    rng = np.random.default_rng(0)
    domains = []
    for name, n in (("near", 300), ("far" * 30, 200)):
        logit = rng.normal(size=(n, 4)) * 1.3
        p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
        answer = (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(0, 3)
        mass = np.log(rng.uniform(0.2, 1, n))
        sick, cured = (Scores.from_logp(t * logit, answer, logmass=mass) for t in (2.2, 1))
        domains.append(Domain(name, name == "near", sick, cured))
    out = tmp_path_factory.mktemp("report")
    diagnosis = diagnose(domains[0].before, target=domains[0].after, n_boot=100)
    asked = {"model": "an-owner/a-model-of-a-long-name-" + "x" * 60, "command": "calibrant " + "y" * 200}
    return report(domains, diagnosis=diagnosis, tuning=TUNING, asked=asked, out=out, n_boot=100)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture(params=[400, 1200], ids=["phone", "desk"])
def page(request, browser, made):
    """The report at one width, with what the browser said and asked for while opening it."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    page.said, page.asked_for = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked_for.append(request.url))
    page.goto(made.as_uri())
    page.wait_for_load_state("networkidle")
    yield page
    page.close()


def test_no_error_and_no_request_but_the_page_itself(page, made):
    assert page.said == []
    assert [url for url in page.asked_for if not url.startswith("data:")] == [made.as_uri()]


def test_the_page_is_never_wider_than_the_screen(page):
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    sticking_out = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg')
               && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert sticking_out == []


def test_pictures_have_a_size_and_their_text_is_legible(page):
    boxes = [svg.bounding_box() for svg in page.locator("figure svg").all()]
    assert (
        len(boxes) == 8
    )  # reliability before and after, and risk against coverage, of each of two sets; overview; map
    assert all(box["width"] > 250 and box["height"] > 100 for box in boxes)
    smallest = page.evaluate(
        """() => Math.min(...[...document.querySelectorAll('figure svg text')].filter(t => t.textContent.trim())
               .map(t => t.getBoundingClientRect().height))"""
    )
    assert smallest > 7


def test_the_table_shows_the_numbers_of_the_json(page, made):
    values = json.loads((made.parent / "report.json").read_text())
    shown = page.locator("[data-path]").all()
    assert len(shown) == 2 * (7 * 3 + 2)  # option mass has no change
    for element in shown:
        value = values
        for key in element.get_attribute("data-path").split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        text = element.inner_text()
        percent = text.endswith(("%", "pts"))
        number = float(re.sub("[%pts ]", "", text).replace("−", "-"))
        assert number == pytest.approx(value * (100 if percent else 1), abs=0.0501 if percent else 0.000501)
        assert element.is_visible()


def test_the_verdict_is_the_first_thing_after_the_title(page, made):
    headings = page.locator("h1, h2").all_inner_texts()
    verdict = json.loads((made.parent / "report.json").read_text())["verdict"]
    assert headings[1] == verdict["headline"] == "Calibration restored"
    top = page.locator("#verdict").bounding_box()
    assert top["y"] < 500


def test_definitions_open_on_a_click(page):
    formula = page.get_by_text("Σₘ (nₘ/N)", exact=False).first
    assert not formula.is_visible()
    page.get_by_text("Definitions and formulas").click()
    assert formula.is_visible()


def test_text_stands_out_from_its_ground_by_day_and_by_night(browser, made):
    """WCAG AA: 4.5:1 for text; computed from the colours that the browser resolves."""
    script = """() => {
        const lum = c => { const v = c.match(/[0-9.]+/g).slice(0, 3).map(x => { x /= 255;
            return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4 }); return .2126*v[0] + .7152*v[1] + .0722*v[2] };
        const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (c !== 'rgba(0, 0, 0, 0)') return c } return 'rgb(255, 255, 255)' };
        return [...document.querySelectorAll('main *, header *, footer *')].filter(e => !e.closest('svg') &&
            [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
            const [a, b] = [lum(getComputedStyle(e).color), lum(ground(e))];
            return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 60)] }) }"""
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(made.as_uri())
        weak = [(round(ratio, 2), where) for ratio, where in page.evaluate(script) if ratio < 4.5]
        large = [pair for pair in weak if 'class="b"' in pair[1] or 'class="a"' in pair[1]]
        assert [pair for pair in weak if pair not in large] == [], scheme
        assert all(ratio >= 3 for ratio, _ in large), scheme  # large bold numbers: 3:1
        page.close()
