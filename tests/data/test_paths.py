"""Files that are spelled otherwise than the table has them."""

from pathlib import Path

from siglip_med.data.paths import find_files, near_files
from siglip_med.data.table import TableRow, build_table


def test_a_missing_file_names_those_like_it(tmp_path: Path) -> None:
    (tmp_path / "a.PNG").write_bytes(b"x")
    assert near_files(tmp_path / "a.jpg") == " (there is a.PNG)"
    assert near_files(tmp_path / "b.jpg") == ""
    assert near_files(tmp_path / "none" / "b.jpg") == f" (nor does the folder {tmp_path / 'none'})"


def test_only_the_missing_ones_are_looked_for(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    rows = [TableRow(name, {"c": 1.0}, number) for number, name in enumerate(("A.jpg", "b.jpg", "c.jpg"), start=1)]
    table = find_files(build_table(rows, root=tmp_path, source="t"))
    assert table.frame["image"].tolist() == ["a.JPG", "b.jpg", "c.jpg"]
    assert len(table.notes) == 1
