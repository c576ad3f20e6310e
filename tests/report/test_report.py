"""The report: every number is the metric's, every figure is inside the page, and nothing is fetched."""

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.inference.neighbour import Neighbour
from siglip_med.metrics import (
    Bootstrap,
    Predictions,
    fit_calibration,
    fit_conformal,
    headline_metrics,
    label_frequency_predictions,
    per_case,
)
from siglip_med.report import (
    ReportInputs,
    ReportSettings,
    RunMeta,
    build_report,
    write_report,
)
from siglip_med.report.evidence import Evidence
from siglip_med.report.inputs import Explanation
from siglip_med.report.sections.conditions import recall_by_condition
from siglip_med.report.sections.confidence import familiarity_section
from siglip_med.report.sections.explanations import mistakes_section
from tests.report.synthetic_run import synthetic_predictions

CURVES = pd.DataFrame(
    [("loss_raw/sigmoid", step, 1.0 / (step + 1)) for step in range(20)] + [("val/r_at_5", 19, 0.5)],
    columns=["tag", "step", "value"],
)
SETTINGS = ReportSettings(bootstrap=50, map_images=40)


def inputs(**changes) -> ReportInputs:
    given = {
        "test": synthetic_predictions(),
        "val": synthetic_predictions(seed=1, split="val"),
        "zero_shot": synthetic_predictions(skill=0.3),
        "curves": CURVES,
        "meta": RunMeta("run_<seed>_0", {"model": "tiny & small", "seed": "0"}, {"seed": 0}),
    }
    return ReportInputs(**(given | changes))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(inputs(), tmp_path_factory.mktemp("report"), SETTINGS)


class Links(HTMLParser):
    """Everything in a page that a browser would fetch or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in {"src", "href", "srcset", "poster", "data", "action", "background", "xlink:href"}:
                self.found.append((tag, name, value))
            if name == "style":
                self.text += value

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def links(report):
    parser = Links()
    parser.feed(report.read_text())
    return parser


def test_nothing_is_fetched_from_outside(links):
    assert not {"iframe", "object", "embed", "base", "form"} & links.tags
    for tag, _, value in links.found:
        assert value.startswith("data:") or (tag == "a" and value.startswith("#")), value[:80]
    assert not re.search(r"url\(|@import|https?://", links.text)


def test_every_section_link_has_a_target(report, links):
    targets = [value[1:] for tag, _, value in links.found if tag == "a"]
    assert len(targets) == len(set(targets)) >= 10
    assert all(f'id="{target}"' in report.read_text() for target in targets)


def test_every_figure_is_a_data_uri_that_decodes(report, links):
    sources = [value for tag, name, value in links.found if tag == "img" and name == "src"]
    saved = sorted(path.stem for path in (report.parent / "figures").iterdir())
    assert len(sources) == len(saved) == 9
    for source in sources:
        head, _, body = source.partition(",")
        assert head == "data:image/png;base64"
        image = Image.open(io.BytesIO(base64.b64decode(body, validate=True)))
        image.load()
        assert min(image.size) > 200
        # not a blank sheet
        assert np.asarray(image.convert("L")).std() > 5


def test_no_photograph_unless_asked(report):
    assert "Photographs" not in report.read_text()


def test_text_of_the_run_is_escaped(report):
    page = report.read_text()
    assert "run_&lt;seed&gt;_0" in page
    assert "tiny &amp; small" in page
    assert r"run\_\<seed>\_0" in (report.parent / "report.md").read_text()


def test_json_holds_the_metrics_unrounded(report):
    given, content = inputs(), json.loads((report.parent / "report.json").read_text())
    headline = content["headline"]
    series = {"this run": given.test, "zero-shot": given.zero_shot}
    for name, predictions in series.items():
        expected = headline_metrics(predictions)
        assert headline["values"][name].keys() == expected.keys()
        for metric, value in expected.items():
            assert headline["values"][name][metric] == pytest.approx(value, abs=1e-12), (name, metric)
    frequency = headline_metrics(label_frequency_predictions(given.test))
    assert headline["values"]["class prior"]["r_at_5"] == frequency["r_at_5"]
    assert "ece" not in headline["values"]["CRM"]
    interval = Bootstrap(50).intervals(given.test, ("r_at_1",))["r_at_1"]
    assert headline["intervals"]["r_at_1"] == pytest.approx(
        {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    )
    assert content["limits"]["config"] == {"seed": 0}


def test_metrics_are_per_case_too_where_cases_have_several_images(report):
    given, content = inputs(), json.loads((report.parent / "report.json").read_text())
    expected = headline_metrics(per_case(given.test))
    for metric, interval in content["headline"]["case_intervals"].items():
        assert (np.nan if interval["estimate"] is None else interval["estimate"]) == pytest.approx(
            expected[metric], nan_ok=True
        ), metric
    single, case = (headline_metrics(one)["mrr"] for one in (given.test, per_case(given.test)))
    shown = re.findall(r"\| mean reciprocal rank .*", (report.parent / "report.md").read_text())[0].split(" | ")
    assert (shown[1][:5], shown[2][:5]) == (f"{single:.3f}", f"{case:.3f}")
    assert content["cases"]["poolings"]["mean_logit/test"]["mrr"] == pytest.approx(case)
    sets = fit_conformal(per_case(given.val), 0.9, temperature=fit_calibration(given.val).temperature)
    assert content["cases"]["sets"]["mean_set_size"] == sets.sets(per_case(given.test)).sum(axis=1).mean()
    alone = [one.take(np.unique(one.cases, return_index=True)[1]) for one in (given.test, given.val, given.zero_shot)]
    assert not Evidence.gather(inputs(test=alone[0], val=alone[1], zero_shot=alone[2]), SETTINGS).case_intervals


def test_what_is_unfamiliar_is_counted_and_the_others_judged_without_it(report):
    assert "before familiarity" in report.read_text()
    test = inputs().test
    rng = np.random.default_rng(0)
    for p, shown in ((rng.uniform(size=len(test)), True), (np.ones(len(test)), False)):
        known = replace(test, familiarity=p.astype(np.float32))
        section = familiarity_section(Evidence.gather(inputs(test=known), SETTINGS))
        kept = headline_metrics(test.take(np.flatnonzero(p.astype(np.float32) >= 0.05)))
        assert section.data["unfamiliar"] == (p < 0.05).sum()
        assert section.data["r_at_5"] == kept["r_at_5"]
        rows = section.tables[0].rows
        assert rows[1][3].startswith(f"{kept['mrr']:.3f} [")
        assert (rows[2][1] != "–") == shown  # nothing is undefined, not 0, where no image is
    assert fit_conformal(inputs().val, 0.5).sets(replace(test, familiarity=np.zeros(len(test), np.float32))).all()


def test_page_and_markdown_show_the_same_rounded_number(report):
    value = f"{headline_metrics(inputs().test)['r_at_1']:.3f}"
    for text in (report.read_text(), (report.parent / "report.md").read_text()):
        assert value in text
        assert "chance" in text
        assert "class prior" in text


def test_markdown_tables_are_well_formed_and_figures_exist(report):
    lines = (report.parent / "report.md").read_text().splitlines()
    tables = [i for i, line in enumerate(lines) if re.fullmatch(r"\|(-+:?\|)+", line)]
    assert len(tables) >= 12
    for rule in tables:
        columns = lines[rule].count("|") - 1
        rows = [line for line in lines[rule - 1 : rule + 3] if line.startswith("|")]
        assert all(len(re.findall(r"(?<!\\)\|", row)) == columns + 1 for row in rows), rows
    names = re.findall(r"!\[[^]]*\]\((.+?)\)", "\n".join(lines))
    assert len(names) == 9
    assert all((report.parent / name).is_file() for name in names)


def test_with_five_conditions_every_table_says_that_r_at_5_is_always_1():
    def single(**given) -> Predictions:
        p = synthetic_predictions(conditions=5, images=60, **given)
        return replace(p, labels=np.eye(5, dtype=np.float32)[p.primary])

    given = inputs(test=single(), val=single(seed=1, split="val"), zero_shot=single(skill=0.3))
    page = build_report(given, ReportSettings(bootstrap=20, map_images=20))
    said = {}
    for section in page.sections:
        for table in section.tables:
            cells = [*table.columns, *(cell for row in table.rows for cell in row)]
            named = [cell for cell in cells if re.search(r"R@5|AHD@5", cell)]
            assert all("always 1" in cell or "the same for every order" in cell for cell in named), named
            said[section.key] = said.get(section.key, 0) + len(named)
    assert {key for key, count in said.items() if count} == {
        "headline",
        "cases",
        "subgroups",
        "hierarchy",
        "conditions",
    }
    assert "R@5 (all 5 candidates: always 1)" in page.sections[0].tables[-1].columns
    assert any("always 1" in card.label for card in page.cards)
    assert page.lead.endswith("in 100% (all 5 conditions: always 1).")


def test_recall_by_condition_equals_a_loop():
    p = synthetic_predictions(images=40)
    for k in (1, 3):
        found = recall_by_condition(p, k)
        for c in range(12):
            rows = np.flatnonzero(p.primary == c)
            hits = [bool(set(np.argsort(-p.logits[row])[:k]) & set(np.flatnonzero(p.labels[row]))) for row in rows]
            assert found[c] == pytest.approx(np.mean(hits)) if hits else np.isnan(found[c])


def test_a_run_without_zero_shot_curves_embeddings_chapters_or_attributes(tmp_path):
    given = inputs(zero_shot=None, curves=CURVES[:0])
    bare = given.test.frame.assign(sex="", site="", age_group="", skin_tone="")
    test = replace(given.test, frame=bare, chapters=(), blocks=(), image_embeddings=np.empty((0, 16), np.float32))
    page = write_report(replace(given, test=test), tmp_path, SETTINGS)
    text = page.read_text()
    assert "Not recorded in this data: skin tone, sex, age group, site" in text
    assert "holds no logged curves" in text
    assert "too few image embeddings" in text
    beside = json.loads((tmp_path / "report.json").read_text())["headline"]["baselines"]
    assert beside["zero-shot"] is beside["linear probe"] is beside["kernel probe"] is None
    assert "Against zero-shot: not measured." in text
    assert "zero-shot not measured · linear probe not measured · kernel probe not measured" in text
    values = json.loads((tmp_path / "report.json").read_text())["headline"]["values"]["this run"]
    assert values["chapter_accuracy"] is None


def test_photographs_only_on_request_and_only_with_their_folder(tmp_path):
    given, asked = inputs(), ReportSettings(bootstrap=20, map_images=40, images=True)
    with pytest.raises(UserError, match=r"report\.image_root"):
        write_report(given, tmp_path / "report", asked)
    assert not (tmp_path / "report").exists()
    (tmp_path / "images").mkdir()
    for name in given.test.frame["image"]:
        Image.new("RGB", (60, 40), "tan").save(tmp_path / name)
    page = write_report(replace(given, image_root=tmp_path), tmp_path / "report", asked)
    assert "must not be published" in page.read_text()
    assert (page.parent / "figures" / "surest_mistakes.png").is_file()
    assert "surely wrong" not in page.read_text()


def test_mistakes_are_explained_with_what_the_caller_found_and_what_it_lacks():
    given, jpeg = inputs(), io.BytesIO()
    photograph = np.full((32, 32, 3), 120, np.uint8)
    Image.fromarray(photograph).save(jpeg, "JPEG")
    near = (
        Neighbour(7, "a", "a.jpg", ("Acne", "Eczema"), 0.876, jpeg.getvalue()),
        Neighbour(8, "b", "b.jpg", (), 0.5, None),
    )
    found = Explanation(3, photograph, {"relevance": np.eye(4), "occlusion": -np.eye(8)}, near)
    section = mistakes_section(replace(given, explanations=(found,), explanation_notes=("no relevance",)))
    ((number, image, answer, label, nearest),) = section.tables[0].rows
    test = given.test
    assert (number, image, label) == ("1", test.frame["image"].iloc[3], test.conditions[test.primary[3]])
    assert answer.startswith(test.conditions[test.logits[3].argmax()])
    assert nearest == "Acne, Eczema (0.88); no condition (0.50)"
    assert section.paragraphs[-1] == "no relevance"
    assert [figure.name for figure in section.figures] == ["mistake_01"]
    none = mistakes_section(replace(given, explanation_notes=("no maps",)))
    assert (none.paragraphs, none.tables, none.figures) == (("no maps",), (), ())


def test_broken_predictions_leave_no_report(tmp_path):
    other = synthetic_predictions(seed=7, skill=0.3)
    renamed = replace(other, frame=other.frame.assign(image=[f"other_{i}" for i in range(len(other))]))
    with pytest.raises(UserError, match="different images"):
        write_report(inputs(zero_shot=renamed), tmp_path / "report", SETTINGS)
    assert not (tmp_path / "report").exists()


def test_a_page_says_first_what_its_images_are_then_what_was_found(tmp_path):
    given = inputs(data_card=tmp_path / "DATA_CARD.md")
    drawn = Provenance("drawings", "circles", "CC0")
    page = write_report(replace(given, test=replace(given.test, provenance=drawn)), tmp_path / "report", SETTINGS)
    text, markdown = page.read_text(), page.with_suffix(".md").read_text()
    assert markdown.startswith("**Made from DRAWINGS, not from photographs (circles, license: CC0)")
    order = [text.index(part) for part in ("Made from DRAWINGS", "<h1>", 'class="verdict"', 'class="lead"')]
    assert order == sorted(order)
    assert "- The model beats always naming the most frequent condition (R@1" in markdown
    assert 'href="../DATA_CARD.md"' in text
    assert "](../DATA_CARD.md)" in markdown
    content = json.loads(page.with_suffix(".json").read_text())
    assert content["notice"].startswith("Made from DRAWINGS")
    assert content["verdict"] == content["headline"]["verdict"]


def test_every_baseline_has_its_interval(report):
    content = json.loads(report.with_suffix(".json").read_text())["headline"]
    given = inputs()
    frequency = SETTINGS.resampling.intervals(label_frequency_predictions(given.test), ["mrr"])
    assert content["baselines"]["class prior"]["mrr"]["low"] == frequency["mrr"].low
    for name in ("chance", "class prior", "zero-shot"):
        found = content["baselines"][name]["r_at_1"]
        assert found["low"] < found["estimate"] < found["high"]
        assert content["values"][name]["r_at_1"] == found["estimate"]
    assert content["baselines"]["linear probe"] is content["baselines"]["kernel probe"] is None


def test_the_most_frequent_answer_and_what_is_never_answered_are_counted(report):
    content = json.loads(report.with_suffix(".json").read_text())["confusion"]
    first = inputs().test.logits.argmax(axis=1)
    counts = np.bincount(first, minlength=12)
    assert list(content["answers"].values()) == counts.tolist()
    listed = inputs().test.positive.any(axis=0)
    assert sorted(content["never_answered"]) == sorted(
        f"Condition {c}" for c in range(12) if listed[c] and not counts[c]
    )


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine, so the page cannot be opened in a browser")
    return found


@pytest.mark.parametrize("width", [390, 600, 1200])
def test_a_browser_draws_the_page(report, chromium, tmp_path, width):
    """Every image has its natural size in the browser, no request leaves the page, and it does not scroll sideways."""
    probe = (
        "<script>addEventListener('load', () => { document.title = JSON.stringify({"
        "images: [...document.images].map(i => i.complete ? i.naturalWidth : 0),"
        "fetched: performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:')),"
        "overflow: document.documentElement.scrollWidth - innerWidth,"
        "counts: sort('#conditions table', 3), names: sort('#conditions table', 0)}) });"
        "const sort = (table, column) => { const of = document.querySelector(table);"
        " of.querySelectorAll('thead button')[column].click();"
        " return [...of.tBodies[0].rows].map(row => row.cells[column].textContent) }</script>"
    )
    page = tmp_path / "page.html"
    page.write_text(report.read_text().replace("</body>", probe + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --hide-scrollbars --dump-dom"
    command = [chromium, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(\{.*?\})</title>", dom)
    assert title, dom[:300]
    seen = json.loads(title[1].replace("&quot;", '"'))
    assert len(seen["images"]) == 9
    assert min(seen["images"]) > 200
    assert seen["fetched"] == []
    assert seen["overflow"] <= 0
    counts = [int(cell.replace(",", "")) for cell in seen["counts"]]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) > 3
    assert seen["names"] == sorted(seen["names"], key=lambda name: int(name.removeprefix("Condition ")))
