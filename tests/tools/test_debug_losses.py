import pytest
import torch

from tools.debug_losses import example_batch, main


def test_table_has_the_published_figures_and_every_term(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert lines[1][-1] == "15.000000"
    assert lines[2][-1] == "7.625524"
    rows = {line[0]: [float(cell) for cell in line[1:]] for line in lines[5:]}
    assert list(rows) == ["sigmoid", "icd_tree", "icd_text", "wasserstein", "hardneg", "final", "total"]
    for name, (raw, weight, weighted) in list(rows.items())[:-1]:
        assert weighted == pytest.approx(raw * weight, abs=1e-6 * (1 + weight)), name
    assert rows["total"][0] == pytest.approx(sum(row[2] for row in list(rows.values())[:-1]), abs=1e-5)


def test_example_batch_is_fixed() -> None:
    first, second = example_batch(), example_batch()
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=0)
    assert not torch.equal(first.logits, example_batch(seed=1).logits)
