"""Loads pretrained parts from a folder or from the Hugging Face hub, and says in one line why it cannot."""

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from siglip_med.core.errors import UserError
from siglip_med.core.seals import check_sums
from siglip_med.core.shell import setting

PACKAGE_PREFIX = "package:"
"""Start of a path that names a model folder inside this package, e.g. ``package:siglip_tiny``."""


TIMM = "timm_wrapper"
"""What transformers calls a model in timm's format, whose config names no ``model_type``."""


def resolve_path(path: str) -> str:
    """``package:name`` as the packaged folder; a UserError for a folder without a model, or an altered export."""
    folder = local_folder(path)
    if folder is None:
        return path
    if (folder / "open_clip_config.json").is_file() and not (folder / "config.json").is_file():
        raise _foreign(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} is no model folder: it holds no config.json")
    for index in sorted(folder.glob("*.index.json")):
        _check_inside(folder, index)
    check_sums(folder)
    return str(folder)


def _check_inside(folder: Path, index: Path) -> None:
    """Refuses an index of weights that names files outside of its folder, or is no index."""
    try:
        files = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{index} is no index of weights: copy or download it again") from error
    outside = next((name for name in sorted(files) if Path(name).name != name), None)
    if outside is not None:
        raise UserError(f"{index}: names {outside}, which is not a file of its folder")


def local_folder(path: str) -> Path | None:
    """The folder that a path names, None for an id of the hub; a UserError where it is neither."""
    folder = Path(path).expanduser()
    if path.startswith(PACKAGE_PREFIX):
        folder = Path(__file__).parent / path.removeprefix(PACKAGE_PREFIX)
    if folder.is_dir():
        return folder
    if path.startswith((PACKAGE_PREFIX, "/", ".", "~")) or path.count("/") > 1 or "\\" in path:
        raise UserError(f"no model folder {path}: give a folder that holds config.json, or an id of the hub")
    return None


def load_config(path: str, revision: str | None) -> Any:
    """The configuration, which alone says of which family a model is; a UserError if it cannot be had."""
    with explained(path, revision):
        content, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
        if content.get("model_type", TIMM) == TIMM:
            raise _foreign(path)
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)


def load_weights(path: str, revision: str | None, unused: tuple[str, ...] = ()) -> PreTrainedModel:
    """The model in float32, whatever precision its file has.

    Raises:
        UserError: the model is not available, its file is truncated, or weights are missing from it.
    """
    config, stored = load_config(path, revision), _stored(path)
    _check_sizes(path, config, [shape for shape, _ in stored.values()])
    with explained(path, revision):
        model, loading = AutoModel.from_pretrained(
            path,
            revision=revision,
            dtype=torch.float32,
            weights_only=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith(unused))
    wrong = sorted(str(item[0]) for item in loading["mismatched_keys"])
    if missing or wrong:
        names = ", ".join((missing + wrong)[:3])
        raise UserError(f"the weights of {path} do not fit its config.json: {len(missing + wrong)} missing ({names})")
    if (undefined := not_finite(model.state_dict())) is not None:
        raise UserError(f"the weights of {path} are damaged: {undefined} is not finite; copy or download them again")
    for name, _ in model.named_parameters():
        if name in stored and "F" not in stored[name][1]:  # transformers would take integers for weights
            raise UserError(
                f"the weights of {path} are damaged: {name} holds no real numbers; copy or download them again"
            )
    return model


def _stored(path: str) -> dict[str, tuple[list[int], str]]:
    """Shape and type of every weight that a folder's files hold, by their headers; nothing of the hub's."""
    found: dict[str, tuple[list[int], str]] = {}
    with explained(path, None):
        for file in sorted(Path(path).glob("*.safetensors")):
            with safe_open(file, "pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                found |= {name: (one.get_shape(), one.get_dtype()) for name, one in slices.items()}
    return found


def _check_sizes(path: str, config: Any, shapes: list[list[int]]) -> None:
    """Refuses a folder whose config declares more than its files hold: to build it would take hours, or gigabytes."""
    if not shapes:
        return
    weights = sum(math.prod(shape) for shape in shapes)
    # a block has four square matrices of its width for attention; several blocks may share theirs
    most = {"num_hidden_layers": len(shapes), "hidden_size": math.isqrt(weights // 4)}
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for name, limit in most.items():
            value = getattr(part, name, None)
            if isinstance(value, int) and value > limit:
                raise UserError(
                    f"{path}: the weights do not hold the {name} of {value:,} that config.json says (or leaves to a "
                    "default): copy or download both again"
                )


def not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Name of the first weight that holds NaN or an infinite number."""
    return next((name for name, value in weights.items() if not torch.isfinite(value).all()), None)


def load_tokenizer(path: str, revision: str | None, mask: bool = True) -> Any:
    """The tokenizer that belongs to the model; without ``mask`` it leaves out the attention mask unless asked."""
    settings = {} if mask else {"model_input_names": ["input_ids"]}
    with explained(path, revision):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False, **settings)
    if tokenizer.pad_token_id is None:
        raise UserError(f"{path}: its tokenizer names no pad_token; mend tokenizer_config.json, or download it again")
    return tokenizer


def load_image_processor(path: str, revision: str | None) -> Any:
    """The image processor that belongs to the model; a UserError where its normalization is none."""
    with explained(path, revision):
        processor = AutoImageProcessor.from_pretrained(path, revision=revision, trust_remote_code=False)
        given, _ = processor.get_image_processor_dict(path, revision=revision)  # a default would be made up
    for name, least in (("image_mean", -math.inf), ("image_std", 0.0)):
        values = given.get(name)
        if not (
            isinstance(values, list | tuple)
            and len(values) == 3
            and all(type(value) in (int, float) and least < value < math.inf for value in values)
        ):
            raise UserError(f"{path}: {name} of preprocessor_config.json is {str(values)[:80]}, not three numbers")
    return processor


@contextmanager
def explained(path: str, revision: str | None) -> Iterator[None]:
    """Turns what the libraries raise into one line; the original error stays as the cause."""
    try:
        yield
    except SafetensorError as error:
        raise UserError(
            f"the weights in {path} are truncated or damaged ({error}): copy or download model.safetensors again"
        ) from error
    except UserError:
        raise
    except Exception as error:  # whatever the readers of configs, tokenizers and weights raise on damaged files
        raise UserError(_reason(path, revision, error)) from error


def _reason(path: str, revision: str | None, error: BaseException) -> str:
    causes = list(_causes(error))
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if Path(path).is_dir():
        return f"cannot load the model in {path}: {first_line}"
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"{path} is gated: accept its terms on https://huggingface.co/{path}, then run `hf auth login`"
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"{path} has no revision {revision} on the Hugging Face hub"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"there is no model {path}, neither as a folder nor on the Hugging Face hub"
    if any(isinstance(cause, HfHubHTTPError) and isinstance(cause, EntryNotFoundError) for cause in causes):
        return f"{path} lacks a file ({first_line}); {_convert(path)}"
    if any(isinstance(cause, HfHubHTTPError) for cause in causes):
        return f"the Hugging Face hub refused {path}: {first_line}"
    return (
        f"{path} is not in the local cache and the Hugging Face hub cannot be reached: give a local folder "
        "instead of the id (model.path=folder; model.vision=folder or model.text=folder for a dual encoder), or set "
        "HF_HOME to a cache that already holds it"
    )


def _foreign(path: str) -> UserError:
    return UserError(f"{path} is not in the format of the transformers library; {_convert(path)}")


def _convert(path: str) -> str:
    words = setting("source", path), setting("output", f"{Path(path).name}-converted")
    return f"a model of open_clip or timm is converted once, by: siglip-med-convert {' '.join(words)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps bars and notices of transformers off the screen while a model is read; afterwards all is as before."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # between PEFT and transformers
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
