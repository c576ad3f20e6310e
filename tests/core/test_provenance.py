"""What images were travels from the source into tables, predictions and checkpoints, and says itself in one line."""

import numpy as np
import pytest

from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance, sentence
from siglip_med.metrics import Predictions
from siglip_med.sources import CsvSource, ScinSource
from siglip_med.synthetic import SyntheticSource

SCIN = Provenance("photographs", "SCIN", "SCIN Data Use License")


def test_a_source_knows_what_its_images_are_and_settings_name_what_it_cannot_know():
    assert ScinSource(root="x").provenance == SCIN
    assert CsvSource(root="x").provenance == Provenance("photographs", "not stated", "not stated")
    assert CsvSource(root="x", dataset_name="Ours", license="CC0").provenance == Provenance(
        "photographs", "Ours", "CC0"
    )
    assert SyntheticSource(root="x").provenance.kind == "drawings"


def test_drawings_say_that_they_are_no_photographs():
    assert sentence(Provenance("drawings", "d", "l")).startswith(
        "Made from DRAWINGS, not from photographs (d, license: l)"
    )
    assert sentence(SCIN) == "Made from photographs of people: SCIN, license: SCIN Data Use License."
    nobody = sentence(Provenance())
    assert nobody.startswith("Images: what they are is not stated (data.source.dataset_name")
    assert "people" not in nobody
    assert Provenance().said == "not stated"
    assert "do not say whether they are photographs or drawings" in sentence(None)


@pytest.mark.parametrize("provenance", [SCIN, None])
def test_predictions_keep_it_on_disk(tmp_path, provenance):
    made = Predictions.of(np.eye(2), np.eye(2))
    Predictions.save(made.__class__(**{**vars(made), "provenance": provenance}), tmp_path)
    assert Predictions.load(tmp_path).provenance == provenance


@pytest.mark.parametrize("stored", [{"kind": "paintings", "name": "x", "license": "y"}, {"kind": 3}])
def test_a_damaged_entry_is_refused(stored):
    with pytest.raises(UserError, match=r"run: its provenance is damaged: kind: "):
        Provenance.read(stored, "run")
