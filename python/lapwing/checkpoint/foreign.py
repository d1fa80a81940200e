"""Folders and files of other programs: what they hold, and how to get a checkpoint that can be loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, short_repr
from .json_file import read_json, read_object

ORIGINAL = "load the checkpoint that it was made from"
_TO_SAFETENSORS = "then save it with save_pretrained, which writes safetensors"

_KINDS = (
    (r"adapter_config\.json", "an adapter (LoRA), which changes another model"),
    (
        r"[^/]*\.gguf",
        f"a GGUF file of llama.cpp: expected safetensors; {ORIGINAL}, with weights='q8' or 'q4' for its size",
    ),
    (r"(shared|source)?_?vocabulary\.(txt|json)", f"a conversion for CTranslate2: expected safetensors; {ORIGINAL}"),
    (r"(onnx/)?[^/]*\.onnx", f"a model of ONNX: expected safetensors; {ORIGINAL}"),
    (r"(openvino/)?openvino_[^/]*\.(xml|bin)", f"a model of OpenVINO: expected safetensors; {ORIGINAL}"),
    (
        r"tf_model\.h5|[^/]*\.ckpt\.index|saved_model\.pb",
        "weights of TensorFlow: expected safetensors; open it in transformers 4 with from_pretrained(FOLDER, "
        f"from_tf=True), {_TO_SAFETENSORS}",
    ),
    (
        r"flax_model[^/]*\.msgpack",
        "weights of Flax: expected safetensors; open it in transformers 4 with from_pretrained(FOLDER, "
        f"from_flax=True), {_TO_SAFETENSORS}",
    ),
    (r"rust_model\.ot", f"weights of rust-bert: expected safetensors; {ORIGINAL}"),
    (r"weights(\.\d+)?\.npz", f"weights of MLX: expected safetensors; {ORIGINAL}"),
    (
        r"consolidated[^/]*\.(pth|safetensors)|params\.json",
        "weights in the layout of their original release: expected the layout of transformers, which the hub has, "
        "often as a repository whose name ends in -hf",
    ),
    (r"model_index\.json", "a pipeline of diffusers: expected a language model"),
    (r"[^/]*\.nemo", f"a model of NeMo: expected safetensors; {ORIGINAL}"),
    (r"[^/]*\.llamafile", f"a llamafile: expected safetensors; {ORIGINAL}"),
    (r"[^/]*\.(pt|pth|ckpt)", "a file of a training program: expected pytorch_model.bin or model.safetensors"),
)
"""Patterns of the names of files, and what they belong to."""


def recognize(names: Iterable[str]) -> str | None:
    """What the files of a folder without config.json or weights belong to, and the way out; None if unknown.

    ``names`` are relative to the folder, with "/" between their parts.
    """
    names = sorted(names)
    if "modules.json" in names:  # of sentence-transformers: its modules are described there
        return None
    for pattern, what in _KINDS:
        found = next((name for name in names if re.fullmatch(pattern, name)), None)
        if found is not None:
            return f"{found} is {what}" if "vocabulary" not in pattern else f"it is {what}"
    return None


def refusal(folder: Path) -> CheckpointError | None:
    """The error for a folder that lacks config.json or weights, if there is more to say than that."""
    names = [path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob("o*/*"))]
    if not names:
        return CheckpointError(f"{folder} is empty: expected the folder of a checkpoint, which contains config.json")
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        return CheckpointError(f"{folder} holds {_adapter(read_object(adapter))}")
    what = recognize(names)
    if what is not None:
        return CheckpointError(f"{folder} is not a checkpoint of transformers: {what}")
    if "config.json" not in names:
        if "modules.json" in names:
            return CheckpointError(f"{folder} has no config.json: {_modules(folder / 'modules.json')}")
        inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
        if inner:
            return CheckpointError(
                f"{folder} has no config.json, but its folders {', '.join(inner[:8])} have: give one of them"
            )
        cached = sorted(path.name for path in folder.glob("models--*"))
        if cached:
            return CheckpointError(
                f"{folder} is a cache of the hub: give one of its models, such as {_identifier(cached[0])!r}"
            )
        weights = [name for name in names if name.endswith((".safetensors", ".bin"))]
        if weights:
            return CheckpointError(
                f"{folder} has {weights[0]}, but no config.json, which describes the model: download it too"
            )
        return None
    odd = [name for name in sorted(names) if re.fullmatch(r"[^/]*\.safetensors|pytorch_model[^/]*\.bin", name)]
    if odd:
        ending = "model.safetensors" if odd[0].endswith(".safetensors") else "pytorch_model.bin"
        return CheckpointError(
            f"{folder} has {odd[0]}, but no weights under a known name: if it holds all of them, call it {ending}"
        )
    return None


def _modules(path: Path) -> str:
    """The modules of a sentence-transformers folder whose transformer is not in it."""
    found = read_json(path)
    kinds = [entry.get("type") for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    names = [kind.rsplit(".", 1)[-1] for kind in kinds if isinstance(kind, str)]
    return (
        f"its modules.json lists {short_repr(', '.join(names))}, of sentence-transformers; expected the files of a "
        "Transformer in the folder itself"
    )


def _adapter(config: Mapping[str, Any]) -> str:
    base = config.get("base_model_name_or_path")
    kind = config.get("peft_type")
    return (
        f"an adapter ({kind if isinstance(kind, str) else 'of peft'}) for "
        f"{short_repr(base) if base else 'another model'}: merge it into that model with peft "
        "(PeftModel.from_pretrained, then merge_and_unload), save the result with save_pretrained and load it"
    )


def refuse_quantized(config: Mapping[str, Any], place: Path) -> None:
    """Raises if config.json says that the weights are quantized.

    Raises:
        CheckpointError: naming the method and the way out.
    """
    for key in ("quantization_config", "compression_config", "quantization"):
        found = config.get(key)
        if not isinstance(found, Mapping) or not found:
            continue
        method = found.get("quant_method") or found.get("quant_type") or ("mlx" if key == "quantization" else None)
        bits = found.get("bits") or (4 if found.get("load_in_4bit") else 8 if found.get("load_in_8bit") else None)
        name = f" by {short_repr(method)}" if method else ""
        name += f" ({bits} bits)" if isinstance(bits, int) else ""
        raise CheckpointError(
            f"{place}: {key} says that the weights are quantized{name}: expected float32, float16 or bfloat16; "
            f"{ORIGINAL}, with weights='q8' or 'q4', which quantizes while loading"
        )


def refuse_file(path: Path) -> CheckpointError:
    """The error for a file in place of a folder."""
    what = recognize([path.name])
    if what is not None:
        return CheckpointError(f"{path} is a file: {what}")
    if path.suffix in (".safetensors", ".bin") or path.name == "config.json":
        return CheckpointError(f"{path} is a file: give its folder, {path.parent}, which needs config.json too")
    return CheckpointError(f"{path} is a file: expected the folder of a checkpoint, which contains config.json")


def snapshot(folder: Path) -> Path | None:
    """The snapshot of a folder ``models--OWNER--NAME`` of the hub's cache; None if the folder is not one.

    It is the only one, or the one that the branch "main" names.

    Raises:
        CheckpointError: there is none, or several.
    """
    snapshots = folder / "snapshots"
    if not folder.name.startswith("models--") or not snapshots.is_dir():
        return None
    found = sorted(path for path in snapshots.iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    named = snapshots / main.read_text(encoding="utf-8", errors="replace").strip()[:40] if main.is_file() else None
    if named in found:
        return named
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"{folder} is a folder of the hub's cache with {len(found)} snapshots: give one of them"
        + (f", such as {found[0]}" if found else f", after {_identifier(folder.name)!r} has been downloaded")
    )


def _identifier(name: str) -> str:
    return "/".join(name.removeprefix("models--").split("--", 1))
