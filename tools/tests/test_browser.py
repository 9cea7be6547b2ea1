"""The report page in a real browser: what a reader sees at desktop and phone width, in light and dark."""

import os
import shutil
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PLOT = """
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

def plot(out, name, title, description, size=(5.0, 3.2)):
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tenfold", "figure.figsize": size}):
        figure, axes = plt.subplots(layout="constrained")
        x = np.linspace(0, 1, 30)
        for index, label in enumerate(("ours", "distillation only", "plain")):
            axes.plot(x, 1 - np.exp(-(3 - index) * x), label=label)
            axes.fill_between(x, 0.95 - np.exp(-(3 - index) * x), 1.05 - np.exp(-(3 - index) * x), alpha=0.2)
        axes.set_xlabel("training compute (share of the full run)")
        axes.set_ylabel("zero-shot accuracy")
        axes.grid(True)
        axes.legend()
        metadata = {"Title": title, "Description": description, "Date": None}
        figure.savefig(out / name, transparent=True, metadata=metadata)
        plt.close(figure)
"""
HELD = (
    PLOT
    + """
def reproduce(out, *, budget, seed):
    plot(out, "accuracy.svg", "Accuracy grows faster with reinforcement",
         "Three curves; ours lies above both controls from a tenth of the compute on.")
    plot(out, "noise.svg", "The same with labels shuffled by a fifth", "All three curves are lower, in the same order.")
    one = claim(__package__, [0.713], [0.642], text="Training on a reinforced dataset reaches the accuracy of plain "
                "training with a tenth of the samples", figures=("accuracy.svg", "noise.svg"), minimum_effect=0.02,
                control_name="plain training, same steps")
    two = claim(__package__, [0.61], [0.66], text="Synthetic captions alone are enough", minimum_effect=0.02)
    three = claim(__package__, [2.41], [1.0], text="S2 is 2.3 times faster than ViT-B/16 at equal accuracy",
                  paper_value=PaperValue(2.3, "2.3× on a phone", "abstract", "A"), minimum_effect=0.5)
    four = ClaimResult.not_attempted(paper=__package__, claim="State of the art on 38 zero-shot benchmarks",
        primary_metric="mean accuracy over 38 datasets", paper_value=PaperValue(0.637, "63.7 %", "Table 2", "D"),
        reason="needs the 38 datasets, which cannot be had here, and 256 GPUs for the training")
    return [one, two, three, four]
"""
)
SMALL = (
    PLOT
    + """
def reproduce(out, *, budget, seed):
    plot(out, "a.svg", "Fewer flips after the update", "One bar per method.", size=(9.0, 3.0))
    return [claim(__package__, [0.3, 0.1], [0.25, 0.2], text="Fewer negative flips", figures=("a.svg",)),
            claim(__package__, [0.1, 0.11], [0.4, 0.42], text="No loss of accuracy after the update")]
"""
)
CRASH = """
def reproduce(out, *, budget, seed):
    print("loading " + "a" * 300, file=sys.stderr)
    import ctypes; ctypes.string_at(0)
"""
LOW_CONTRAST = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    const c = parse(getComputedStyle(e).backgroundColor);
    return c.length === 3 || c[3] > 0 ? c : ground(e.parentElement);
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest('title, desc, defs')) continue;
    const style = getComputedStyle(e);
    const drawn = e.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [a, b] = [light(parse(drawn)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) found.push([e.tagName, e.textContent.trim().slice(0, 40), drawn, ratio.toFixed(2)]);
  }
  return found;
}"""


def make_recorded(name: str) -> dict:
    """A recorded run of `HELD` with five seeds; its second claim is contradicted, its third has moved since."""
    from tenfold_shared.claims import ClaimResult, PaperValue

    def claim(text, ours, control, effect, **more):
        fields = dict(paper_value=PaperValue(0.8, "80 % with 1/10", "Table 4", "V"), evidence="real",
                      control_name="plain training, same steps", primary_metric="zero-shot accuracy",
                      data="12,000 photographs in 20 classes", seconds=5400.0, commit="a" * 40)  # fmt: skip
        return ClaimResult.compare(
            paper=name, claim=text, ours=ours, control=control, minimum_effect=effect, budget="full", **fields | more
        ).to_dict()

    spread = (-0.01, 0.004, 0.0, 0.012, -0.006)
    claims = [
        claim("Training on a reinforced dataset reaches the accuracy of plain training with a tenth of the samples",
              [0.71 + s for s in spread], [0.64 - s / 2 for s in spread], 0.02),
        claim("Synthetic captions alone are enough", [0.6 + s for s in spread], [0.66] * 5, 0.02),
        claim("S2 is 2.3 times faster than ViT-B/16 at equal accuracy", [1.9 + s for s in spread], [1.0] * 5, 0.5,
              paper_value=PaperValue(2.3, "2.3× on a phone", "abstract", "A"), primary_metric="times faster"),
    ]  # fmt: skip
    command = f"tenfold reproduce {name} --budget full"
    attempts = [{"date": "2026-11-20", "what": "learning rate 1e-3", "result": "no gap between the arms"}]
    return {"schema": 1, "claims": claims, "configuration": {}, "command": command, "commit": "a" * 40,
            "machine": {"cpu": "2 cores"}, "versions": {}, "attempts": attempts}  # fmt: skip


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, make_papers):
    """A report over a paper that held, one that half held, one that crashed and one that never ran."""
    folder = tmp_path_factory.mktemp("page")
    papers = make_papers(folder / "site")
    papers.install("reinforced", HELD, recorded=make_recorded("reinforced"))
    papers.install("compatible", SMALL)
    papers.install("crashing", CRASH)
    papers.install("waiting", "")
    done = papers.run("reproduce", "reinforced", "compatible", "crashing", "--out", folder / "report")
    assert done.returncode == 1, done.stderr
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def chromium():
    """A headless browser: the system's, where there is one."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def show(chromium, page_file):
    """Open the page; afterwards nothing may have been requested from anywhere or written to the console."""
    opened, complaints = [], []

    def open_page(*, width: int = 1280, dark: bool = False):
        scheme = "dark" if dark else "light"
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: opened.append(request.url))
        page.goto(page_file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        if folder := os.environ.get("TENFOLD_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"report-{width}-{scheme}.png", full_page=True)
        return page

    yield open_page
    assert complaints == []
    assert {url for url in opened if not url.startswith("data:")} == {page_file.as_uri()}


@pytest.mark.parametrize("width", [360, 1280])
def test_every_drawing_has_a_size_and_a_name(show, width):
    page = show(width=width)
    drawings = page.evaluate(
        """() => [...document.querySelectorAll('svg, img')].map(e => {
            const box = e.getBoundingClientRect(), label = e.getAttribute('aria-label') || e.getAttribute('alt');
            const names = (e.getAttribute('aria-labelledby') || '').split(' ').map(id => document.getElementById(id));
            return {seen: e.checkVisibility(), width: box.width, height: box.height, hidden: e.ariaHidden === 'true',
                    name: label || names.map(n => n ? n.textContent : '').join(' ')}; })"""
    )
    assert len(drawings) >= 10
    assert all(drawing["width"] > 8 and drawing["height"] > 8 for drawing in drawings)
    assert all(drawing["name"].strip() or drawing["hidden"] for drawing in drawings)


def test_identifiers_are_unique_and_every_reference_resolves(show):
    page = show()
    broken = page.evaluate(
        """() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
            const twice = ids.filter((id, i) => ids.indexOf(id) !== i), lost = [];
            for (const e of document.querySelectorAll('*')) for (const a of e.attributes) {
              if (a.name === 'href' && a.value.startsWith('#') && !ids.includes(a.value.slice(1))) lost.push(a.value);
              if (a.name === 'href' && e.tagName === 'A' && !a.value.startsWith('#')) lost.push(a.value);
              for (const m of a.value.matchAll(/url\\(#([^)]+)\\)/g)) if (!ids.includes(m[1])) lost.push(m[0]);
              if (a.name.startsWith('aria-') && a.name.endsWith('by'))
                a.value.split(' ').forEach(id => ids.includes(id) || lost.push(id)); }
            return [twice, lost]; }"""
    )
    assert broken == [[], []]


@pytest.mark.parametrize("width", [320, 360, 480, 768, 832, 900, 1280])
def test_nothing_is_wider_than_the_screen(show, width):
    page = show(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.body).fontSize") == "16px"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_text_stands_out_from_its_background(show, width, dark):
    page = show(width=width, dark=dark)
    assert page.evaluate(LOW_CONTRAST) == []


def test_dark_mode_is_dark_and_so_are_the_plots(show):
    page = show(dark=True)
    grounds = page.evaluate(
        "() => ['body', 'figure'].map(s => getComputedStyle(document.querySelector(s)).backgroundColor)"
    )
    assert all(sum(map(int, ground[4:-1].split(","))) < 150 for ground in grounds)
    axis = page.evaluate("() => getComputedStyle(document.querySelector('figure svg text')).fill")
    assert sum(map(int, axis[4:-1].split(","))) > 500


def test_the_keyboard_reaches_the_table(show):
    page = show()
    stops = []
    for _ in range(12):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                """() => { const e = document.activeElement, style = getComputedStyle(e);
                return [e.className, !!e.closest('nav'), !!e.closest('table'), style.outlineStyle]; }"""
            )
        )
    assert stops[0][0] == "skip"
    assert any(stop[1] for stop in stops) and any(stop[2] for stop in stops)
    assert all(stop[3] == "solid" for stop in stops), "focus is visible"
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.closest('table')"), "the skip link leads to the table"


def test_the_table_is_a_table_at_phone_width_too(show):
    page = show(width=360)
    table = page.get_by_role("table")
    assert table.count() == 1
    assert page.get_by_role("columnheader").count() == 6
    assert page.get_by_role("rowheader").count() >= 7
    assert page.evaluate("[...document.querySelectorAll('th')].every(e => e.scope)")
    assert page.evaluate("document.documentElement.lang") == "en" and page.title()


def test_what_the_page_says(show):
    page = show()
    text = page.inner_text("main")
    assert "2 of 6 claims are shown; 2 are contradicted, 1 is not shown, 1 was not attempted." in text
    assert "2 of 3 claims measured again fall inside the range" in text
    assert "crashing: killed by signal 11" in text
    assert "needs the 38 datasets" in text
    assert "inside the predicted range" in text and "1 of 2 values outside the predicted range" in text
