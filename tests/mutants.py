"""Checkpoints broken in one place, and the process that tries them.

``make(seed, folder)`` writes a mutant and returns a description of the change. Run as a program, this reads the paths
of folders from standard input, loads each and uses it, and answers with one line: "ok", "refused" with the error, or
"wrong" with whatever else happened.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import pickles

GOLDEN = Path(__file__).parent / "golden"
BASES = (
    "llama",
    "qwen3",
    "bert-seqcls",
    "bert-sentence",
    "bert-sharded",
    "xlm-roberta-tokcls",
    "marian",
    "modernbert-mlm",
    "bloom",
    "falcon-rw",
    "gpt2",
    "gpt_neo",
    "mpt-clipped",
    "opt-projected",
)
MEMORY = 6 << 30
"""Limit of the address space of the process that tries them."""

WEIRD: tuple[Any, ...] = (
    0,
    -1,
    1,
    2,
    3,
    2**31,
    2**40,
    2**63,
    10**40,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x",
    "relu",
    "../../etc/passwd",
    "\u0000",
    "\ud800",
    "🦆" * 1000,
    None,
    True,
    False,
    [],
    {},
    [None],
    [[]],
    {"a": {"b": []}},
    [1, 2, 3],
    ["x"] * 100,
)


def make(seed: int, folder: Path) -> str:
    """Writes the mutant of a seed into a new folder; returns a description of the change."""
    random_ = random.Random(seed)
    base = random_.choice(BASES)
    shutil.copytree(GOLDEN / base, folder, ignore=shutil.ignore_patterns("expected*", "config.v4.json"))
    kind = random_.choice(KINDS)
    return f"{base}: {kind.__name__}: {kind(random_, folder)}"


def _pick(random_: random.Random, folder: Path, *patterns: str) -> Path:
    found = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    return random_.choice(found) if found else folder / "config.json"


def _weights(random_: random.Random, folder: Path) -> tuple[Path, dict[str, Any], bytes]:
    path = _pick(random_, folder, "*.safetensors")
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return path, json.loads(raw[8 : 8 + size]), raw[8 + size :]


def _write(path: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def header(random_: random.Random, folder: Path) -> str:
    """One entry of the weights' header."""
    path, found, data = _weights(random_, folder)
    name = random_.choice([key for key in found if key != "__metadata__"])
    entry = found[name]
    act = random_.randrange(8)
    if act == 0:
        entry["dtype"] = random_.choice(("F64", "I8", "F32", "BF16", "F16", "U8", "BOOL", "F8_E4M3", "", 3, None))
    elif act == 1:
        entry["shape"] = random_.choice(
            ([], [0], [-1], [2**40, 2**40], [1.5], None, "x", [*entry["shape"], 1], entry["shape"][::-1])
        )
    elif act == 2:
        a, b = entry["data_offsets"]
        choices = ([b, a], [0, 2**63], [a + 1, b + 1], [-1, b], [a], [a, b, b], None, [0, len(data) + 1], [a, b - 1])
        entry["data_offsets"] = random_.choice(choices)
    elif act == 3:
        del found[name]
    elif act == 4:
        found[name + random_.choice(("x", ".weight", "\u0000", "/../x"))] = found.pop(name)
    elif act == 5:
        found[f"extra.{random_.random()}"] = dict(entry)
    elif act == 6:
        found[name] = random_.choice(WEIRD)
    else:
        found["__metadata__"] = random_.choice(WEIRD)
    _write(path, found, data)
    return f"{path.name} {name} {act}"


def doubled(random_: random.Random, folder: Path) -> str:
    """A duplicate name in the weights' header."""
    path, found, data = _weights(random_, folder)
    name = random_.choice([key for key in found if key != "__metadata__"])
    text = json.dumps(found)
    _write(path, (text[:-1] + f", {json.dumps(name)}: {json.dumps(found[name])}}}").encode(), data)
    return name


def numbers(random_: random.Random, folder: Path) -> str:
    """Bytes of the weights."""
    path, found, data = _weights(random_, folder)
    value = random_.choice((b"\xff\xff\xff\xff", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"))
    at = random_.randrange(0, max(len(data) - 4, 1)) // 4 * 4
    count = random_.choice((1, 1, len(data) // 4))
    _write(path, found, data[:at] + (value * count + data[at + 4 * count :])[: len(data) - at])
    return f"{path.name} {value.hex()} x {count}"


def bytes_(random_: random.Random, folder: Path) -> str:
    """Bytes of any file: changed, truncated, appended."""
    path = _pick(random_, folder, "*.safetensors", "*.json", "*.spm", "*.txt", "*.jinja")
    raw = bytearray(path.read_bytes())
    act = random_.randrange(7)
    reach = min(len(raw), random_.choice((16, 4096, len(raw))))
    if act == 0:
        for _ in range(random_.choice((1, 3, 50))):
            raw[random_.randrange(max(reach, 1))] = random_.randrange(256)
    elif act == 1:
        del raw[random_.randrange(max(reach, 1)) :]
    elif act == 2:
        raw += random_.randbytes(random_.choice((1, 1000)))
    elif act == 3:
        raw[:8] = struct.pack("<Q", random_.choice((0, 1, 7, 2**20, 2**32, 2**63, 2**64 - 1, len(raw))))
    elif act == 4:
        raw = bytearray(random_.choice((b"", b"\xef\xbb\xbf" + raw, b"null", b"[]", b"{}", b"\xff\xfe", b"0", b'"x"')))
    elif act == 5:
        raw = bytearray(b"[" * 200_000)
    else:
        raw = bytearray(b'{"a":' * 200_000)
    path.write_bytes(bytes(raw))
    return f"{path.name} {act}"


def pickled(random_: random.Random, folder: Path) -> str:
    """The weights as torch.save writes them, in either format, and some of their bytes changed."""
    arrays = {}
    for file in sorted(folder.glob("model*.safetensors")):
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        for name, entry in json.loads(raw[8 : 8 + size]).items():
            if name != "__metadata__":
                start, stop = (8 + size + offset for offset in entry["data_offsets"])
                kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}[entry["dtype"]]
                arrays[name] = np.frombuffer(raw[start:stop], kind).reshape(entry["shape"])
        file.unlink()
    path, old = folder / "pytorch_model.bin", random_.random() < 0.5
    pickles.write(path, arrays, old)
    raw_ = bytearray(path.read_bytes())
    # Most of a file are numbers: its first and last bytes describe them.
    places = [random_.choice((random_.randrange(4096), len(raw_) - 1 - random_.randrange(4096))) for _ in range(3)]
    for place in places[: random_.randrange(4)]:
        raw_[place] = random_.randrange(256)
    path.write_bytes(bytes(raw_))
    return f"{'old' if old else 'zip'} {places}"


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()
    for key, item in list(items)[:200]:
        found += _places(item, (*path, key))
    return found


def _setting(random_: random.Random, path: Path) -> str:
    tree = json.loads(path.read_text(encoding="utf-8"))
    places = _places(tree)
    if not places:
        return "nothing to change"
    place = random_.choice(places)
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    value = random_.choice(WEIRD)
    if random_.random() < 0.15:
        del parent[place[-1]]
        value = "(deleted)"
    else:
        parent[place[-1]] = value
    path.write_bytes(json.dumps(tree).encode("utf-8", "surrogatepass"))
    return f"{path.name} {place} = {value!r:.60}"


def configuration(random_: random.Random, folder: Path) -> str:
    """One key of config.json."""
    return _setting(random_, folder / "config.json")


def settings(random_: random.Random, folder: Path) -> str:
    """One value of any JSON file."""
    return _setting(random_, _pick(random_, folder, "*.json"))


def generation(random_: random.Random, folder: Path) -> str:
    """One key of generation_config.json."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    keys = (
        "max_length",
        "max_new_tokens",
        "num_beams",
        "temperature",
        "top_k",
        "top_p",
        "eos_token_id",
        "bos_token_id",
    )
    keys += ("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "forced_eos_token_id")
    keys += ("decoder_start_token_id", "early_stopping", "length_penalty", "sequence_bias", "num_return_sequences")
    key, value = random_.choice(keys), random_.choice(WEIRD)
    path.write_bytes(json.dumps({**found, key: value}).encode("utf-8", "surrogatepass"))
    return f"{key} = {value!r:.60}"


def files(random_: random.Random, folder: Path) -> str:
    """A file replaced by nothing, a folder, a Git LFS pointer, a pickle or a link loop."""
    path = _pick(random_, folder, "*")
    if path.is_dir():
        shutil.rmtree(path)
        return f"{path.name} is gone"
    act = random_.randrange(5)
    path.unlink()
    if act == 1:
        path.mkdir()
    elif act == 2:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    elif act == 3:
        path.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00")
    elif act == 4:
        path.symlink_to(path.name)
    return f"{path.name} {act}"


def template(random_: random.Random, folder: Path) -> str:
    """A malicious chat template."""
    path = folder / "tokenizer_config.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    text = random_.choice(
        (
            "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
            "{{ 'x' * 10**10 }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ ''.__class__.__mro__ }}",
            "{% include 'x' %}",
            "{% if %}",
            "{{ messages[10**30] }}",
            "{{ 1 / 0 }}",
            "{" * 100_000,
            "{{ (" * 5_000,
            "{{ messages | tojson(indent=10**9) }}",
            "{{ '%s' | format(messages) }}",
            "{% set ns = namespace() %}{{ ns.a.b.c }}",
            3,
            [{"name": 1}],
            {"a": []},
        )
    )
    path.write_text(json.dumps({**found, "chat_template": text}))
    return f"{text!r:.60}"


KINDS: tuple[Callable[[random.Random, Path], str], ...] = (
    header,
    header,
    doubled,
    pickled,
    numbers,
    bytes_,
    bytes_,
    configuration,
    configuration,
    configuration,
    settings,
    settings,
    generation,
    files,
    template,
)


def use(model: Any) -> None:
    """Uses a model in every way, briefly."""
    import lapwing

    def allowed(call: Callable[[], Any]) -> None:
        """Continues after one of our errors: the next call may fail differently."""
        with contextlib.suppress(lapwing.Error):
            call()

    ids = [1, 2, 3]
    allowed(lambda: model.tokenizer.decode(model.tokenizer.encode("Hello, wörld! 🦆 <s>")))
    if hasattr(model, "generate_ids"):
        allowed(lambda: model.generate_ids([ids], max_tokens=3))
        allowed(lambda: model.generate("Hello", max_tokens=3))
    if hasattr(model, "chat"):
        allowed(lambda: model.chat([{"role": "user", "content": "Hi"}], max_tokens=2))
    for name in ("embed", "classify", "tag", "fill_mask", "translate"):
        if hasattr(model, name):
            options = {"max_tokens": 4} if name == "translate" else {}
            allowed(lambda name=name, options=options: getattr(model, name)("A dog runs.", **options))  # type: ignore[misc]
    if hasattr(model, "hidden_states"):
        allowed(lambda: model.hidden_states(ids))


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    import lapwing

    for line in sys.stdin:
        try:
            with lapwing.load(line.rstrip("\n"), threads=2) as model:
                use(model)
            answer = "ok"
        except lapwing.Error as error:
            answer = (
                f"refused {type(error).__name__}: {error}"
                if not isinstance(error, lapwing.InternalError)
                else f"wrong {error!r}"
            )
        except BaseException as error:
            answer = f"wrong {error!r}"
        print(ascii(answer[:600]), flush=True)


if __name__ == "__main__":
    main()
