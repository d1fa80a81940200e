"""Resolves a name to a folder: a path, a built-in model, or a repository of the Hugging Face hub.

huggingface_hub handles downloads and their cache; it is imported only for hub ids, and its settings (HF_HOME,
HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE) apply.
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
_MAX_PATH = 300
"""Maximum length of a folder's name in a message."""
# The same weights in other formats.
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
    """Ids of the models in the package."""
    return [f"lapwing/{path.name}" for path in sorted(BUILTIN.iterdir()) if (path / "config.json").is_file()]


def find(
    name: str | os.PathLike[str], *, revision: str | None = None, local_files_only: bool = False
) -> tuple[Path, str]:
    """The folder of a checkpoint, and the name under which it can be found again.

    Raises:
        CheckpointError: the folder or repository does not exist or cannot be reached.
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
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown home directory, a null character
        raise CheckpointError(
            f"{short_repr(text, _MAX_PATH)} is not a valid folder name: {getattr(error, 'strerror', None) or error}"
        ) from error
    if folder:
        if revision is not None:
            raise OptionError(f"revision is {short_repr(revision)}, but {path} is a folder: expected None")
        return path, str(path.resolve())
    if file:
        raise CheckpointError(f"{path} is a file: expected the folder of a checkpoint, which contains config.json")
    if not isinstance(name, str) or not _ID.fullmatch(text) or text.startswith(".") or ".." in text:
        raise CheckpointError(
            f"there is no folder {short_repr(text, _MAX_PATH)}, and it is not a hub id: "
            "expected a folder, owner/name, or " + " or ".join(builtin_ids())
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
            f"there is no folder {short_repr(repository)}, and huggingface_hub, which would look for it on the hub, is "
            "not installed: pip install huggingface_hub"
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
            f"{repository} is gated: request access on its page, and log in with a token (HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {short_repr(repository)}, and the hub has no such repository "
            "(a private one needs a token, HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        way = "load it once with local_files_only=False" if local_files_only else "check the connection"
        raise CheckpointError(
            f"there is no folder {short_repr(repository, _MAX_PATH)}, and the hub repository {where} is not in the "
            f"local cache and was not downloaded: {way}"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{where} cannot be downloaded from the hub: {lines[0]}") from error
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{where} has no config.json: expected a checkpoint in the format of transformers")
    return path
