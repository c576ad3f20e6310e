"""Labels that look wrong, from the runs of a k-fold sweep."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from siglip_med.commands.labels import Settings, run
from siglip_med.core.errors import UserError
from tests.metrics.simulated import make_predictions


@pytest.fixture
def folds(tmp_path):
    """Two folds of predictions in which image 3 of the first is surely another condition."""
    folders = []
    for number in range(2):
        predictions = make_predictions(number, images=40)
        frame = predictions.frame.assign(image=[f"{number}/{i}.jpg" for i in range(len(predictions))])
        logits = np.where(predictions.positive, 6.0, -6.0).astype(np.float32)
        if number == 0:
            logits[3] = -6.0
            logits[3, np.flatnonzero(~predictions.positive[3])[0]] = 9.0
        folders.append(tmp_path / f"fold{number}")
        replace(predictions, frame=frame, logits=logits).save(folders[-1] / "predictions" / "test")
    return folders


def test_the_label_that_is_surely_another_comes_first(folds, tmp_path):
    result = run(Settings(runs=str(tmp_path), output_dir=str(tmp_path / "out")))
    assert result.ranking["image"].iloc[0] == "0/3.jpg"
    assert bool(result.ranking["likely_wrong"].iloc[0])
    assert result.ranking["likely_wrong"].sum() == 1
    assert len(result.ranking) == 80
    saved = pd.read_csv(result.path)
    assert saved["rank"].tolist() == list(range(1, 81))


def test_one_fold_given_twice_is_refused(folds, tmp_path):
    with pytest.raises(UserError, match=r"0/0\.jpg: is in the test split of two of the runs \(40 images are\)"):
        run(Settings(runs=[str(folds[0]), str(folds[0])], output_dir=str(tmp_path)))
    with pytest.raises(UserError, match="holds 1 runs; give the folders of all runs"):
        run(Settings(runs=[str(folds[0])], output_dir=str(tmp_path)))
    assert not (tmp_path / "label_errors.csv").exists()
