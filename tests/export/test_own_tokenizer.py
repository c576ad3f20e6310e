"""What a run does to texts beside its base's tokenizer is in the exported one: lower case and the length."""

import os
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn.functional import normalize
from transformers import AutoModel, AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from siglip_med.core.config import instantiate
from siglip_med.core.files import whole_folder
from siglip_med.export.pretrained import own_tokenizer, write_adapter, write_merged
from tests.models import tiny

WORDS = ("eczema", "melanoma", "a", "photo", "of", "image", "showing", "\u00e9rythème")


def keeps_case(normalizer: normalizers.Normalizer | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer for which Eczema and eczema are two words, as Gemma's is."""
    forms = [form for word in WORDS for form in (word, word.capitalize(), word.upper())]
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    vocabulary = {word: row for row, word in enumerate(dict.fromkeys(special + forms))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def siglip2(folder: Path, normalizer: normalizers.Normalizer | None = None):
    folder.mkdir()
    tiny.write_siglip(folder)
    keeps_case(normalizer).save_pretrained(folder)
    torch.manual_seed(0)
    adapter = {"_target_": "siglip_med.models.Lora", "rank": 3, "alpha": 6}
    return instantiate({"_target_": "siglip_med.models.siglip2", "path": str(folder), "adaptation": adapter}).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own_tokenizer")
    model = siglip2(folder / "base")
    for name, write in (("merged", write_merged), ("peft", write_adapter)):
        with whole_folder(folder / name) as place:
            write(model, place)
    return model, folder


@pytest.mark.parametrize("how", [{"padding": "max_length"}, {"padding": "max_length", "truncation": True}])
def test_plain_transformers_gives_the_runs_embeddings_whatever_the_case(exported, how):
    model, folder = exported
    texts = ["A image showing Eczema", "PHOTO of Melanoma", "Érythème " * (99 if "truncation" in how else 2)]
    processor = AutoProcessor.from_pretrained(folder / "merged")
    plain = AutoModel.from_pretrained(folder / "merged").eval()
    with torch.no_grad():
        own = normalize(model.encode_texts(**model.tokenize(texts)), dim=-1)
        found = plain.get_text_features(input_ids=processor(text=texts, return_tensors="pt", **how)["input_ids"])
    torch.testing.assert_close(normalize(found.pooler_output, dim=-1), own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", ["merged", "peft"])
def test_every_format_has_the_length_and_the_case(exported, form):
    model, folder = exported
    tokenizer = AutoTokenizer.from_pretrained(folder / form)
    assert tokenizer.model_max_length == model.max_text_length
    assert tokenizer("Eczema")["input_ids"] == tokenizer("eczema")["input_ids"] != tokenizer("melanoma")["input_ids"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([*WORDS, *map(str.upper, WORDS), "x"]), min_size=1, max_size=6))
def test_its_tokens_are_those_of_the_run(exported, words):
    model, _ = exported
    text = " ".join(words)
    found = own_tokenizer(model)(text, padding="max_length", return_tensors="pt")["input_ids"]
    assert torch.equal(found, model.tokenize([text])["input_ids"])


def test_a_normalizer_of_its_own_stays_and_the_model_keeps_its_tokenizer(tmp_path):
    model = siglip2(tmp_path / "base", normalizers.Replace("photo", "image"))
    before = model.tokenizer.backend_tokenizer.to_str()
    tokenizer = own_tokenizer(model)
    assert tokenizer("Photo")["input_ids"] == tokenizer("IMAGE")["input_ids"]
    assert model.tokenizer.backend_tokenizer.to_str() == before


def test_a_tokenizer_of_a_run_that_keeps_case_keeps_it(tmp_path):
    tiny.write_siglip(tmp_path)
    keeps_case().save_pretrained(tmp_path)
    frozen = {"_target_": "siglip_med.models.Frozen"}
    model = instantiate({"_target_": "siglip_med.models.siglip", "path": str(tmp_path), "adaptation": frozen})
    assert own_tokenizer(model)("Eczema")["input_ids"] != own_tokenizer(model)("eczema")["input_ids"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_of_an_export_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "out") as folder:
            (folder / "inner").mkdir(mode=0o700)
            (folder / "inner" / "model.safetensors").touch(mode=0o600)
    finally:
        os.umask(before)
    modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in (tmp_path / "out").rglob("*")}
    assert modes == {"inner": 0o777 & ~umask, "model.safetensors": 0o666 & ~umask}
