"""The packed tree of ICD-10-CM against the library that it was made from."""

import gzip
import random

import pytest
import simple_icd_10_cm as icd

from siglip_med.conditions.codes import CODES_FILE, normalize, read_code_book

BOOK = read_code_book()


def test_sample_of_codes_matches_the_library():
    for code in random.Random(0).sample(sorted(BOOK.codes), 1500):
        entry = BOOK.codes[code]
        assert icd.is_valid_item(code)
        assert entry.title == icd.get_description(code)
        if len(code) > 3:  # the library cannot tell a one-category block from its category
            assert list(entry.path) == [*icd.get_ancestors(code)[::-1], code]
            assert entry.leaf == icd.is_leaf(code)
            assert list(entry.terms) == icd.get_inclusion_term(code)


def test_one_category_block_keeps_both_levels():
    assert BOOK.codes["T14.8XXA"].path == ("19", "T14", "T14", "T14.8", "T14.8XXA")
    assert BOOK.block(BOOK.codes["T14.8XXA"]) == "T14 - Injury of unspecified body region"


def test_packed_file_is_small():
    assert CODES_FILE.stat().st_size < 2_000_000
    with gzip.open(CODES_FILE, "rt", encoding="utf-8") as file:
        assert file.readline().startswith("ICD-10-CM")


@pytest.mark.parametrize("text", ["L30.9", "l309", " L30 .9 ", "L309"])
def test_a_code_is_found_however_it_is_written(text):
    found = BOOK.find(text)
    assert found is not None
    assert found.code == "L30.9"


def test_normalize_three_characters():
    assert normalize("l80") == "L80"


def test_leaves_of_a_header_are_exactly_those_below_it():
    leaves = [code.code for code in BOOK.leaves(BOOK.codes["L23"])]
    assert leaves == [code for code in icd.get_descendants("L23") if icd.is_leaf(code)]


@pytest.mark.parametrize(("text", "near"), [("L30.99", "L30.9"), ("L3099X", "L30.9"), ("L4077", "L40"), ("?", None)])
def test_nearest_existing_code(text, near):
    found = BOOK.nearest(text)
    assert (found and found.code) == near
