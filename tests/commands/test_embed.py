"""Embeddings of files: those that a run's predictions and neighbours hold, written whole, with what is not in them."""

import json
import sys

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from siglip_med.commands import embed as command
from siglip_med.commands.train import Result
from siglip_med.core.errors import UserError
from siglip_med.inference.neighbours import NEIGHBOURS, Neighbours
from siglip_med.metrics import Predictions
from siglip_med.models import load_model
from tests.models import runs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    node = runs.model_node("siglip", root / "base")
    return runs.save(runs.build(node), node, root / "best.ckpt")


@pytest.fixture
def embed(checkpoint, tmp_path):
    """The command with settings of its own, writing below a temporary folder."""

    def embedded(out="rows.npz", checkpoint=checkpoint, **given):
        words = {"images": None, "texts": None, "batch_size": 4, "device": "cpu", "base": None}
        return command.run(
            command.Settings(**words | given, checkpoint=str(checkpoint), out=str(tmp_path / out)),
        )

    return embedded


@pytest.fixture
def photographs(tmp_path):
    folder, random = tmp_path / "photographs", np.random.default_rng(0)
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    Image.new("RGB", (40, 40)).save(folder / "lid.png")
    (folder / "torn.png").write_bytes(b"no image")
    return folder


def test_files_have_the_embeddings_of_the_runs_predictions_and_neighbours(short_run: Result, embed, tmp_path):
    test = Predictions.load(short_run.folder / "predictions" / "test")
    near = Neighbours.load(short_run.folder / NEIGHBOURS, short_run.components.model)
    root = short_run.components.data.table.root
    best = short_run.folder / "checkpoints" / "best.ckpt"
    prompts = load_model(best)[1]["prompts"]
    (tmp_path / "texts.txt").write_text("\n".join(text for sentences in prompts for text in sentences))
    files = [str(root / image) for image in (*test.frame["image"], *near.images[:9])]
    found = embed(checkpoint=best, images=files, texts=str(tmp_path / "texts.txt")).embeddings
    assert [*found.ids[: len(files)]] == files
    np.testing.assert_allclose(found.vectors[: len(test)], test.image_embeddings, atol=2e-6)
    np.testing.assert_allclose(found.vectors[len(test) : len(files)], near.embeddings[:9], atol=2e-6)
    assert found.model["fingerprint"] == near.weights
    of_text = dict(zip(found.ids, found.vectors, strict=True))
    for sentences, expected in zip(prompts, test.text_embeddings, strict=True):
        total = np.sum([of_text[text] for text in sentences], axis=0)
        np.testing.assert_allclose(total / np.linalg.norm(total), expected, atol=2e-6)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_a_file_holds_the_rows_and_says_what_they_are(embed, photographs, tmp_path, ending):
    (tmp_path / "texts.txt").write_text("\ufeffa mole\r\n\n=cmd()|x\na mole\n", encoding="utf-8")
    result = embed(f"deeper/rows.{ending}", images=str(photographs), texts=str(tmp_path / "texts.txt"))
    if ending == "npz":
        with np.load(result.path, allow_pickle=False) as file:
            ids, kinds, vectors, about = (file[name] for name in ("id", "kind", "embedding", "about"))
    else:
        table = pyarrow.parquet.read_table(result.path)
        ids, kinds, vectors = (table[name].to_pylist() for name in ("id", "kind", "embedding"))
        about = table.schema.metadata[b"siglip_med"].decode()
    images = [str(photographs / name) for name in ("a.png", "b.png", "lid.png")]
    assert list(ids) == [*images, "a mole", "=cmd()|x"]
    assert list(kinds) == ["image"] * 3 + ["text"] * 2
    np.testing.assert_array_equal(np.array(vectors, np.float32), result.embeddings.vectors)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    said = json.loads(str(about))
    assert said["model"] == result.embeddings.model
    assert "length 1" in said["normalization"]
    assert [one["image"] for one in said["unreadable"]] == [str(photographs / "torn.png")]
    assert said["notes"] == ["1 of 3 images are blank: there is nothing in them"]


def test_what_has_no_row_is_said(embed, photographs, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a mole\n\n\na mole\n" + "very " * 90 + "red\n")
    result = embed(images=str(photographs), texts=str(tmp_path / "texts.txt"))
    command.show(result)
    said = capsys.readouterr().out
    assert "3 images and 2 texts as" in said
    assert "2 empty lines of " in said
    assert "1 lines of " in said
    assert "1 of 2 texts are longer than the" in said
    assert f"could not read {photographs / 'torn.png'} is not an image" in said
    assert "1 files could not be read and have no row" in said
    assert f"fingerprint {result.embeddings.model['fingerprint']}" in said
    assert f"wrote {tmp_path / 'rows.npz'}" in said


def test_what_cannot_be_done_is_one_line_and_leaves_no_file(embed, photographs, tmp_path, monkeypatch):
    def refused(match, out="new.npz", **given):
        with pytest.raises(UserError, match=match):
            embed(out, **given)
        assert not (tmp_path / "new.npz").exists()

    (tmp_path / "rows.npz").write_text("mine")
    refused(r"rows\.npz: is there already; give another name", "rows.npz", images=str(photographs))
    assert (tmp_path / "rows.npz").read_text() == "mine"
    refused(r"its ending says how it is written; give one of \.npz, \.parquet", "rows.csv", images=str(photographs))
    refused("there is nothing to embed; give images=folder, texts=file.txt")
    refused("there is nothing to embed", images=[])
    refused("none of the 1 files could be read", images=str(photographs / "torn.png"))
    texts = tmp_path / "texts.txt"
    refused("cannot be read", texts=str(texts))
    texts.write_bytes(b"caf\xe9")
    refused("cannot be read .it is not UTF-8", texts=str(texts))
    texts.write_text("a mole\na \x1b[2J\n")
    refused(r"texts\.txt, line 2: holds the control character '\\x1b'", texts=str(texts))
    for missing in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, missing, None)
    refused(r"^out=….parquet needs pyarrow: pip install 'siglip-med\[parquet\]'$", "a.parquet", images=str(photographs))
    assert embed("b.npz", images=str(photographs)).path.is_file()
