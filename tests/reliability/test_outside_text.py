"""Whatever a table, a folder or a checkpoint calls its things, an output has the structure of one of plain names."""

import csv
import io
import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table as ScreenTable
from torch.utils.tensorboard import SummaryWriter

from siglip_med.commands import labels
from siglip_med.conditions.condition import Condition, ConditionSet
from siglip_med.conditions.heatmap import draw_heatmap
from siglip_med.conditions.matching import Match, read_matches, write_matches
from siglip_med.core.csv_reading import read_csv
from siglip_med.core.errors import UserError, fail
from siglip_med.core.files import write_csv
from siglip_med.core.outside import Console, csv_cell, csv_text, markdown, printable, printable_record
from siglip_med.core.provenance import Provenance
from siglip_med.data.accounting import LeftOut
from siglip_med.data.splitting.report import report_split
from siglip_med.data.splitting.split import Split
from siglip_med.data.table import TableRow, build_table
from siglip_med.export.card import model_card
from siglip_med.inference.differentials import Candidate, Differential, PredictionRun
from siglip_med.metrics import Bootstrap, Predictions, write_per_image
from siglip_med.report import (
    Card,
    Link,
    Page,
    ReportInputs,
    ReportSettings,
    RunMeta,
    Section,
    Table,
    write_page,
    write_report,
)
from siglip_med.report.checklist import checklist
from siglip_med.report.data_card import data_card
from siglip_med.report.leaderboard_page import write_leaderboard
from siglip_med.report.plots.comparisons import conditions_figure
from siglip_med.report.plots.matrices import confusion_figure, distance_figure
from siglip_med.report.plots.style import to_png
from siglip_med.report.tensorboard import write_dashboards
from tests.models import runs
from tests.reliability.hostile import (
    ANY,
    CONTROL,
    HOSTILE,
    IN_TABLES,
    html_shape,
    markdown_shape,
    markdown_text,
    obeyed,
)
from tests.report.synthetic_run import synthetic_predictions

MANY = settings(max_examples=60, deadline=None, derandomize=True)
FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


def same_pages(folder: Path, plain: Path, name: str) -> None:
    for read, ending in ((markdown_shape, "md"), (html_shape, "html")):
        text = (folder / f"{name}.{ending}").read_text(encoding="utf-8")
        assert read(text) == read((plain / f"{name}.{ending}").read_text(encoding="utf-8"))
        assert not obeyed(text)
        assert "<script>alert" not in text.replace("\\<", "")
    json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


# ---- each boundary by itself ----------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None, derandomize=True)
@given(ANY)
def test_markdown_shows_a_text_as_it_is_and_makes_nothing_of_it(text):
    for place in (
        "{}",
        "# {}",
        "- {}",
        "**{}**",
        "| a |\n|---|\n| {} |\n",
        "[{}](x.md)",
        "| {} | b |\n|---|---|\n| c | d |\n",
    ):
        assert markdown_shape(place.format(markdown(text))) == markdown_shape(place.format("name"))
    shown = printable(re.sub(r"[\t\r\n]+", " ", text))
    assert " ".join(markdown_text(markdown(text)).split()) == " ".join(shown.split())
    assert not re.search(r"(?<!\\)\$|https?://|\bwww\.", markdown(text)), "GitHub's formulas and autolinks"


def test_numbers_stay_readable_in_markdown():
    for text in (
        "0.483 [0.431, 0.530]",
        "+0.120 [+0.081, +0.160], p < 0.001",
        "1.5",
        "r_at_5",
        "–",
        "-3.5%",
        "[-0.1, 0.2]",
    ):
        assert markdown(text) == text


@settings(max_examples=500, deadline=None, derandomize=True)
@given(ANY)
def test_a_cell_is_no_formula_and_is_read_as_it_was(text):
    assert csv_text(csv_cell(text)) == text
    assert not csv_cell(text).startswith(FORMULA)
    assert csv_cell(-1.5) == -1.5, "a number is none"


@settings(max_examples=500, deadline=None, derandomize=True)
@given(ANY)
def test_a_terminal_obeys_no_name(text):
    out = io.StringIO()
    table = ScreenTable(title=text)
    table.add_column(text, overflow="fold")
    table.add_row(text)
    console = Console(file=out, force_terminal=False, width=4000)
    console.print(table)
    console.print(f"{text}: done", soft_wrap=True, highlight=False)
    assert not obeyed(out.getvalue())
    assert f"{printable(text, keep=chr(10))}: done\n" in out.getvalue()


@pytest.mark.parametrize("text", HOSTILE + CONTROL)
def test_errors_and_log_lines_obey_no_name(text, capsys):
    with pytest.raises(SystemExit):
        fail(UserError(f"{text}: there is no such file"))
    assert not obeyed(said := capsys.readouterr().err)
    assert len(said.splitlines()) == 1
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "%s: done", (text,), None)
    assert printable_record(record)
    assert not obeyed(record.getMessage())


# ---- files -----------------------------------------------------------------------------------------------------------


@MANY
@given(texts=st.lists(IN_TABLES, min_size=6, max_size=6, unique=True))
def test_tables_that_are_read_again_give_every_name_back(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("csv")
    write_csv(folder / "a.csv", ("x", "y"), [(text, -1) for text in texts])
    assert [(row["x"], row["y"]) for row in read_csv(folder / "a.csv").rows] == [(text, "-1") for text in texts]
    made = synthetic_predictions(images=6, conditions=4)
    frame = made.frame.assign(image_id=texts, case=texts, image=texts, **{texts[0]: texts})
    replace(made, frame=frame, conditions=tuple(texts[:4])).save(folder / "p")
    loaded = Predictions.load(folder / "p")
    assert loaded.frame.columns.tolist() == frame.columns.tolist()
    assert loaded.frame.to_numpy().tolist() == frame.to_numpy().tolist()
    write_per_image(loaded, folder)
    split = Split(np.array(texts, dtype=object), np.array(texts, dtype=object), np.array(["train", "val", "test"] * 2))
    split.save(folder / "split.csv")
    rows = read_csv(folder / "split.csv").rows
    assert [(row["image_id"], row["case"]) for row in rows] == [(text, text) for text in texts]
    for file in (folder / "a.csv", folder / "p/images.csv", folder / "split.csv", folder / "per_image.csv"):
        with file.open(newline="", encoding="utf-8") as opened:
            assert not [cell for row in csv.reader(opened) for cell in row if cell.startswith(FORMULA) and cell != "-1"]


def test_files_of_before_are_read_as_they_are(tmp_path):
    (tmp_path / "old.csv").write_text("image_id,case\n=x,-1\n@a,'b\n", encoding="utf-8")
    assert [tuple(row.values()) for row in read_csv(tmp_path / "old.csv").rows] == [("=x", "-1"), ("@a", "'b")]


def test_matches_give_labels_and_conditions_back(tmp_path):
    names = [text for text in HOSTILE if "|" not in text and text == text.strip()]
    matches = [Match(name, "L40", "same name", (name,)) for name in names]
    write_matches(tmp_path / "matches.csv", matches, [1] * len(names), [1] * len(names))
    assert list(read_matches(tmp_path / "matches.csv", names, names)) == matches


@pytest.mark.parametrize("place", ["image", "image_id", "case", "site", "condition"])
@pytest.mark.parametrize("text", ["a\x1b[2J", "\x00", "a\udcff"])
def test_a_table_with_control_characters_is_refused_in_one_line(place, text):
    row = {"image": "a.png", "weights": {"Acne": 1.0}, "source_row": 1}
    row |= {"weights": {text: 1.0}} if place == "condition" else {place: text}
    with pytest.raises(UserError, match="row 1") as error:
        build_table([TableRow(**row)], root=Path(), source="t.csv")
    assert str(error.value).isprintable()


def test_predictions_and_label_errors_hold_no_formula(tmp_path):
    items = tuple(Differential(text, (Candidate(1, text, text, 0.5, -1.0),), case=text) for text in HOSTILE)
    table, _ = PredictionRun(items, (), True, cases=items).save(tmp_path)
    with table.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert {csv_text(row[0]) for row in rows} == set(HOSTILE)
    texts = [header.index(name) for name in ("image", "condition", "code", "case")]
    assert not [row[place] for row in rows for place in texts if row[place].startswith(FORMULA)]
    out = io.StringIO()
    Console(file=out, width=400).print(PredictionRun(items, (), True).table())
    assert not obeyed(out.getvalue())
    assert "[bold red]x[/]" in out.getvalue()
    parts = [synthetic_predictions(images=20, conditions=8, seed=seed) for seed in (0, 1)]
    hostile = [replace(part, conditions=HOSTILE[40:48], frame=part.frame.assign(case=HOSTILE[45])) for part in parts]
    hostile = [replace(one, frame=one.frame.assign(image=one.frame["image"] + str(n))) for n, one in enumerate(hostile)]
    ranking = labels.rank_labels(hostile, [Path("a"), Path("b")])
    assert set(ranking["given"]) <= set(HOSTILE[40:48])


# ---- pages and cards -------------------------------------------------------------------------------------------------


def page(text: str) -> Page:
    table = Table(text, ("x", text), ((text, text), (Link(text, f"{text}/"), "1")), groups=(("", 1), (text, 1)))
    section = Section("s", text, (text, f"An answer: {text}"), (table,), data={"x": text})
    return Page(
        text, text, {text: text}, (Card(text, text, text, text),), (section,), text, (text,), {text: f"{text}/a.md"}
    )


@settings(max_examples=120, deadline=None, derandomize=True)
@given(ANY)
def test_a_page_has_the_structure_of_a_page_of_plain_names(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("pages")
    if any("\ud800" <= c <= "\udfff" for c in text):
        text = printable(text)  # JSON and links name what exists
    write_page(page(text), folder / "a", "page")
    write_page(page("name"), folder / "b", "page")
    same_pages(folder / "a", folder / "b", "page")
    hrefs = re.findall(r'href="([^"]*)"', (folder / "a/page.html").read_text(encoding="utf-8"))
    assert not [href for href in hrefs if re.match(r"(?!data:,)[a-z]+:", href)], "no scheme of a name's own"


def split_report(text: str):
    rows = [
        TableRow(f"{n}.png", {text: 1.0, "Acne": 0.5}, n + 1, f"{text}{n}", f"{text}", sex=text, site=text)
        for n in range(3)
    ]
    table = build_table(rows, root=Path(), source="labels.csv", left_out=[LeftOut(text, 1)], notes=[text])
    table = replace(table, provenance=Provenance("photographs", text, text))
    return report_split(table, np.array(["train", "val", "test"]), table.cases, "abc")


@MANY
@given(IN_TABLES)
def test_the_data_card_has_its_headings_and_columns_alone(text):
    card = data_card(split_report(text), text)
    assert markdown_shape(card) == markdown_shape(data_card(split_report("name"), "name"))
    assert not obeyed(card)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    node = runs.model_node("siglip", tmp_path_factory.mktemp("base"))
    return runs.build(node), node


def payload(text: str) -> dict:
    config = {"model": {"adaptation": {"_target_": f"x.{text}"}}, "data": {"source": {"_target_": "x.Y", "name": text}}}
    known = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    return {
        "base": {"name": text, "revision": text, "fingerprint": text},
        "config": config | {"evaluation": {}},
        "conditions": [text, "b"],
        "codes": [text, text],
        "prompts": [[text], [text]],
        "provenance": {"kind": "photographs", "name": text, "license": text},
        "split_hash": text,
        "account": [text],
        "look_alikes": text,
        "calibration": None,
        "metrics": {"r_at_1": known},
        "baselines": {},
        "refit": {"about": text},
    }


@MANY
@given(ANY)
def test_the_model_card_has_its_headings_and_columns_alone(trained, text):
    def body(of: str) -> str:
        # paths and slashes are left out of a card: a name of such has fewer words in a cell, and no other structure
        return model_card(trained[0], payload(of), "peft", of).split("\n---\n", 1)[1]

    assert markdown_shape(body(text)) == markdown_shape(body("name"))
    assert not obeyed(body(text))


@MANY
@given(ANY)
def test_the_checklist_has_its_items_alone(text):
    def filled(of: str) -> str:
        test = synthetic_predictions(images=8, conditions=4)
        of_run = ReportInputs(
            test, test, meta=RunMeta(of, config={"seed": of, "data": {"splitter": of}}), split=SPLIT[of]
        )
        facts = dict.fromkeys(("model", "base model", "checkpoint", "split hash", "look-alikes", "conditions"), of)
        return checklist(of_run, Page(of, of, facts, (Card(of, of, of, of),), (), of))

    SPLIT = {of: split_report("name") for of in (text, "name")}
    assert markdown_shape(filled(text)) == markdown_shape(filled("name"))
    assert not obeyed(filled(text))


def of_names(predictions: Predictions, names) -> Predictions:
    frame = predictions.frame.assign(
        image_id=[f"{names[row % len(names)]}{row}" for row in range(len(predictions))],
        case=predictions.frame["case"] + names[3],
        site=[names[row % 3] for row in range(len(predictions))],
    )
    count = len(predictions.conditions)
    return replace(
        predictions,
        frame=frame,
        conditions=tuple(names[:count]),
        groups=tuple(names[c % 5] for c in range(count)),
        provenance=Provenance("photographs", names[0], names[8]),
    )


def test_a_whole_report_and_its_dashboards_of_hostile_names(tmp_path):
    plain = [f"name {n}" for n in range(len(HOSTILE))]
    for kind, names in (("hostile", ("a\tb", "a\nb", *HOSTILE)), ("plain", plain)):
        test, val = (
            of_names(synthetic_predictions(images=60, conditions=24, split=split), names) for split in ("test", "val")
        )
        facts = {"base model": names[23], "checkpoint": names[33]}
        given = ReportInputs(test, val, zero_shot=test, meta=RunMeta(names[8], facts, {"seed": names[9]}))
        write_report(given, tmp_path / kind, ReportSettings(bootstrap=3, map_images=40))
        if kind == "hostile":
            with SummaryWriter(tmp_path / "events") as writer:
                write_dashboards(writer, test)
    same_pages(tmp_path / "hostile", tmp_path / "plain", "report")
    for table in (tmp_path / "events").rglob("metadata.tsv"):
        lines = table.read_text(encoding="utf-8").split("\n")
        assert {line.count("\t") for line in lines if line} == {lines[0].count("\t")}


def test_a_leaderboard_of_hostile_names(tmp_path):
    for kind, names in (("hostile", HOSTILE), ("plain", [f"name {n}" for n in range(len(HOSTILE))])):
        frame = pd.DataFrame({"run": names, "name": names, "setting": names, "seed": 0, "tuned/val/mrr": 0.5})
        (tmp_path / kind).mkdir()
        write_leaderboard(tmp_path / kind, frame, "nothing", Bootstrap(3))
        text = (tmp_path / kind / "leaderboard.html").read_text().replace(kind, "folder")
        (tmp_path / kind / "leaderboard.html").write_text(text)
    same_pages(tmp_path / "hostile", tmp_path / "plain", "leaderboard")


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_show_names_and_no_formula(tmp_path):
    given = [*HOSTILE, *CONTROL]
    names, count = [printable(name) for name in given], len(given)
    frame = pd.DataFrame(
        {
            "condition": [*HOSTILE, *CONTROL[:-2], "x", "y"],
            "train": 2,
            "images": 1,
            "value": 0.5,
            "baseline": 0.4,
        }
    )
    square = 1.0 - np.eye(count)
    for figure in (
        conditions_figure(frame, "t", "zero-shot"),
        confusion_figure(np.eye(count), given, ["I"] * count),
        distance_figure({"D": square[:20, :20]}, given[-20:], ["I"] * 20),
    ):
        to_png(figure, 40)
        shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        pairs = zip(shown[:-2], names[-len(shown) : -2], strict=True)
        assert not [(text, name) for text, name in pairs if len(name) <= 24 and not text.startswith(name)]
        assert not obeyed("".join(shown))
    conditions = ConditionSet(tuple(Condition(name, "", "", "", "", (), "", name, "") for name in HOSTILE[:10]))
    draw_heatmap(square[:10, :10], conditions, r"$\frac{1}{$", tmp_path / "d.png")
