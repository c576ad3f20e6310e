"""Small tables for tests, built in memory or as files."""

from pathlib import Path

import numpy as np

from siglip_med.data.table import ImageTable, TableRow, build_table

GOOD_CSV = """image,condition,weight,group,tone,sex,age,site,split,note
a/1.jpg,Eczema|Psoriasis,0.7|0.3,p1,3,F,54,arm,train,first
a/2.jpg,Psoriasis,1,p1,IV,female,54,arm,train,"second, with a comma"
b/3.jpg,Acne,0.5,p2,-1,m,,face,val,
b/4.jpg,"Abrasion, scrape",1.0,p3,FST6,unknown,30-39,leg,test,żółć
"""

CSV_COLUMNS = {
    "condition_column": "condition",
    "condition_separator": "|",
    "weight_column": "weight",
    "group_column": "group",
    "skin_tone_column": "tone",
    "sex_column": "sex",
    "age_column": "age",
    "site_column": "site",
    "split_column": "split",
    "description_column": "note",
}


def random_table(
    generator: np.random.Generator, cases: int, conditions: int, images_a_case: int = 3, labels_an_image: int = 3
) -> ImageTable:
    """A long-tailed multi-label table: condition c is listed in proportion to 1 / (c + 1)."""
    shares = 1 / np.arange(1, conditions + 1)
    rows = []
    for case in range(cases):
        for image in range(generator.integers(1, images_a_case + 1)):
            count = generator.integers(1, labels_an_image + 1)
            names = generator.choice(conditions, size=min(count, conditions), replace=False, p=shares / shares.sum())
            weights = {f"c{name:02d}": float(1 / (place + 1)) for place, name in enumerate(names)}
            rows.append(TableRow(f"{case}_{image}.jpg", weights, source_row=len(rows) + 1, case=f"case{case}"))
    return build_table(rows, root=Path("photos"), source="random")


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Writes a file as it is, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path
