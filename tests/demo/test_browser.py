"""The page in a browser: what a visitor drops, reads, chooses and types; and that nothing is fetched or kept."""

import io
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from siglip_med.data import images
from siglip_med.demo import views
from siglip_med.demo.server import DemoServer
from tests.demo.conftest import LIMITS

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")

WAIT = 60_000
"""Milliseconds until a page that does not answer is a failure."""


def chromium() -> str | None:
    """Path of a Chromium: the one that is named, the system's, or that of ``playwright install chromium``."""
    named = os.environ.get("SIGLIP_MED_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        with sync_api.sync_playwright() as play:
            own = play.chromium.executable_path
        found = own if Path(own).is_file() else None
    return found


@pytest.fixture(scope="module")
def server(answerer):
    """One page for the whole module."""
    server = DemoServer("127.0.0.1", 0, LIMITS)
    with server.running(answerer, 0.9):
        yield server


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    if path is None:
        pytest.skip("needs Chromium: install it, or run playwright install chromium")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """A new visitor."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(server.url)
    page.wait_for_selector("#sm-upload input[type=file]", state="attached")
    yield page
    context.close()
    for tab in list(server.visits._values):
        server.visits.forget(tab)


def drop(page, *files):
    """Drops files: paths, or (name, content)."""
    page.wait_for_selector("#sm-upload input[type=file]", state="attached")
    given = [
        str(file) if isinstance(file, Path) else {"name": file[0], "mimeType": "image/*", "buffer": file[1]}
        for file in files
    ]
    page.set_input_files("#sm-upload input[type=file]", given)


def message(page):
    page.wait_for_selector("#sm-message .sm-messages")
    return page.inner_text("#sm-message .sm-messages")  # without the clock that runs while a request does


def png(width, height, color=128):
    file = io.BytesIO()
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    Image.new("L", (width, height), color).save(file, "PNG")
    Image.MAX_IMAGE_PIXELS = limit
    return file.getvalue()


def test_a_drawing_gets_five_conditions_a_set_a_tree_and_typed_sentences(page, server, answerer, drawing):
    drop(page, drawing)
    page.wait_for_selector("#sm-differential tbody tr")
    (expected,) = answerer.classifier.predict(drawing, top_k=5).differentials
    assert page.locator("#sm-differential tbody th").all_inner_texts() == [c.condition for c in expected.candidates]
    codes = page.locator("#sm-differential .sm-code").all_inner_texts()
    assert codes == [candidate.code for candidate in expected.candidates]
    confidences = page.locator("#sm-differential .sm-number").all_inner_texts()
    assert confidences == [f"{candidate.confidence:.1%}" for candidate in expected.candidates]

    answer = answerer.answer(answerer.read(drawing.read_bytes(), "x"))
    members = page.locator("#sm-set li")
    assert members.count() == len(answerer.prediction_set(answer, 0.9).columns)
    page.fill("#sm-coverage input[type=number]", "0.6")
    page.press("#sm-coverage input[type=number]", "Enter")
    page.wait_for_selector("#sm-set:has-text('60% get a set')")
    assert members.count() == len(answerer.prediction_set(answer, 0.6).columns)

    leaves = page.locator("#sm-tree .sm-leaf strong").all_inner_texts()
    assert sorted(leaves) == sorted(candidate.condition for candidate in expected.candidates)
    assert page.inner_text("#sm-tree").count("first answer") == 1

    nearest = answerer.nearest(answer)
    labels = page.locator("#sm-near li strong").all_inner_texts()
    assert labels == [", ".join(one.conditions) or "no condition" for one in nearest]
    assert page.locator("#sm-near li img").count() == len(nearest)
    assert page.evaluate("[...document.querySelectorAll('#sm-near img')].every(i => i.complete && i.naturalWidth)")

    page.fill("#sm-words textarea", "scaly plaques\n<b>a mole</b>")
    page.click("#sm-score")
    page.wait_for_selector("#sm-scores .sm-typed")
    typed = page.locator("#sm-scores .sm-typed th").all_inner_texts()
    assert sorted(line.split("\n")[0] for line in typed) == ["“<b>a mole</b>”", "“scaly plaques”"]
    for score in answerer.score(answer, ["scaly plaques", "<b>a mole</b>"]):
        row = page.locator("#sm-scores .sm-typed", has_text=score.text)
        assert f"after {score.place - 1} of" in row.inner_text() or score.place == 1


def test_the_map_follows_the_chosen_condition_and_is_checked_on_demand(page, answerer, drawing):
    drop(page, drawing)
    page.wait_for_selector("#sm-differential tbody tr")
    assert page.locator("#sm-photograph .sm-overlay").count() == 0
    answer = answerer.answer(answerer.read(drawing.read_bytes(), "x"))
    pictures = []
    for place in (0, 3):
        name = answer.candidates[place].condition
        page.click("#sm-condition input")
        page.locator("[role=option]", has_text=f"{place + 1}. {name} (").click()
        page.wait_for_selector(f'#sm-photograph figcaption:has-text("the score of {name} ")')
        pictures.append(page.locator("#sm-photograph .sm-overlay").get_attribute("src"))
    expected = answerer.relevance(answer, int(answer.order[3]))
    assert pictures[1] in views.photograph(answer.photograph, answerer.classifier.model.image_spec, expected, "x")
    assert pictures[0] != pictures[1]
    page.locator("#sm-map input").nth(1).check()
    page.wait_for_selector("#sm-photograph figcaption:has-text('overing')")
    checked = page.locator("#sm-photograph .sm-overlay").get_attribute("src")
    assert checked not in pictures
    page.click("#sm-condition input")
    page.click("#sm-differential h2")  # the list is left without another choice: the map stays, nothing is asked
    page.fill("#sm-words textarea", "scaly plaques")
    page.click("#sm-score")
    page.wait_for_selector("#sm-scores .sm-typed")
    assert page.locator("#sm-photograph .sm-overlay").get_attribute("src") == checked
    page.locator("#sm-map input").nth(0).check()  # and back, for the same condition
    page.wait_for_selector("#sm-photograph figcaption:has-text('comes from')")
    assert page.locator("#sm-photograph .sm-overlay").get_attribute("src") == pictures[1]


def test_the_way_of_making_a_map_may_be_chosen_before_the_condition(page, answerer, drawing):
    drop(page, drawing)
    page.wait_for_selector("#sm-differential tbody tr")
    page.locator("#sm-map input").nth(1).check()
    page.click("#sm-condition input")
    page.locator("[role=option]").first.click()
    page.wait_for_selector("#sm-photograph figcaption:has-text('overing')")
    answer = answerer.answer(answerer.read(drawing.read_bytes(), "x"))
    expected = answerer.occlusion(answer, int(answer.order[0]))
    spec = answerer.classifier.model.image_spec
    picture = page.locator("#sm-photograph .sm-overlay").get_attribute("src")
    assert picture in views.photograph(answer.photograph, spec, expected, "x")


def test_the_warning_is_in_sight_wherever_the_page_is_scrolled_to(page, drawing):
    drop(page, drawing)
    page.wait_for_selector("#sm-differential tbody tr")
    for depth in (0, 5_000):
        page.mouse.wheel(0, depth)
        page.wait_for_timeout(200)
        box = page.locator("#sm-banner").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 100
        strong = page.locator("#sm-banner strong").all_inner_texts()
        assert strong == ["Not a diagnostic device.", "Trained on DRAWINGS,"]


def test_what_cannot_be_read_is_said_and_the_rest_is_judged(page, drawing, monkeypatch):
    drop(page, ("notes.txt", b"no image at all"))
    assert message(page).startswith("notes.txt is not an image of a known format")
    assert not page.is_visible("#sm-differential")
    drop(page, ("large.png", png(20_000, 10_000)))
    page.wait_for_selector("#sm-message:has-text('large.png')")
    assert message(page) == "large.png has more pixels than the limit of 150,000,000."
    whole = drawing.read_bytes()
    drop(page, ("cut.jpg", whole[: len(whole) // 2]), ("whole.jpg", whole))
    page.wait_for_selector("#sm-differential tbody tr")
    assert message(page).startswith("cut.jpg is truncated or damaged")
    monkeypatch.setattr(images, "FORMATS", tuple(name for name in images.FORMATS if name != "HEIF"))
    drop(page, ("phone.heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)))
    page.wait_for_selector("#sm-message:has-text('phone.heic')")
    assert message(page) == ("phone.heic is a HEIC image, which needs pillow-heif: pip install 'siglip-med[heic]'.")
    assert not page.is_visible("#sm-differential")


def test_too_many_and_too_large_files_are_refused(page, drawing):
    drop(page, ("large.jpg", bytes(3_000_000)))
    page.wait_for_selector("[data-testid=toast-body]:has-text('maximum allowed size')")
    drop(page, *[(f"{number}.jpg", drawing.read_bytes()) for number in range(4)])
    page.wait_for_selector("#sm-differential tbody tr")
    assert message(page) == "4 files were dropped; only the first 3 are judged at once."
    page.wait_for_selector("#sm-choice label input")
    assert page.locator("#sm-choice label:has(input)").all_inner_texts() == ["1. 0.jpg", "2. 1.jpg", "3. 2.jpg"]
    page.locator("#sm-choice input").nth(2).click()
    page.wait_for_selector("#sm-photograph:has-text('2.jpg')")
    page.locator("#sm-choice input").nth(0).click()
    page.wait_for_selector("#sm-photograph:has-text('0.jpg')")


def test_nothing_is_fetched_from_elsewhere_and_nothing_is_kept(page, server, drawing):
    folders = [path for path in Path(tempfile.gettempdir()).glob("siglip-med-demo-*") if path.is_dir()]
    drop(page, drawing)
    page.wait_for_selector("#sm-differential tbody tr")
    assert {url for url in page.asked if not url.startswith((server.url.partition("?")[0], "data:", "blob:"))} == set()
    left = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []
    source = page.locator("#sm-photograph img").first.get_attribute("src")
    assert source.startswith("data:image/jpeg;base64,")

    page.click("#sm-forget")
    page.wait_for_selector("#sm-differential", state="hidden")
    assert len(server.visits) == 0


def test_visitors_do_not_see_each_other_and_a_closed_tab_is_forgotten(page, browser, server, answerer, drawing):
    drop(page, drawing)
    page.wait_for_selector("#sm-differential tbody tr")
    other = browser.new_page()
    other.goto(server.url)
    drop(other, drawing.with_name(sorted(path.name for path in drawing.parent.iterdir())[20]))
    other.wait_for_selector("#sm-differential tbody tr")
    page.fill("#sm-words textarea", "scaly plaques")
    page.click("#sm-score")
    page.wait_for_selector("#sm-scores .sm-typed")
    (score,) = answerer.score(answerer.answer(answerer.read(drawing.read_bytes(), "x")), ["scaly plaques"])
    assert page.inner_text("#sm-scores .sm-typed .sm-number") == f"{score.confidence:.1%}"
    assert len(server.visits) == 2
    other.close()
    for _ in range(100):
        if len(server.visits) == 1:
            break
        page.wait_for_timeout(100)
    assert len(server.visits) == 1


def test_a_stranger_by_another_name_is_not_answered(browser, server):
    request = browser.new_context().request
    assert request.get(server.url).status == 200
    assert request.get(server.url, headers={"Host": "evil.example"}).status == 400


@pytest.mark.parametrize("width", [1280, 400, 320])
def test_nothing_serious_stands_in_the_way_of_a_screen_reader_or_a_small_screen(page, drawing, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page.set_viewport_size({"width": width, "height": 900})
    drop(page, drawing)
    page.wait_for_selector("#sm-differential tbody tr")
    page.wait_for_selector("#sm-tree .sm-leaf")
    if os.environ.get("SIGLIP_MED_SHOTS"):
        page.screenshot(path=f"{os.environ['SIGLIP_MED_SHOTS']}/{width}.png", full_page=True)
    found = [
        (one["id"], [(node["target"], node["html"][:300]) for node in one["nodes"]])
        for one in axe.run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert not found
    wide = page.evaluate(
        "w => [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > w + 1)"
        ".map(e => e.tagName + '.' + e.getAttribute('class') + ' ' + Math.round(e.getBoundingClientRect().right))",
        width,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width, wide
    banner, heading = (page.locator(where).first.bounding_box() for where in ("#sm-banner", ".sm-heading h1"))
    page.evaluate("window.scrollTo(0, 0)")
    assert banner["y"] + banner["height"] <= heading["y"] + 1


def test_on_a_phone_the_answer_stands_before_the_maps_and_the_picture(page, drawing):
    page.set_viewport_size({"width": 390, "height": 844})
    drop(page, drawing)
    page.wait_for_selector("#sm-differential tbody tr")
    tops = [
        page.locator(part).bounding_box()["y"]
        for part in ("#sm-upload", "#sm-differential", "#sm-map", "#sm-photograph")
    ]
    assert tops == sorted(tops)
