"""`load`: from the name of a checkpoint to a model."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args, overload

from . import __version__, _core, packed
from .architectures import check, complete, describe, head_in, task_of
from .checkpoint import Checkpoint, Config, Recipe, Tensor, open_checkpoint, open_table, read_object, table
from .errors import CheckpointError, OptionError, short_repr
from .foreign import checked
from .hub import find
from .models import Seq2Seq, TextEncoder, TextGenerator
from .models.arguments import choice, flag, optional_flag, optional_text, whole
from .models.base import LoadedParts
from .progress import Callback, Progress
from .tasks import TASKS

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .spec import Model as Spec

Activations = Literal["int16", "int8", "bf16"]
KvCache = Literal["auto", "f32", "f16", "q8"]
Weights = Literal["auto", "stored", "f32", "bf16", "f16", "q8", "q4"]

DecoderTask = Literal["chat", "score"]
EncoderTask = Literal["embed", "encode", "classify", "rank", "tag", "answer", "fill-mask"]
TextToTextTask = Literal["translate", "summarize"]

WEIGHTS: tuple[Weights, ...] = get_args(Weights)
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)
KV_CACHE: tuple[KvCache, ...] = get_args(KvCache)
QUANTIZED_FROM = 100_000_000
"""Number of parameters from which ``weights="auto"`` is "q8"."""


class LoadOptions(TypedDict, total=False):
    """The options of `load` besides the task."""

    weights: Weights
    activations: Activations
    kv_cache: KvCache
    threads: int | None
    revision: str | None
    local_files_only: bool
    # Not Any: mypy gives up on overloads where an argument contains it.
    generation_config: Mapping[str, object] | None
    packed_cache: bool | None
    prefix_cache: bool | int
    progress: bool | Callback | None


Model = TextGenerator | TextEncoder | Seq2Seq
"""What `load` returns."""


@overload
def load(name: str | os.PathLike[str], *, task: DecoderTask, **options: Unpack[LoadOptions]) -> TextGenerator: ...
@overload
def load(name: str | os.PathLike[str], *, task: EncoderTask, **options: Unpack[LoadOptions]) -> TextEncoder: ...
@overload
def load(name: str | os.PathLike[str], *, task: TextToTextTask, **options: Unpack[LoadOptions]) -> Seq2Seq: ...
@overload
def load(
    name: str | os.PathLike[str], *, task: Literal["generate"], **options: Unpack[LoadOptions]
) -> TextGenerator | Seq2Seq: ...
@overload
def load(name: str | os.PathLike[str], *, task: str | None = None, **options: Unpack[LoadOptions]) -> Model: ...
@checked
def load(
    name: str | os.PathLike[str],
    *,
    weights: Weights = "auto",
    activations: Activations = "int16",
    kv_cache: KvCache = "auto",
    threads: int | None = None,
    task: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    generation_config: Mapping[str, Any] | None = None,
    packed_cache: bool | None = None,
    prefix_cache: bool | int = True,
    progress: bool | Callback | None = None,
) -> Model:
    """Loads a model: a `TextGenerator`, a `TextEncoder` or a `Seq2Seq`, depending on the checkpoint.

    Args:
        name: a folder with config.json and safetensors, a hub id, or a built-in id ("lapwing/tiny-en-de",
            "lapwing/tiny-shakespeare").
        weights: type of the matrices: "f32", "bf16", "f16", "q8" (8 bits, one scale per 32 inputs,
            near-lossless), "q4" (4 bits, 16 evenly spaced values per 32 inputs; token table and language head
            in 6 bits), or "stored" (as in the file). "auto" is "stored" below 100 million parameters, else
            "q8".
        activations: rounding of the inputs of products. "int16" keeps f32 inputs for float weights and rounds
            those of quantized weights to 16 bits (q4: 8). "int8", for q8 weights only, rounds to 8 bits (one
            scale per 32, as llama.cpp does): faster on machines that multiply bytes, and less accurate.
            "bf16", for bf16 weights only, rounds to bf16 (8 bits of mantissa), as bf16 models run elsewhere:
            prompts are faster on machines that multiply bf16 (AVX-512 BF16), and each input changes by up to
            1/512.
        kv_cache: type of a decoder's cached keys and values: "f32", "f16" or "q8"; "auto" is "f32" if all
            weights are f32, else "f16".
        threads: number of compute threads; None uses the cores available to this process.
        task: what to build if the checkpoint supports several tasks: "generate", "chat", "score", "embed",
            "encode", "classify", "tag", "answer", "fill-mask", "rank", "translate" or "summarize". A decoder
            published as an embedding model is a `TextEncoder` unless the task is to generate.
        revision: branch, tag or commit on the hub.
        local_files_only: looks up a hub id only in the local cache.
        generation_config: settings that override generation_config.json; None for a key removes it.
        packed_cache: keeps packed weights on disk, so that the next load maps them (`lapwing.packed`). None
            keeps quantized weights of at least 100 million parameters, True those of any model, False neither
            writes nor reads the cache. True is refused if LAPWING_CACHE is off.
        prefix_cache: keeps a decoder's keys and values of past sequences; a prompt with the same prefix (the
            next turn of a conversation, the same system message) reuses them. True keeps up to 512 MiB, a
            number that many bytes; the least recently used are evicted first. Results are bit-identical.
        progress: True for a bar on standard error, or a function of the bytes done and the total; False also hides
            the bars of downloads.

    Raises:
        CheckpointError: the checkpoint does not exist or is damaged.
        SpecError: the architecture or configuration is not supported.
        OptionError: an option that cannot be honoured.
    """
    for option, value, known in (
        ("weights", weights, WEIGHTS),
        ("activations", activations, ACTIVATIONS),
        ("kv_cache", kv_cache, KV_CACHE),
    ):
        choice(option, value, known)
    if task is not None:
        choice("task", task, sorted(TASKS))
    if threads is not None:
        threads = whole("threads", threads, 1, 256)
    local_files_only = flag("local_files_only", local_files_only)
    optional_text("revision", revision)
    if generation_config is not None and not isinstance(generation_config, Mapping):
        raise OptionError(f"generation_config is {short_repr(generation_config)}: expected a mapping")
    packed_cache = optional_flag("packed_cache", packed_cache)
    if packed_cache and packed.folder() is None:
        raise OptionError(f"packed_cache is True, but {packed.VARIABLE} is off: remove one of them")
    if not isinstance(prefix_cache, bool):
        prefix_cache = whole("prefix_cache", prefix_cache, 0)
    folder, identity = find(name, revision=revision, local_files_only=local_files_only, quiet=progress is False)
    options = {
        "weights": weights,
        "activations": activations,
        "kv_cache": kv_cache,
        "threads": threads,
        "task": task,
        "revision": revision,
        "local_files_only": local_files_only,
        "generation_config": dict(generation_config) if generation_config is not None else None,
        "packed_cache": packed_cache,
        "prefix_cache": prefix_cache,
    }
    recipe = Recipe.read(folder) or (Recipe.mean(folder) if task == "embed" else None)
    folder = folder if recipe is None else recipe.folder
    static = recipe is not None and recipe.static
    checkpoint = open_table(folder) if static else open_checkpoint(folder)
    config = checkpoint.config if static else complete(checkpoint.config)
    if (
        task is not None
        and not static
        and not (recipe is not None and recipe.published and task in ("embed", "rank", "encode"))
    ):
        _check_head(config, task)
    core, spec = _build(checkpoint, task, recipe, (weights, activations, kv_cache), threads, packed_cache, progress)
    try:
        if prefix_cache is not True:
            core.limit_prefixes(int(prefix_cache))
        parts = LoadedParts(
            core=core,
            folder=folder,
            config=config,
            spec=spec,
            identity=identity,
            options={key: value for key, value in options.items() if value is not None},
            reload=reload,
            architecture=config.model_type,
            task=task,
            generation=_generation(folder, generation_config, config),
            recipe=recipe,
        )
        made = _class(spec, recipe, task)
        if made is not TextGenerator and not isinstance(prefix_cache, bool):
            raise OptionError(
                f"prefix_cache is {prefix_cache}, but only a TextGenerator has a prefix cache: this model is a "
                f"{made.__name__}; leave it out"
            )
        return made(parts)
    except BaseException:
        core.close()
        raise


def reload(identity: str, options: Mapping[str, Any]) -> Any:
    """Loads the model of a pickled handle."""
    return load(identity, **options)


def _generation(folder: Path, override: Mapping[str, Any] | None, config: Mapping[str, Any]) -> dict[str, Any] | None:
    path = folder / "generation_config.json"
    found: dict[str, Any] | None = read_object(path) if path.is_file() else None
    if override is None:
        return found
    merged = {**(config if found is None else found), **override}
    return {key: value for key, value in merged.items() if value is not None}


_LANGUAGE_HEADS = ("generation", "text-to-text", "fill-mask")


def _check_head(config: Config, task: str) -> None:
    """Compares the head of the checkpoint's class with the task: heads of equal shape mean different things.

    Raises:
        OptionError: the class has another head.
    """
    stated, wanted = task_of(config), TASKS[task].head
    both_language = stated in _LANGUAGE_HEADS and wanted in _LANGUAGE_HEADS
    pretraining = any(name.endswith("ForPreTraining") for name in config.words("architectures"))
    if not stated or wanted in ("features", stated) or both_language or pretraining:  # with heads that its tensors show
        return
    name = ", ".join(config.words("architectures"))
    does = [one.name for one in TASKS.values() if one.head == stated]
    has = "no head" if stated == "features" else f"a head for {stated}"
    raise OptionError(
        f"task is {task!r}, which needs a head for {wanted}: this checkpoint ({name}) has {has}, for the task "
        f"{' or '.join(does)}"
    )


def _check_outputs(spec: Spec, task: str | None) -> None:
    """Compares the number of outputs of the head with the task.

    Raises:
        OptionError: a head to rank has one output, a head to answer two.
    """
    needed = {"rank": 1, "answer": 2}.get(task or "")
    found = spec.head.output_width(0) if spec.head is not None and spec.head.layers else needed
    if needed is not None and found != needed:
        use = ": use classify" if task == "rank" else ""
        raise OptionError(
            f"task is {task!r}, which needs a head with {needed} output{'s' * (needed > 1)}: this one has {found}{use}"
        )


def _class(spec: Spec, recipe: Recipe | None, task: str | None) -> type[Model]:
    """The class of a spec, checked against the task."""
    wanted = TASKS[task].shapes if task is not None else ()
    decodes = spec.decoder is not None and spec.head is None and spec.language_head is not None
    if spec.encoder is not None and spec.decoder is not None and spec.head is None:
        found: type[Model] = Seq2Seq
    elif decodes and "encoder" not in wanted and (recipe is None or "decoder" in wanted):
        found = TextGenerator
    else:
        found = TextEncoder
    if wanted and found.kind not in wanted:
        names = {
            "decoder": "a decoder with a language head",
            "encoder": "an encoder",
            "encoder-decoder": "an encoder-decoder",
        }
        own = (
            names["encoder-decoder"] if found is Seq2Seq else "a decoder" if spec.decoder is not None else "an encoder"
        )
        raise OptionError(f"task is {task!r}, which needs {names[wanted[0]]}: this checkpoint is {own}")
    return found


def _family_task(checkpoint: Checkpoint, task: str | None, recipe: Recipe | None) -> str | None:
    """The task that overrides config.json for `architectures`; None follows config.json."""
    if recipe is not None and recipe.published and task in (None, "embed", "rank", "encode"):
        if recipe.sparse is not None:
            return "fill-mask"
        # Published as an embedding model: a language head would be dead weight.
        return "features" if head_in(checkpoint) in ("generation", "text-to-text") else None
    return TASKS[task].head if task is not None else None


def headers(
    checkpoint: Checkpoint, task: str | None, recipe: Recipe | None
) -> tuple[Spec, Mapping[str, Tensor], list[str], type[Model]]:
    """The spec of a checkpoint, its tensors by spec name, the unused names, and the class that `load` returns."""
    tensors: Mapping[str, Tensor]
    if recipe is not None and recipe.static:
        spec, tensors = table(checkpoint.tensors, checkpoint.path)
        unused: list[str] = []
    else:
        spec, tensors, unused = describe(checkpoint, _family_task(checkpoint, task, recipe))
    made = _class(spec, recipe, task)
    _check_outputs(spec, task)
    if recipe is not None:
        spec, tensors = recipe.attach(spec, tensors, checkpoint, unused)
    return spec, tensors, unused, made


def _build(
    checkpoint: Checkpoint,
    task: str | None,
    recipe: Recipe | None,
    types: tuple[str, str, str],
    threads: int | None,
    cache: bool | None,
    progress: bool | Callback | None,
) -> tuple[_core.Model, Spec]:
    """The compiled model: each array is read, packed and released before the next is read."""
    spec, named, unused, _ = headers(checkpoint, task, recipe)  # raises before any weight is read
    if recipe is not None:
        checkpoint = recipe.with_files(checkpoint)
    owners: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in named.items():
        owners.setdefault(id(tensor), (tensor, []))[1].append(name)
    weights, activations, kv = types
    large = sum(math.prod(tensor.shape) for tensor, _ in owners.values()) >= QUANTIZED_FROM
    if weights == "auto":
        weights = "q8" if large else "stored"
    text = spec.to_json()
    loader = _core.Loader(text, weights=weights, activations=activations, kv=kv, threads=threads)
    needed = {name: tuple(shape) for name, shape in loader.tensors()}
    check(needed, named, unused, str(checkpoint.path))
    entry = None
    if cache or (cache is None and large and weights in ("q8", "q4")):
        entry = packed.entry(checkpoint, text, named, weights, __version__)
    if entry is not None and _restored(loader, entry):
        return loader.finish(), spec
    sizes = {"float32": 4, "float16": 2, "bfloat16": 2}
    total = sum(math.prod(t.shape) * sizes.get(t.dtype, 4) for t, _ in owners.values())
    with Progress(progress, total, "loading", unit="B") as bar:
        for tensor, names in owners.values():
            try:
                loader.add(names, tensor.read(), tensor.dtype)
            except CheckpointError as error:
                raise CheckpointError(f"{checkpoint.path}: {tensor.name}: {error}") from None
            bar.advance(math.prod(tensor.shape) * sizes.get(tensor.dtype, 4))
    if entry is not None:
        _keep(loader, entry)
    return loader.finish(), spec


def _restored(loader: _core.Loader, entry: packed.CacheEntry) -> bool:
    """Maps packed weights, if the cache has them; a damaged file will be replaced."""
    try:
        found = loader.restore(entry.key, str(entry.path))
    except CheckpointError as error:
        warnings.warn(f"{error}: packing the weights again", RuntimeWarning, stacklevel=4)
        return False
    if found:
        packed.touch(entry.path)
    return found


def _keep(loader: _core.Loader, entry: packed.CacheEntry) -> None:
    """Writes packed weights for the next load; failures only warn."""
    try:
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        loader.save(entry.key, str(entry.path))
    except (CheckpointError, OSError) as error:
        text = f"packed weights are not cached for the next load: {error}; set {packed.VARIABLE} to another folder"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
