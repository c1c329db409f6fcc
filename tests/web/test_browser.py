"""The page in a real browser: by mouse, by finger and by keys. Pictures of each step lie in the test's folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served import CODE, Server, environment

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt-get install chromium")

SLOW = 60_000  # milliseconds: all that computes
ENDED = re.compile("arrived|came no nearer|took all|lost|Stopped at")
ON_SCREEN = """async ([x, y]) => {
  const [{ editor }, { toScreen }] = [await import("/static/js/main.js"), await import("/static/js/view.js")];
  const box = document.getElementById("canvas").getBoundingClientRect();
  const [left, top] = toScreen(editor.view, x, y);
  return [left + box.left, top + box.top];
}"""
DRAFT = """async () => {
  const { editor } = await import("/static/js/main.js");
  const { points, moves } = editor.draft;
  return { points: points.map((p) => [p.x, p.y, p.tx, p.ty]), moves, masked: editor.mask.on, brush: editor.brush };
}"""


class Browser:
    """A page of the editor, and what a user does with it."""

    def __init__(self, page: Any, folder: Path) -> None:
        self.page, self.folder, self.shots = page, folder, 0
        self.faults = list[str]()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)

    def shot(self, name: str) -> None:
        """A picture of the page."""
        self.shots += 1
        self.page.screenshot(path=self.folder / f"{self.shots:02d}-{name}.png")

    def open(self, server: Server, photo: Path) -> None:
        """Upload a photo and wait until it can be dragged."""
        self.page.goto(server.base)
        self.shot("empty")
        self.page.set_input_files("#file", photo)
        self.page.wait_for_selector("#likeness:not([hidden])", state="attached", timeout=SLOW)
        self.page.wait_for_selector("#progress", state="hidden", timeout=SLOW)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a photo pixel is on the screen."""
        left, top = self.page.evaluate(ON_SCREEN, [x, y])
        return left, top

    def drag(self, start: tuple[float, float], *ways: tuple[float, float]) -> None:
        """With the mouse, in photo pixels."""
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        for way in ways:
            self.page.mouse.move(*self.at(*way), steps=5)
        self.page.mouse.up()

    def draft(self) -> Any:
        """What is drawn."""
        return self.page.evaluate(DRAFT)

    def canvas(self) -> Any:
        """The canvas as it looks, [h, w, 3]."""
        import io

        shot = self.page.locator("#canvas").screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), np.int16)

    def ended(self) -> str:
        """How the drag ended, in the page's words."""
        expect(self.page.locator("#status")).to_have_text(ENDED, timeout=SLOW)
        expect(self.page.locator("#run")).to_contain_text("Run", timeout=SLOW)
        return str(self.page.inner_text("#status"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    """Opens pages of a size; afterwards none may have had an error."""
    opened = list[Browser]()

    def open_page(width: int = 1280, height: int = 800, **options: Any) -> Browser:
        context = chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        opened.append(Browser(context.new_page(), tmp_path))
        return opened[-1]

    yield open_page
    for one in opened:
        one.page.context.close()
        assert not one.faults


def test_a_photo_is_edited_with_the_mouse(
    browse: Callable[..., Browser], server: Server, photo: Path, tmp_path: Path
) -> None:
    user = browse()
    page = user.page
    user.open(server, photo)
    user.shot("inverted")
    user.drag((203, 140), (196, 134))
    user.drag((247, 140), (254, 134))
    points = user.draft()["points"]
    assert np.abs(np.array(points) - [[203, 140, 196, 134], [247, 140, 254, 134]]).max() < 0.6
    user.shot("points")
    page.get_by_text("Paint", exact=True).click()
    user.drag((190, 145), (262, 145))
    assert user.draft()["masked"]
    user.shot("mask")
    page.get_by_text("Points", exact=True).first.click()
    whole = user.canvas()

    page.keyboard.press("Space")
    expect(page.locator("#run")).to_contain_text("Stop")
    page.wait_for_timeout(300)
    user.shot("running")
    page.keyboard.press("Space")
    words = user.ended()
    user.shot("stopped")
    assert "Stopped" in words or "arrived" in words  # on a fast machine it may have arrived before
    if page.locator("#run").is_disabled():  # all arrived
        user.drag((225, 150), (225, 154))
    page.click("#run")
    expect(page.locator("#run")).to_contain_text("Stop")
    user.ended()
    user.shot("ended")
    changed = np.abs(user.canvas() - whole).max(2)
    assert changed.max() > 30, "the edit is not seen"

    edits = page.locator("#edits")
    for words in ("Edit 1 of 2", "The photo as it was; 2 to redo"):
        page.keyboard.press("Control+z")
        expect(edits).to_have_text(words, timeout=SLOW)
    expect(page.locator("#dragged")).to_be_hidden()
    assert user.draft()["points"] == points, "undone, the points are as they were drawn"
    user.shot("undone")
    for words in ("Edit 1 of 2", "Edit 2 of 2"):
        page.click("#redo")
        expect(edits).to_have_text(words, timeout=SLOW)
    expect(page.locator("#redo")).to_be_disabled(timeout=SLOW)
    steps = int(page.locator("#step").get_attribute("max"))
    page.locator("#step").fill(str(steps // 2))
    page.locator("#step").dispatch_event("change")
    expect(page.locator("#step-out")).to_have_text(re.compile(rf"^{steps // 2} of {steps}"), timeout=SLOW)
    user.shot("scrubbed")
    page.locator("#strength").fill("1.2")
    page.locator("#strength").dispatch_event("change")
    expect(page.locator("#strength-out")).to_have_text("1.20", timeout=SLOW)
    expect(page.locator("#run")).to_contain_text("Run", timeout=SLOW)
    page.locator("#canvas").focus()
    with_edit = user.canvas()
    page.keyboard.down("b")
    page.wait_for_timeout(100)
    assert np.abs(user.canvas() - with_edit).max() > 30, "B shows the photo as it was"
    page.keyboard.up("b")
    page.keyboard.press("s")
    page.wait_for_timeout(100)
    user.shot("split")
    page.keyboard.press("s")

    page.select_option("#kind", "png")
    page.click("#save")
    expect(page.locator("#saved-words")).to_contain_text("the same to the bit", timeout=SLOW)
    user.shot("saved")
    for link, name in (("#saved-file", "saved.png"), ("#saved-recipe", "r.toml")):
        with page.expect_download() as download:
            page.click(link)
        download.value.save_as(tmp_path / name)
    assert page.locator("#saved-file").get_attribute("download") == "astronaut-edited.png"
    command = [sys.executable, "-c", CODE, "edit", str(photo), "-o", "cli.png", "--recipe", "r.toml", "--quiet"]
    subprocess.run(command, cwd=tmp_path, check=True, env=os.environ | environment(tmp_path / "other" / "home"))
    assert (tmp_path / "saved.png").read_bytes() == (tmp_path / "cli.png").read_bytes()


def test_a_reload_shows_the_same(browse: Callable[..., Browser], server: Server, photo: Path) -> None:
    user = browse()
    user.open(server, photo)
    user.drag((203, 140), (198, 136))
    user.page.keyboard.press("p")
    user.drag((190, 145), (262, 145))
    user.page.locator('[data-move="smile"]').evaluate("(s) => { s.value = 0.5; s.dispatchEvent(new Event('input')); }")
    user.page.wait_for_timeout(1200)
    before, seen = user.draft(), user.canvas()
    user.page.reload()
    user.page.wait_for_selector("#likeness:not([hidden])", state="attached", timeout=SLOW)
    user.page.keyboard.press("p")
    user.page.wait_for_timeout(500)
    after = user.draft()
    assert (after["points"], after["moves"], after["masked"]) == (before["points"], {"smile": 0.5}, True)
    difference = np.abs(user.canvas() - seen).max(2)
    assert (difference > 60).mean() < 0.02, "the mask is painted again, the arrows are drawn again"


def test_keys(browse: Callable[..., Browser], server: Server, photo: Path) -> None:
    user = browse()
    user.open(server, photo)
    keys = user.page.keyboard
    user.drag((203, 140), (198, 136))
    ((x, y, tx, ty),) = user.draft()["points"]
    keys.press("ArrowRight")
    keys.press("Shift+ArrowDown")
    assert user.draft()["points"] == [[x, y + 1, pytest.approx(tx + 1), ty]]
    keys.press("Control+z")
    keys.press("Control+z")
    assert user.draft()["points"] == [[x, y, tx, ty]]
    keys.press("Control+y")
    assert user.draft()["points"][0][2] == pytest.approx(tx + 1)
    keys.press("Delete")
    assert user.draft()["points"] == []
    keys.press("Control+z")
    assert len(user.draft()["points"]) == 1
    size = user.draft()["brush"]["size"]
    keys.press("]")
    assert user.draft()["brush"]["size"] > size
    keys.press("[")
    keys.press("[")
    assert user.draft()["brush"]["size"] < size
    user.page.click("#help-open")
    expect(user.page.locator("#help")).to_be_visible()
    user.shot("keys")
    keys.press("Escape")
    expect(user.page.locator("#help")).to_be_hidden()


def test_points_are_moved_snapped_and_removed_and_faces_chosen(
    browse: Callable[..., Browser], server: Server, photo: Path
) -> None:
    user = browse()
    page = user.page
    user.open(server, photo)
    user.drag((203, 140), (198, 136))
    user.drag((198, 136), (190, 130))  # its target
    user.drag((203, 140), (206, 142))  # its handle
    assert np.abs(np.array(user.draft()["points"]) - [[206, 142, 190, 130]]).max() < 0.6
    page.locator("#points input").first.fill("210")
    page.keyboard.press("Enter")
    assert user.draft()["points"][0][0] == 210
    page.get_by_label("Remove point 1").click()
    assert user.draft()["points"] == []
    page.check("#snap")
    user.shot("snap")
    user.drag((203, 141), (190, 130))
    ((x, y, *_),) = user.draft()["points"]
    assert 0 < abs(x - 203) + abs(y - 141) < 12, "the corner of the mouth is near"
    page.get_by_text("Moves by name").click()
    page.locator('[data-move="smile"]').evaluate("(s) => { s.value = 1; s.dispatchEvent(new Event('input')); }")
    page.click("#moves-to-points", timeout=SLOW)
    assert len(user.draft()["points"]) == 3
    assert user.draft()["moves"] == {}
    user.shot("moves")
    page.get_by_text("Face", exact=True).click()
    user.drag((170, 40), (290, 180))
    expect(page.locator("#progress")).to_be_visible(timeout=SLOW)
    page.wait_for_selector("#progress", state="hidden", timeout=SLOW)
    page.get_by_text("Face and likeness").click()
    user.shot("face")


def test_the_mask_is_erased_inverted_and_undone(browse: Callable[..., Browser], server: Server, photo: Path) -> None:
    user = browse()
    user.open(server, photo)
    page = user.page
    page.keyboard.press("p")
    plain = user.canvas()
    user.drag((225, 150), (230, 150))
    painted = user.canvas()
    assert painted.mean() < plain.mean() - 20, "what may not move is dark"
    page.click("#mask-invert")
    page.mouse.move(5, 5)
    inverted = user.canvas()
    assert inverted.mean() > painted.mean() + 20
    page.keyboard.press("e")
    user.drag((225, 60), (260, 60))
    page.mouse.move(5, 5)
    assert user.canvas().mean() < inverted.mean()
    for _ in range(3):
        page.keyboard.press("Control+z")
    page.wait_for_timeout(100)
    assert np.abs(user.canvas() - plain).max() < 20, "all is undone"
    page.click("#mask-none")
    page.mouse.move(5, 5)
    assert user.canvas().mean() < plain.mean() - 20
    page.click("#mask-all")
    assert not user.draft()["masked"]


def test_with_a_finger_on_a_phone(browse: Callable[..., Browser], server: Server, photo: Path) -> None:
    user = browse(360, 740, has_touch=True, is_mobile=True, device_scale_factor=2)
    page = user.page
    user.open(server, photo)
    user.shot("inverted")
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", user.at(203, 140))
    for share in (0.3, 0.7, 1.0):
        fingers("touchMove", user.at(203 - 8 * share, 140 - 6 * share))
    fingers("touchEnd")
    assert np.abs(np.array(user.draft()["points"]) - [[203, 140, 195, 134]]).max() < 1
    (x0, y0), (x1, _) = user.at(200, 120), user.at(250, 120)
    fingers("touchStart", (x0, y0), (x1, y0))
    fingers("touchMove", (x0 - 40, y0), (x1 + 40, y0))
    fingers("touchEnd")
    page.wait_for_timeout(100)
    (x2, _), (x3, _) = user.at(200, 120), user.at(250, 120)
    assert x3 - x2 > 1.5 * (x1 - x0), "two fingers zoom"
    assert len(user.draft()["points"]) == 1, "and place no point"
    user.shot("zoomed")
    page.tap("#run")
    user.ended()
    user.shot("ended")
    for part in ("What may move", "Moves by name", "Face and likeness"):
        page.get_by_text(part).first.tap()
    page.wait_for_timeout(200)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 360, "nothing has to be scrolled sideways"
    beyond = """[...document.querySelectorAll("button, input, select, label, summary, img")]
        .filter((e) => e.offsetParent && e.getBoundingClientRect().right > 361).map((e) => e.id || e.outerHTML)"""
    assert page.evaluate(beyond) == []
    user.shot("panel")


def test_every_control_says_what_it_is(browse: Callable[..., Browser], server: Server, photo: Path) -> None:
    user = browse()
    user.open(server, photo)
    user.drag((203, 140), (198, 136))
    named = """[...document.querySelectorAll("button, input, select, a, canvas, summary, fieldset, img")]
        .filter((e) => !(e.ariaLabel || e.hasAttribute("alt") || e.textContent.trim()
            || [...(e.labels ?? [])].some((l) => l.textContent.trim())))
        .map((e) => e.outerHTML)"""
    assert user.page.evaluate(named) == []
    # Each can be reached by Tab, and shows that it has the focus.
    reached = set[str]()
    for _ in range(60):
        user.page.keyboard.press("Tab")
        about = user.page.evaluate("""() => {
            const e = document.activeElement;
            const shown = getComputedStyle(e.matches("#tools input") ? e.nextElementSibling : e);
            return [e.id || e.name || e.ariaLabel || e.tagName, shown.outlineStyle];
        }""")
        reached.add(about[0])
        if about[0] not in ("BODY", "file"):
            assert about[1] != "none", about
    assert {"canvas", "run", "tool", "snap", "Point 1, target, x"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(
    browse: Callable[..., Browser], server: Server, photo: Path, scheme: str
) -> None:
    """WCAG's AA: 4.5 for text."""
    user = browse(color_scheme=scheme)
    user.open(server, photo)
    user.shot(scheme)
    colours = user.page.evaluate("""() => {
        const style = getComputedStyle(document.documentElement);
        return Object.fromEntries(["ground", "panel", "ink", "quiet", "main", "main-ink", "warn"]
            .map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    }""")

    def light(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for ink, ground in (
        *(("ink", "panel"), ("quiet", "panel"), ("warn", "panel")),
        *(("ink", "ground"), ("quiet", "ground"), ("main-ink", "main")),
    ):
        low, high = sorted((light(colours[ink]), light(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, ink, ground)


def test_the_page_takes_nothing_from_elsewhere() -> None:
    """No host but its own in anything it loads."""
    static = Path(__file__).parents[2] / "web" / "static"
    for path in [p for p in static.rglob("*") if p.is_file()]:
        found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", path.read_text())
        assert [host for host in found if "www.w3.org" not in host] == [], path


def test_a_run_that_fails_leaves_the_points_and_says_why(
    browse: Callable[..., Browser], server: Server, photo: Path
) -> None:
    user = browse()
    user.open(server, photo)
    user.page.click("#zoom-fit")
    user.page.wait_for_timeout(100)
    user.drag((203, 140), (199, 137))
    user.page.keyboard.press("Space")
    user.ended()
    user.page.click("#undo")
    expect(user.page.locator("#edits")).to_have_text("The photo as it was; 1 to redo", timeout=SLOW)
    drawn = user.draft()["points"]
    assert len(drawn) == 1
    user.drag((30, 400), (60, 420))
    expect(user.page.locator("#alert")).to_contain_text("within the dashed frame")
    assert user.draft()["points"] == drawn
    user.page.keyboard.press("p")
    user.drag((225, 60), (235, 60))
    user.page.keyboard.press("Space")
    expect(user.page.locator("#alert")).to_contain_text("the mask lets nothing move", timeout=SLOW)
    expect(user.page.locator("#alert")).to_contain_text("Move or remove that point")
    assert user.draft()["points"] == drawn
    user.shot("refused")


def test_what_cannot_be_opened_is_said_on_the_empty_page(
    browse: Callable[..., Browser], server: Server, tmp_path: Path
) -> None:
    user = browse()
    page = user.page
    words = page.locator("#drop-alert")
    page.goto(server.base)
    (tmp_path / "words.jpg").write_text("no picture")
    page.set_input_files("#file", tmp_path / "words.jpg")
    expect(words).to_contain_text("words.jpg", timeout=SLOW)
    user.shot("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    page.set_input_files("#file", tmp_path / "empty.png")
    expect(words).to_contain_text("empty")
    page.goto(f"{server.base}/#{'0' * 32}")
    expect(words).to_contain_text("no such session", timeout=SLOW)
    user.faults.clear()  # the browser counts a refused upload as an error


def test_without_a_face_the_page_offers_what_can_be_done(
    browse: Callable[..., Browser], server: Server, tmp_path: Path
) -> None:
    Image.fromarray(np.full((200, 300, 3), 120, np.uint8)).save(tmp_path / "plain.png")
    user = browse()
    page = user.page
    page.goto(server.base)
    page.set_input_files("#file", tmp_path / "plain.png")
    expect(page.locator("#faceless")).to_be_visible(timeout=SLOW)
    user.shot("faceless")
    page.click("#whole-too")
    page.wait_for_selector("#likeness:not([hidden])", state="attached", timeout=SLOW)
    expect(page.locator("#faceless")).to_be_hidden()


def test_a_stopped_move_goes_on_and_another_tab_keeps_its_points(
    browse: Callable[..., Browser], server: Server, photo: Path
) -> None:
    first, second = browse(), browse()
    first.open(server, photo)
    second.page.goto(first.page.url)
    second.page.wait_for_selector("#likeness:not([hidden])", state="attached", timeout=SLOW)
    second.drag((225, 150), (225, 156))
    first.page.get_by_text("Moves by name").click()
    slider = first.page.locator('[data-move="turn"]')
    slider.focus()
    for _ in range(6):
        first.page.keyboard.press("ArrowRight")
    turned = first.draft()["moves"]["turn"]
    first.page.keyboard.press("Control+z")
    assert first.draft()["moves"]["turn"] < turned
    first.page.keyboard.press("Control+y")
    assert first.draft()["moves"]["turn"] == turned > 0
    first.page.keyboard.press("Space")  # a slider has the focus: it runs all the same
    words = first.ended()
    if "Run again" in words:  # its points are there to go on with
        expect(first.page.locator("#run")).to_be_enabled()
    expect(second.page.locator("#edits")).to_have_text("Edit 1 of 1", timeout=SLOW)
    assert len(second.draft()["points"]) == 1
    first.page.keyboard.press("Control+z")
    expect(first.page.locator("#edits")).to_have_text("The photo as it was; 1 to redo", timeout=SLOW)
    assert first.draft()["moves"]["turn"] > 0
    first.page.keyboard.press("Control+z")  # there is nothing more to undo
    assert first.page.inner_text("#alert") == ""


def test_two_faces_one_after_another(
    browse: Callable[..., Browser], server: Server, astronaut: Any, tmp_path: Path
) -> None:
    both = np.concatenate([astronaut[:300, 60:360], astronaut[:300, 60:360][:, ::-1]], 1)
    Image.fromarray(both).save(tmp_path / "two.png")
    user = browse()
    page = user.page
    user.open(server, tmp_path / "two.png")
    user.shot("both")
    expect(page.locator("#status")).to_contain_text("2 faces")
    page.get_by_text("Face and likeness", exact=True).click()
    chosen = page.locator("#faces [aria-pressed=true]").inner_text()
    x = (
        143
        if user.page.evaluate("async () => (await import('/static/js/main.js')).editor.state.aligned.box[0] < 300")
        else 412
    )
    user.drag((x, 140), (x - 4, 137))
    page.keyboard.press("Space")
    user.ended()
    first = page.url
    page.get_by_role("button", name="Face 2" if chosen == "Face 1" else "Face 1", exact=True).click()
    page.wait_for_url(lambda url: url != first, timeout=SLOW)
    page.wait_for_selector("#likeness:not([hidden])", state="attached", timeout=SLOW)
    page.wait_for_selector("#progress", state="hidden", timeout=SLOW)
    expect(page.locator("#name")).to_have_text("two-edited.png")
    user.shot("the other")
    page.go_back()
    expect(page.locator("#name")).to_have_text("two.png", timeout=SLOW)
    expect(page.locator("#edits")).to_have_text("Edit 1 of 1", timeout=SLOW)
