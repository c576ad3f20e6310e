"""Puts an exported folder on the Hugging Face hub: where it is asked for, private by default, no picture in it."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError

from siglip_med.core.errors import UserError
from siglip_med.export.example import HUB_ID

_MAY_LEAVE = frozenset({".json", ".jinja", ".md", ".model", ".onnx", ".safetensors", ".txt"})
"""Endings of what an export writes; anything else, pictures above all, does not leave the machine."""
_NAMES = frozenset({"SHA256SUMS"})


def check_repository(name: str) -> None:
    """Refuses what is no ``ORG/NAME``, before anything is written.

    Raises:
        UserError: see above.
    """
    if not HUB_ID.fullmatch(name):
        raise UserError(f"push_to_hub={name}: give ORG/NAME, e.g. push_to_hub=my-lab/siglip-skin")


def check_publishable(folder: Path) -> None:
    """Makes sure that a folder holds weights, settings and a card alone.

    Raises:
        UserError: a file is of another kind, or there is no card.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    others = [
        path for path in files if path.is_symlink() or not (path.suffix.lower() in _MAY_LEAVE or path.name in _NAMES)
    ]
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise UserError(
            f"push_to_hub: {others[0].relative_to(folder)}{more} in {folder} is nothing that an export writes, and may "
            "show people: only weights, settings and the card are pushed; take it out"
        )
    if not (folder / "README.md").is_file():
        raise UserError(f"push_to_hub: {folder} has no README.md, and no model is pushed without its card")


def push(folder: Path, repository: str, private: bool, api: Any = None) -> str:
    """Uploads an exported folder.

    Args:
        folder: what `export_checkpoint` wrote.
        repository: ``ORG/NAME``; made if it is not there.
        private: whether it is to be seen by its owners alone.
        api: a `huggingface_hub.HfApi`; None for one with this machine's login.

    Returns:
        The address.

    Raises:
        UserError: the folder holds what must not leave, the repository is public and ``private`` is set, nobody is
            logged in, or the hub refuses.
    """
    check_repository(repository)
    check_publishable(folder)
    api = HfApi() if api is None else api
    try:
        try:
            known = api.model_info(repository)
        except RepositoryNotFoundError:
            api.create_repo(repository, repo_type="model", private=private, exist_ok=False)
        else:
            if private and not known.private:
                raise UserError(
                    f"push_to_hub={repository} is there already and public: set private=false to publish, or take "
                    "another name"
                )
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="model",
            commit_message="Add an exported model",
        )
    except LocalTokenNotFoundError as error:
        raise UserError(f"push_to_hub={repository}: nobody is logged in; type `hf auth login` first") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        said = str(error).strip().splitlines()
        reason = said[0] if said else type(error).__name__
        raise UserError(f"push_to_hub={repository}: the hub refused ({reason}); {folder} stays as it is") from error
    return f"https://huggingface.co/{repository}"
