"""The picture of D."""

import numpy as np
from PIL import Image

from siglip_med.conditions import dissimilarity, known_conditions, load_conditions
from siglip_med.conditions.heatmap import draw_heatmap


def test_smoke_heatmap_of_the_catalog(tmp_path):
    conditions = load_conditions(known_conditions())
    out = tmp_path / "geometry.png"
    draw_heatmap(dissimilarity(conditions), conditions, "D", out)
    assert [path.name for path in tmp_path.iterdir()] == ["geometry.png"]
    picture = np.asarray(Image.open(out).convert("RGB"))
    assert min(picture.shape[:2]) > 1000
    yellow = (picture == (253, 231, 36)).all(axis=2) | (picture == (253, 231, 37)).all(axis=2)
    assert 0.003 < yellow.mean() < 0.03  # the diagonal, where D is 0
