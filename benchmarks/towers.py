"""Model folders with random weights in the shapes of published ones, for benchmarks that run offline."""

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from tools.pretraining.base import PACKAGED

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")


def write_dual_encoder(
    folder: Path, image_size: int = 28, vision_layers: int = 1, text_layers: int = 6
) -> dict[str, Path]:
    """A vision tower and a text tower of the widths of DINOv2-S and MiniLM-L6, 384 both.

    Args:
        folder: gets one folder per tower.
        image_size: side of the images in pixels, a multiple of 14.
        vision_layers: blocks of the vision tower (DINOv2-S has 12).
        text_layers: blocks of the text tower.

    Returns:
        ``vision`` and ``text`` -> folder.
    """
    vision, text = folder / "vision", folder / "text"
    shape = {"hidden_size": 384, "num_attention_heads": 6}
    Dinov2Model(
        Dinov2Config(**shape, num_hidden_layers=vision_layers, image_size=image_size, patch_size=14)
    ).save_pretrained(vision)
    size = {"height": image_size, "width": image_size}
    processor = {"image_processor_type": "BitImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (vision / "preprocessor_config.json").write_text(json.dumps(processor | {"size": size}), encoding="utf-8")
    BertModel(
        BertConfig(
            hidden_size=384,
            num_attention_heads=12,
            intermediate_size=1536,
            num_hidden_layers=text_layers,
            vocab_size=30522,
        )
    ).save_pretrained(text)
    write_tokenizer(text)
    return {"vision": vision, "text": text}


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer: it knows every text, and how long a text is does not matter once it is padded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)


def siglip_tokenizer() -> Path:
    """A folder with SigLIP's own tokenizer where it lies beside the checkout, else with that of the embedded base."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "models" / "siglip-tokenizer"
    return shared if shared.is_dir() else PACKAGED


def write_siglip(folder: Path, layers: int = 12, tokenizer: Path | None = None) -> Path:
    """A SigLIP of the widths of google/siglip-base-patch16-224.

    Args:
        folder: where it is written.
        layers: blocks of each tower (SigLIP-base has 12).
        tokenizer: a folder whose tokenizer it gets, with SigLIP's 32,000 token embeddings; None: one of bytes.
    """
    vocabulary = 300 if tokenizer is None else 32_000
    text = {"num_hidden_layers": layers, "vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 1}
    text |= {"pad_token_id": 1}
    SiglipModel(SiglipConfig(text_config=text, vision_config={"num_hidden_layers": layers})).save_pretrained(folder)
    size = {"height": 224, "width": 224}
    processor = {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"size": size}), encoding="utf-8")
    if tokenizer is None:
        write_tokenizer(folder)
        return folder
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder / name)
    return folder
