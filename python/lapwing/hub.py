"""From a name to a folder: a path, a built-in model, or a repository of the Hugging Face hub.

Downloads, the cache and its layout are huggingface_hub's; it is imported only when a hub id is given, and its
settings (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE) hold.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import CheckpointError, OptionError, short_repr

BUILTIN = Path(__file__).parent / "builtin"

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WANTED = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.model",
    "*.spm",
    "vocab.txt",
    "merges.txt",
)
_PATH = 300
"""Characters of a folder's name that a message shows."""
# Copies of the same weights in other forms.
_UNWANTED = (
    "original/*",
    "onnx/*",
    "openvino/*",
    "coreml/*",
    "consolidated*",
    "*.onnx",
    "*/consolidated*",
)


def builtin_ids() -> list[str]:
    """Ids of the models that are in the package."""
    return [f"lapwing/{path.name}" for path in sorted(BUILTIN.iterdir()) if (path / "config.json").is_file()]


def find(
    name: str | os.PathLike[str], *, revision: str | None = None, local_files_only: bool = False
) -> tuple[Path, str]:
    """The folder of a checkpoint and its identity, by which it can be found again.

    Raises:
        CheckpointError: there is no such folder or repository, or it cannot be reached.
    """
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(text, str):
        raise OptionError(f"the model's name is {short_repr(name)}: expected a folder, a hub id or a built-in id")
    if not text:
        raise CheckpointError("the model's name is empty: expected a folder, a hub id or a built-in id")
    if text.startswith("lapwing/") and not Path(text).exists():
        return _builtin(text, revision)
    try:
        path = Path(text).expanduser()
        folder, file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown home, a null character
        raise CheckpointError(
            f"{short_repr(text, _PATH)} cannot be a folder's name: {getattr(error, 'strerror', None) or error}"
        ) from error
    if folder:
        if revision is not None:
            raise OptionError(f"revision is {short_repr(revision)}, but {path} is a folder: expected None")
        return path, str(path.resolve())
    if file:
        raise CheckpointError(f"{path} is a file: expected the folder of a checkpoint, with config.json in it")
    if not isinstance(name, str) or not _ID.fullmatch(text) or text.startswith(".") or ".." in text:
        raise CheckpointError(
            f"there is no folder {short_repr(text, _PATH)}, and it is not a hub id: expected a folder, owner/name, or "
            + " or ".join(builtin_ids())
        )
    return _download(text, revision, local_files_only), text


def _builtin(text: str, revision: str | None) -> tuple[Path, str]:
    folder = BUILTIN / text.removeprefix("lapwing/")
    if text not in builtin_ids():
        raise CheckpointError(f"there is no built-in model {short_repr(text)}: expected {' or '.join(builtin_ids())}")
    if revision is not None:
        raise OptionError(f"revision is {short_repr(revision)}, but {text} is built in: expected None")
    return folder, text


def _download(repository: str, revision: str | None, local_files_only: bool) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise CheckpointError(
            f"there is no folder {short_repr(repository)}, and huggingface_hub is not installed to look for it on the hub: "
            "pip install huggingface_hub"
        ) from error
    where = f"{repository}" + (f" at {revision}" if revision else "")
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            local_files_only=local_files_only,
            allow_patterns=list(_WANTED),
            ignore_patterns=list(_UNWANTED),
        )
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"the hub has no revision {short_repr(revision)} of {repository}") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repository} is gated: ask for access on its page, and log in with a token (HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {short_repr(repository)}, and the hub has no such repository (or only with a token, HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        way = "load it once with local_files_only=False" if local_files_only else "check the connection"
        raise CheckpointError(
            f"there is no folder {short_repr(repository, _PATH)}, and on the hub {where} is not in the local cache and was not "
            f"downloaded: {way}"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{where} cannot be downloaded from the hub: {lines[0]}") from error
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{where} holds no config.json: expected a checkpoint in the form of transformers")
    return path
