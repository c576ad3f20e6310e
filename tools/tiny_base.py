"""The tokenizer of the packaged toy model: ``python -m tools.tiny_base CORPUS FOLDER`` trains it on a text file.

The file has one sentence per line; the folder gets the tokenizer and random weights, from which pretraining starts.
"""

import argparse
import string
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from siglip_med.core.errors import UserError
from siglip_med.models.tiny import TEXT_LENGTH, write_untrained

VOCABULARY = 3000
_PAD, _UNKNOWN = "</s>", "<unk>"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-pair encoding (Sennrich et al. 2016) of at most `VOCABULARY` pieces; a UserError without texts."""
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


def main() -> None:
    """Entry point of ``python -m tools.tiny_base``."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_base", description=__doc__)
    parser.add_argument("corpus", type=Path, help="text file, one sentence a line")
    parser.add_argument("folder", type=Path, help="model folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    arguments = parser.parse_args()
    tokenizer = train_tokenizer(arguments.corpus.read_text(encoding="utf-8").splitlines())
    write_untrained(arguments.folder, arguments.seed, tokenizer)


if __name__ == "__main__":
    main()
