"""The packaged base: small, loadable by transformers alone, and pretrained well enough to be worth adapting."""

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor, AutoTokenizer, SiglipModel, SiglipProcessor

from siglip_med.conditions import evaluation_prompts, load_conditions, training_prompts
from siglip_med.core.errors import UserError
from siglip_med.models import FullFineTune, siglip
from siglip_med.synthetic import SyntheticSource
from siglip_med.synthetic.recipes import load_recipes
from tools.pretraining import base as tiny

NAMES = [recipe.condition for recipe in load_recipes()]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny.write_untrained(folder, seed=5)
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny.PACKAGED)


def _ids(tokenizer, texts):
    return tokenizer(texts, padding="max_length", truncation=True, max_length=64)["input_ids"]


def test_the_package_holds_a_real_siglip_below_its_size_limits():
    model = AutoModel.from_pretrained(tiny.PACKAGED, dtype=torch.float32)
    assert isinstance(model, SiglipModel)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    assert sum(file.stat().st_size for file in tiny.PACKAGED.iterdir()) <= 8 * MEGABYTE
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert {value.dtype for value in load_file(tiny.PACKAGED / "model.safetensors").values()} == {torch.float16}


def test_transformers_loads_its_processor(tokenizer):
    processor = AutoProcessor.from_pretrained(tiny.PACKAGED)
    assert isinstance(processor, SiglipProcessor)
    picture = np.zeros((100, 80, 3), np.uint8)
    out = processor(images=picture, text="Red, scaly plaque!", padding="max_length", max_length=64, return_tensors="pt")
    assert out["pixel_values"].shape == (1, 3, 64, 64)
    assert out["pixel_values"].min() == out["pixel_values"].max() == -1
    assert out["input_ids"].tolist() == [_ids(tokenizer, ["red scaly plaque"])[0]]


def test_the_tokenizer_behaves_as_siglips(tokenizer):
    assert len(tokenizer) <= 4000
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    first, second = _ids(tokenizer, ["Silvery-white SCALE; plaques.", "silvery white scale plaques"])
    assert first == second
    assert len(first) == 64
    length = first.index(1)
    assert set(first[length:]) == {1}
    assert tokenizer.decode(first[:length]) == "silvery white scale plaques"
    long = _ids(tokenizer, ["red " * 100])[0]
    assert len(long) == 64
    assert long[-1] == 1


def test_prompts_of_all_conditions_are_read_whole_and_apart(tokenizer):
    texts = [text for prompts in training_prompts(load_conditions(NAMES)) for text in prompts]
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert max(lengths) <= 64
    ids = _ids(tokenizer, texts)
    assert len({tuple(row) for row in ids}) == len(texts)
    assert not any(tokenizer.unk_token_id in row for row in ids)


def test_random_weights_are_the_seeds_own_and_leave_other_randomness_alone(untrained, tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tiny.write_untrained(tmp_path / "same", seed=5)
    tiny.write_untrained(tmp_path / "other", seed=6)
    assert torch.equal(torch.rand(3), expected)
    first, same, other = (
        load_file(folder / "model.safetensors") for folder in (untrained, tmp_path / "same", tmp_path / "other")
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    name = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(first[name], other[name])
    assert first["logit_scale"].item() == pytest.approx(np.log(10), abs=1e-3)
    assert first["logit_bias"].item() == -10
    assert not list(tmp_path.glob(".*"))


def test_a_trained_model_comes_back_from_its_folder(untrained, tmp_path):
    model = siglip(str(untrained), adaptation=FullFineTune())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        model.logit_scale.fill_(3.0)
        model.logit_bias.fill_(-7.0)
    folder = tmp_path / "trained"
    tiny.write_pretrained(model, folder)
    again = siglip(str(folder), adaptation=FullFineTune())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    tokens = model.tokenize(["red plaque", "small clear blisters"])
    with torch.no_grad():
        for mine, theirs in (
            (model.encode_images(images), again.encode_images(images)),
            (
                model.encode_texts(**tokens),
                again.encode_texts(**again.tokenize(["red plaque", "small clear blisters"])),
            ),
        ):
            assert torch.nn.functional.cosine_similarity(mine, theirs).min() > 0.9999
    assert (folder / "tokenizer.json").read_bytes() == (untrained / "tokenizer.json").read_bytes()
    assert again.logit_scale.item() == pytest.approx(3.0, abs=2e-3)
    assert again.logit_bias.item() == pytest.approx(-7.0, abs=4e-3)


def test_what_cannot_be_written_leaves_the_folder_as_it_was(untrained, tmp_path):
    model = siglip(str(untrained), adaptation=FullFineTune())
    folder = tmp_path / "model"
    tiny.write_pretrained(model, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.ndim == 2).fill_(1e6)
    with pytest.raises(UserError, match="is not finite in float16"):
        tiny.write_pretrained(model, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "letter.txt").write_text("dear reader")
    with pytest.raises(UserError, match="is not empty and holds no model"):
        tiny.write_untrained(letters, seed=0)
    assert [file.name for file in letters.iterdir()] == ["letter.txt"]


def test_a_tokenizer_is_trained_on_a_corpus_from_the_command_line(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("glowing emerald plaques on skin\n" * 3 + "emerald wheals, 12 of them\n" * 3)
    monkeypatch.setattr("sys.argv", ["tiny", str(corpus), str(tmp_path / "model"), "--seed", "2"])
    tiny.main()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer.tokenize("Emerald")) == 1
    assert tokenizer.unk_token_id in tokenizer("é")["input_ids"]
    assert tokenizer.unk_token_id not in tokenizer("quartz 90")["input_ids"]
    model = AutoModel.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert model.config.text_config.vocab_size == len(tokenizer)
    with pytest.raises(UserError, match="holds no sentence"):
        tiny.train_tokenizer(["", "  "])


def test_the_packaged_weights_know_more_than_chance(tmp_path):
    source = SyntheticSource(str(tmp_path), n_images=198, seed=11)
    source.prepare()
    table = source.load()
    pictures = np.stack([cv2.imread(str(table.root / name))[:, :, ::-1] for name in table.frame["image"]])
    model = siglip(str(tiny.PACKAGED), adaptation=FullFineTune()).eval()
    images = torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        embedded = normalize(model.encode_images(images), dim=-1)
        texts = []
        for prompts in evaluation_prompts(load_conditions(NAMES)):
            encoded = normalize(model.encode_texts(**model.tokenize(list(prompts))), dim=-1)
            texts.append(normalize(encoded.mean(dim=0), dim=-1))
    best = (embedded @ torch.stack(texts).T).topk(5, dim=1).indices
    primary = torch.tensor(table.frame["primary"].tolist())
    recall = (best == primary[:, None]).any(dim=1).float().mean().item()
    # The cases are spread almost evenly over the 66 conditions here, so chance is 5 / 66.
    assert recall > 2 * 5 / 66
