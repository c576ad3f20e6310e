"""The tour runs from top to bottom, on few images and few steps; the committed one shows drawings."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "tour.ipynb"


def test_the_committed_tour_shows_two_pictures_and_no_path_of_a_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not re.search(
        r"/(home|root|work|tmp|Users)/",
        str([output.get("text") or output.get("data", {}).get("text/plain") for output in outputs]),
    )


def test_the_tour_runs_and_leaves_a_report_and_a_prediction(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("TOUR_FOLDER", str(tmp_path))
    monkeypatch.setenv("TOUR_CACHE", str(cache))
    monkeypatch.setenv("TOUR_STEPS", "4")
    monkeypatch.setenv("TOUR_IMAGES", "260")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    assert (tmp_path / "report").is_dir()
    shown = notebook.cells[-1]["outputs"][-1]["data"]["text/html"]
    assert shown.count("<tr") == 6, "a heading and five candidates"
