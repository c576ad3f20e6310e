"""SigLIP at toy size: the base of the embedded default.

A real `transformers.SiglipModel` with its tokenizer and image processor, small enough to ship in the package and to
train on two CPU cores. Its tokenizer behaves as SigLIP's: lower case, no punctuation, ``</s>`` at the end and as
padding, always 64 tokens.

``python -m tools.pretraining.base CORPUS FOLDER`` trains the tokenizer on a text file, one sentence a line, and writes
the folder with random weights.
"""

import argparse
import string
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

import siglip_med.models
from siglip_med.core.errors import UserError
from siglip_med.models.joint import JointTwoTower

PACKAGED = Path(siglip_med.models.__file__).parent / "siglip_tiny"
"""The folder that ``package:siglip_tiny`` names."""

IMAGE_SIZE = 64
TEXT_LENGTH = 64
VOCABULARY = 3000

_WIDTH = 128
_PAD, _UNKNOWN = "</s>", "<unk>"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-pair encoding (Sennrich et al. 2016) of at most `VOCABULARY` pieces.

    Args:
        texts: sentences of the kind that the model will read.

    Raises:
        UserError: there are no texts.
    """
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UserError("the corpus of the tokenizer holds no sentence; give a text file with one sentence a line")
    tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w\s]|_"), " "),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    # Ids as in SigLIP: 1 ends and pads a text, 2 is unknown; 0 is not used by either.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", _PAD, _UNKNOWN],
        initial_alphabet=list(string.ascii_lowercase + string.digits),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = (_PAD, tokenizer.token_to_id(_PAD))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {_PAD}", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_PAD,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        model_max_length=TEXT_LENGTH,
        model_input_names=["input_ids"],
        clean_up_tokenization_spaces=False,
    )


def tiny_config(vocabulary: int) -> SiglipConfig:
    """The architecture: four vision and two text layers of width 128, 8 x 8 pixels a patch.

    Args:
        vocabulary: number of token embeddings.
    """
    shared = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_attention_heads": 2,
        "hidden_act": "relu",
    }
    return SiglipConfig(
        text_config={
            **shared,
            "num_hidden_layers": 2,
            "vocab_size": vocabulary,
            "max_position_embeddings": TEXT_LENGTH,
            "projection_size": _WIDTH,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**shared, "num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": 8},
    )


def write_untrained(folder: Path, seed: int, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Write the model folder with random weights, from which pretraining starts.

    Logit scale and bias start at log 10 and -10 (Zhai et al. 2023, arXiv 2303.15343, section 3.2).

    Args:
        folder: made anew; an older model folder there is replaced.
        seed: of the weights.
        tokenizer: by default the packaged one.

    Raises:
        UserError: the folder holds something other than a model.
    """
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(PACKAGED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SiglipModel(tiny_config(len(tokenizer)))
    with torch.no_grad():
        model.logit_scale.fill_(float(torch.log(torch.tensor(10.0))))
        model.logit_bias.fill_(-10.0)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = SiglipImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    _write(folder, model, tokenizer, processor)


def write_pretrained(model: JointTwoTower, folder: Path) -> None:
    """Write a trained model as a folder that transformers and `siglip_med.models.siglip` load.

    Weights are saved as float16: half the size, and far finer than what training leaves undecided.

    Args:
        model: fully fine-tuned, so that its towers hold what was learned.
        folder: made anew; an older model folder there is replaced.

    Raises:
        UserError: the folder holds something other than a model, or a weight is not finite in float16.
    """
    _write(folder, model.pretrained_with_logits(), model.tokenizer, model.image_processor)


def _write(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, processor: SiglipImageProcessor
) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise UserError(f"{folder}: is not empty and holds no model; give a new folder, or one that holds a model")
    weights = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("position_ids")
    }
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{folder}: not written, since {broken[0]} is not finite in float16; train with a lower rate")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        partial = Path(name)
        model.config.save_pretrained(partial)
        _forget_last_call(tokenizer)
        tokenizer.save_pretrained(partial)
        processor.save_pretrained(partial)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        # safetensors writes for the owner alone
        (partial / "model.safetensors").chmod(0o644)
        # config.json last: it marks a folder as a model.
        for file in sorted(partial.iterdir(), key=lambda item: item.name == "config.json"):
            file.replace(folder / file.name)


def _forget_last_call(tokenizer: PreTrainedTokenizerBase) -> None:
    """A fast tokenizer keeps the padding and truncation of its last call, and would save them as its own."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()


def main() -> None:
    """Entry point of ``python -m tools.pretraining.base``."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretraining.base", description=__doc__)
    parser.add_argument("corpus", type=Path, help="text file, one sentence a line")
    parser.add_argument("folder", type=Path, help="model folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(arguments.corpus.read_text(encoding="utf-8").splitlines())
    write_untrained(arguments.folder, arguments.seed, tokenizer)


if __name__ == "__main__":
    main()
