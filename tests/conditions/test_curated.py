"""The curated tables against the ICD library, and against the data sets that they are for."""

import csv

import pytest
import simple_icd_10_cm as icd

from siglip_med.conditions.curated import (
    VOCABULARIES,
    coarse_groups,
    fold,
    known_conditions,
    lookup,
    read_table,
    table_path,
)

ROMAN_XII = "XII - Diseases of the skin and subcutaneous tissue (L00-L99)"


def rows_of(vocabulary):
    with table_path(vocabulary).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_code_is_a_leaf_and_the_derived_columns_follow_from_it(vocabulary):
    for row in rows_of(vocabulary):
        code = row["code"]
        assert icd.is_leaf(code), row["condition"]
        ancestors = icd.get_ancestors(code)[::-1]
        chapter, block = ancestors[:2]
        assert row["path"].split("/") == [*ancestors, code]
        assert row["title"] == icd.get_description(code)
        assert row["chapter"].split(" - ", 1)[1] == icd.get_description(chapter)
        assert row["block"].split(" - ", 1)[0] == block
        assert icd.get_description(block).removesuffix(f" ({block})") == row["block"].split(" - ", 1)[1]
        assert row["category"] == code[:3]
        assert row["group"] in coarse_groups()
        assert row["rationale"]


@pytest.mark.parametrize(
    ("name", "category"),
    [("Atopic Dermatitis", "L20"), ("alopecia areata", "L63"), ("varicella", "B01"), ("solar lentigo", "L81"),
     ("lipoma", "D17"), ("toenail fungus", "B35"), ("cherry angioma", "D18"), ("clark nevus", "D22"), ("corn", "L84"),
     ("monkeypox", "B04"), ("canker sore", "K12"), ("acrochordon", "L91")],
)  # fmt: skip
def test_usual_names_of_other_public_sets_are_known(name, category):
    assert lookup()[fold(name)].code.startswith(category)


def test_roman_chapter_numbers():
    chapters = {row["path"].split("/")[0]: row["chapter"] for v in VOCABULARIES for row in rows_of(v)}
    assert chapters["12"] == ROMAN_XII
    assert {number: chapter.split(" - ")[0] for number, chapter in chapters.items() if number in {"9", "14", "19"}} == {
        "9": "IX",
        "19": "XIX",
    }


def test_sizes_and_groups():
    assert {vocabulary: len(read_table(vocabulary)) for vocabulary in VOCABULARIES} == {
        "catalog": 66,
        "fitzpatrick17k": 114,
        "ham10000": 7,
        "pad_ufes_20": 6,
        "isic2019": 8,
        "isic_archive": 6,
        "common": 82,
    }
    assert len(coarse_groups()) == 16


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_no_table_uses_a_name_phrase_or_description_twice(vocabulary):
    table = read_table(vocabulary)
    for column in ("name", "phrase", "description"):
        values = [fold(getattr(condition, column)) for condition in table]
        assert all(values), column
        assert len(set(values)) == len(values), column


def test_a_name_means_one_code_wherever_it_appears():
    """A dermatologist who types a name must not get another code for having another data set."""
    meanings: dict[str, set[str]] = {}
    for vocabulary in VOCABULARIES:
        for condition in read_table(vocabulary):
            meanings.setdefault(fold(condition.name), set()).add(condition.code)
    assert {name: codes for name, codes in meanings.items() if len(codes) > 1} == {}


def test_a_synonym_never_hides_another_conditions_name():
    owners = lookup()
    for vocabulary in VOCABULARIES:
        for condition in read_table(vocabulary):
            assert fold(owners[fold(condition.name)].name) == fold(condition.name)
            for synonym in condition.synonyms:
                other = owners[fold(synonym)]
                assert other.path[:3] == condition.path[:3], (vocabulary, condition.name, synonym, other.name)


def test_catalog_is_the_shared_one(shared):
    with (shared / "conditions" / "conditions.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["condition"]: (row["icd10cm"], row["coarse_category"]) for row in csv.DictReader(file)}
    assert {c.name: (c.code, c.group) for c in read_table("catalog")} == expected


@pytest.mark.parametrize(
    ("vocabulary", "file", "column"),
    [
        ("fitzpatrick17k", "fitzpatrick17k/fitzpatrick17k.csv", "label"),
        ("ham10000", "ham10000/HAM10000_metadata.csv", "dx"),
        ("pad_ufes_20", "pad_ufes_20/metadata.csv", "diagnostic"),
    ],
)
def test_vocabularies_cover_the_real_labels(shared, vocabulary, file, column):
    with (shared / "data" / "metadata" / file).open(encoding="utf-8", newline="") as table:
        labels = {row[column] for row in csv.DictReader(table)}
    assert set(known_conditions(vocabulary)) == labels
