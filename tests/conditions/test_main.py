"""The command line."""

import pytest

from siglip_med.conditions.__main__ import main


def test_suggest(capsys):
    assert main(["suggest", "eczema", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    assert len(lines) == 2
    assert lines[0].startswith("L30.9     Dermatitis, unspecified")


def test_suggest_nothing(capsys):
    assert main(["suggest", "qqqq"]) == 2
    assert "'qqqq': no ICD-10-CM title" in capsys.readouterr().err


def test_show_the_catalog_a_vocabulary_and_an_own_map(capsys, tmp_path):
    assert main(["show"]) == 0
    assert "      L42  Pityriasis rosea [Psoriatic Conditions]" in capsys.readouterr().out
    assert main(["show", "--vocabulary", "ham10000"]) == 0
    assert capsys.readouterr().out.count("\n      ") == 7
    own = tmp_path / "own.csv"
    own.write_text("condition,code\nunicorn rash,L30.0\n", encoding="utf-8")
    assert main(["show", "--codes", str(own)]) == 0
    assert capsys.readouterr().out.endswith("      L30.0  unicorn rash (Nummular dermatitis)\n")


def test_a_mistake_prints_one_line_and_gives_status_2(capsys, tmp_path):
    assert main(["show", "--codes", str(tmp_path / "none.csv")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "no such file" in captured.err


def test_heatmap(capsys, tmp_path):
    out = tmp_path / "d.png"
    assert main(["heatmap", str(out), "--vocabulary", "isic2019", "--geometry", "blend"]) == 0
    assert out.stat().st_size > 5000
    assert main(["heatmap", str(tmp_path / "no" / "d.png")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err


def test_without_a_command_there_is_nothing_to_do(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "the following arguments are required: command" in capsys.readouterr().err
