"""Resolves a name to a folder: a path, a built-in model, or a repository of the Hugging Face hub.

huggingface_hub handles downloads and their cache; it is imported only for hub ids, and its settings (HF_HOME,
HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE) apply.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .checkpoint import has_weights, recognize, refuse_file, snapshot
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
_PICKLED = ("pytorch_model*.bin",)
"""Fetched only if a repository has no safetensors."""
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
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
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    downloaded_first: bool = False,
    quiet: bool = False,
) -> tuple[Path, str]:
    """The folder of a checkpoint, and the name under which it can be found again.

    ``downloaded_first`` takes what the local cache has without a request to the hub; ``quiet`` hides the bars of
    downloads.

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
        path = snapshot(path) or path
        return path, str(path.resolve())
    if file:
        raise refuse_file(path)
    repository = text
    if "://" in text or text.split("/")[0] in _HOSTS:
        repository, named = _address(text)
        if named is not None and revision not in (None, named):
            raise OptionError(f"revision is {short_repr(revision)}, but {text} names {named!r}: remove one of them")
        revision = named if named is not None else revision
    if not isinstance(name, str) or not _ID.fullmatch(repository) or repository.startswith(".") or ".." in repository:
        raise CheckpointError(
            f"there is no folder {short_repr(text, _MAX_PATH)}{_near(path)}, and it is not a hub id: "
            "expected a folder, owner/name, or " + " or ".join(builtin_ids())
        )
    if downloaded_first and (found := _downloaded(repository, revision)) is not None:
        return found, text
    if quiet:
        with _without_bars():
            return _download(repository, revision, local_files_only), text
    return _download(repository, revision, local_files_only), text


def _downloaded(repository: str, revision: str | None) -> Path | None:
    """A complete snapshot in the local cache of the hub."""
    try:
        from huggingface_hub import constants  # not what downloads, whose import takes long
    except ImportError:
        return None
    root = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    name = revision or "main"
    try:
        commit = (root / "refs" / name).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = name
    path = root / "snapshots" / commit
    return path if (path / "config.json").is_file() and has_weights(path) else None


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Hides the progress bars of huggingface_hub."""
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("huggingface_hub") is None:  # the download says so
        yield
        return
    bars: Any = import_module("huggingface_hub.utils")
    if bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


def _near(path: Path) -> str:
    """The folder that a missing one was probably meant to be, for a message."""
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.name else []
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.75)
    return f" (there is {short_repr(str(path.parent / near[0]), _MAX_PATH)})" if near else ""


def _address(text: str) -> tuple[str, str | None]:
    """Repository and revision of a page of the hub."""
    try:
        address = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError:
        address = urlsplit("")
    own = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
    parts = [unquote(part) for part in address.path.split("/") if part]
    if address.netloc not in (*_HOSTS, own) or not address.netloc or address.scheme not in ("http", "https"):
        raise CheckpointError(
            f"{short_repr(text, _MAX_PATH)} is not a page of the hub: expected a folder, owner/name, or "
            f"https://{_HOSTS[0]}/owner/name"
        )
    if len(parts) < 2 or parts[0] in ("datasets", "spaces", "collections", "papers"):
        raise CheckpointError(f"{short_repr(text, _MAX_PATH)} is not the page of a model: expected owner/name")
    if len(parts) > 4 and parts[2] == "tree":
        raise CheckpointError(
            f"{short_repr(text, _MAX_PATH)} is a folder within a repository: expected the repository, "
            f"{'/'.join(parts[:2])!r}"
        )
    named = parts[3] if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve", "commit") else None
    return "/".join(parts[:2]), named


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

    def fetch(patterns: tuple[str, ...]) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=list(patterns),
                ignore_patterns=list(_UNWANTED),
            )
        )

    try:
        path = fetch(_WANTED)
        pickled = _pickled(path)
        if pickled:
            path = fetch(pickled)
        if not local_files_only and not (has_weights(path) and (path / "config.json").is_file()):
            what = recognize(huggingface_hub.list_repo_files(repository, revision=revision))
            if what is not None:
                raise CheckpointError(f"{where} is not a checkpoint of transformers: {what}")
    except CheckpointError:
        raise
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"the hub has no revision {short_repr(revision)} of {repository}") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repository} is gated: request access on its page, and log in with a token (HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {short_repr(repository)}{_near(Path(repository))}, and the hub has no such repository "
            "(a private one needs a token, HF_TOKEN)"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        way = "load it once with local_files_only=False" if local_files_only else "check the connection"
        raise CheckpointError(
            f"there is no folder {short_repr(repository, _MAX_PATH)}{_near(Path(repository))}, and the hub repository "
            f"{where} is not in the local cache and was not downloaded: {way}"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{where} cannot be downloaded from the hub: {lines[0]}") from error
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{where} has no config.json: expected a checkpoint in the format of transformers")
    return path


def _pickled(folder: Path) -> tuple[str, ...]:
    """Patterns of pickled weights, for a downloaded folder and its modules that have no safetensors."""
    modules = [path.parent for path in folder.glob("[0-9]*_*/config.json") if not path.parent.name.endswith("_Pooling")]
    safe = ("model.safetensors", "model.safetensors.index.json")
    lacking = [place for place in (folder, *modules) if not any((place / name).exists() for name in safe)]
    return tuple(f"{'' if place == folder else f'{place.name}/'}{pattern}" for place in lacking for pattern in _PICKLED)
