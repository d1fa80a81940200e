"""The commands that read texts and print results."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from ..errors import OptionError, short_repr
from .text import generation, load, need, progress, texts, write_json


def generate(arguments: argparse.Namespace) -> None:
    """Continues prompts; a single one is streamed."""
    items = texts(arguments)
    with load(arguments) as model:
        run = need(model, "generate", "generate")
        options = generation(arguments)
        chunks = None
        if len(items) == 1 and model.kind == "decoder" and not (arguments.no_stream or arguments.json):
            # stream refuses beams and several samples, also those of the checkpoint: they are printed when
            # complete.
            with contextlib.suppress(OptionError):
                chunks = model.stream(items[0], **options)
        if chunks is not None:
            for chunk in chunks:
                print(chunk.text, end="", flush=True)
            print()
            return
        for index, result in enumerate(run(items, progress=progress(arguments), **options)):
            if arguments.json:
                write_json(result, prompt=items[index])
            else:
                others = getattr(result, "alternatives", None)
                for one in (result, *(result.hypotheses[1:] if others is None else others)):
                    print(one.text)


def translate(arguments: argparse.Namespace) -> None:
    """One translation per line."""
    items = texts(arguments)
    with load(arguments, "translate") as model:
        results = model.translate(
            items,
            target_prefix=arguments.target_prefix,
            source_lang=arguments.source_lang,
            target_lang=arguments.target_lang,
            split_sentences=arguments.split_sentences,
            progress=progress(arguments),
            **generation(arguments),
        )
        _rewritten(arguments, items, results)


def summarize(arguments: argparse.Namespace) -> None:
    """One summary per line."""
    items = texts(arguments)
    with load(arguments, "summarize") as model:
        results = model.summarize(items, progress=progress(arguments), **generation(arguments))
        _rewritten(arguments, items, results)


def _rewritten(arguments: argparse.Namespace, items: list[str], results: list[Any]) -> None:
    for item, result in zip(items, results, strict=True):
        if arguments.json:
            write_json(result, source=item)
        elif arguments.num_hypotheses:
            for hypothesis in result.hypotheses:
                print(f"{hypothesis.score:.4f}\t{hypothesis.text}")
        else:
            print(result.text)


def embed(arguments: argparse.Namespace) -> None:
    """Embeddings."""
    if arguments.output:
        if arguments.json:
            raise OptionError("--output and --json exclude each other: a .npy file is not JSON")
        folder = Path(arguments.output).parent
        if not folder.is_dir():  # fail before the work
            raise OptionError(
                f"--output is {arguments.output}, but the folder {folder} does not exist: create it first"
            )
    items = texts(arguments)
    with load(arguments) as model:
        vectors = need(model, "embed", "embed")(
            items,
            normalize=arguments.normalize,
            prompt=arguments.prompt,
            prompt_name=arguments.prompt_name,
            truncate=arguments.truncate,
            max_tokens=arguments.max_tokens,
            truncate_dim=arguments.dim,
            progress=progress(arguments),
        )
    if arguments.output:
        import numpy as np

        with open(arguments.output, "wb") as file:  # noqa: PTH123  # np.save adds a suffix to paths
            np.save(file, vectors)
        print(f"{arguments.output}: {vectors.shape[0]} vectors of {vectors.shape[1]}", file=sys.stderr)
        return
    for item, vector in zip(items, vectors, strict=True):
        if arguments.json:
            write_json({"text": item, "embedding": vector})
        else:
            print(" ".join(f"{value:.6g}" for value in vector))


def classify(arguments: argparse.Namespace) -> None:
    """Label and score of each text."""
    items: list[Any] = texts(arguments)
    if arguments.pairs:
        items = [_pair(item, "--pairs is set") for item in items]
    with load(arguments, "classify") as model:
        results = model.classify(
            items,
            labels=arguments.label,
            **({} if arguments.hypothesis is None else {"hypothesis": arguments.hypothesis}),
            multi_label=arguments.multi_label,
            top_k=arguments.top_k or (None if arguments.json else 1),
            scores=arguments.scores,
            truncate=arguments.truncate,
            progress=progress(arguments),
        )
    for item, result in zip(items, results, strict=True):
        if arguments.json:
            write_json(result, text=item)
            continue
        source = item if isinstance(item, str) else "\t".join(item)
        for found in result.labels:
            print(f"{found.label}\t{found.score:.4f}\t{source}")


def _pair(item: str, why: str) -> tuple[str, str]:
    left, tab, right = item.partition("\t")
    if not tab:
        raise OptionError(f"{why}, but {short_repr(item)} is one text: expected two texts separated by a tab")
    return left, right


def tag(arguments: argparse.Namespace) -> None:
    """Labelled spans, one per line; an empty line separates texts."""
    items = texts(arguments)
    with load(arguments, "tag") as model:
        results = model.tag(
            items,
            aggregation=arguments.aggregation,
            ignore_labels=arguments.ignore_label or ["O"],
            stride=arguments.stride,
            progress=progress(arguments),
        )
    for index, (item, found) in enumerate(zip(items, results, strict=True)):
        if arguments.json:
            write_json({"text": item, "tags": found})
            continue
        if index:
            print()
        for part in found:
            print(f"{part.label}\t{part.score:.4f}\t{part.start}-{part.end}\t{part.text}")


def answer(arguments: argparse.Namespace) -> None:
    """The answer from each context."""
    items = texts(arguments)
    with load(arguments, "answer") as model:
        results = model.answer(
            [arguments.question] * len(items),
            items,
            top_k=arguments.top_k,
            allow_no_answer=arguments.allow_no_answer,
            max_answer_tokens=arguments.max_answer_tokens,
            window=arguments.window,
            stride=arguments.stride,
            progress=progress(arguments),
        )
    for result in results:
        if arguments.json:
            write_json(result, question=arguments.question)
            continue
        for found in (result, *result.alternatives):
            print(f"{found.text}\t{found.score:.4f}\t{found.start}-{found.end}")


def rank(arguments: argparse.Namespace) -> None:
    """Documents, best first."""
    items = texts(arguments)
    with load(arguments) as model:
        results = need(model, "rank", "rank")(
            arguments.query,
            items,
            top_k=arguments.top_k,
            scores=arguments.scores,
            query_prompt=arguments.query_prompt,
            document_prompt=arguments.document_prompt,
            truncate=arguments.truncate,
            progress=progress(arguments),
        )
    for result in results:
        if arguments.json:
            write_json(result)
        else:
            print(f"{result.score:.4f}\t{result.index}\t{result.text}")


def fill_mask(arguments: argparse.Namespace) -> None:
    """Candidates, best first."""
    items = texts(arguments)
    with load(arguments, "fill-mask") as model:
        results = model.fill_mask(items, top_k=arguments.top_k, targets=arguments.target, progress=progress(arguments))
    for item, result in zip(items, results, strict=True):
        masks = result if result and isinstance(result[0], list) else [result]
        if arguments.json:
            write_json({"text": item, "masks": masks})
            continue
        for candidates in masks:
            for found in candidates:
                print(f"{found.score:.4f}\t{found.token}\t{found.text}")


def score(arguments: argparse.Namespace) -> None:
    """Sum of log-probabilities, tokens and perplexity of each text; of an encoder-decoder of each target."""
    items = texts(arguments)
    with load(arguments) as model:
        run = need(model, "score", "score")
        given: tuple[Any, ...] = (items,)
        if model.kind == "encoder-decoder":
            pairs = [_pair(item, "the model is an encoder-decoder") for item in items]
            given = ([source for source, _ in pairs], [target for _, target in pairs])
        results = run(*given, progress=progress(arguments))
    for item, result in zip(items, results, strict=True):
        if arguments.json:
            write_json(result, text=item)
        else:
            print(f"{result.total:.4f}\t{len(result.logprobs)}\t{result.perplexity:.4f}")


def info(arguments: argparse.Namespace) -> None:
    """Facts, one per line."""
    facts = _installation() if arguments.model is None else _facts(arguments)
    if arguments.json:
        write_json(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_size(size)}" for key, size in value.items())
        elif name in ("bytes", "bytes in cache"):
            value = _size(value)
        elif isinstance(value, int) and name != "threads":
            value = f"{value:,}"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{name:<{width}}  {'-' if value is None else value}")


def cached(arguments: argparse.Namespace) -> None:
    """Lists packed weights on disk, one file per line, or removes them."""
    from .. import packed

    if arguments.clear:
        freed = packed.clear()
        if arguments.json:
            write_json({"freed": freed})
        else:
            print(f"removed {_size(freed)}")
        return
    found = packed.sizes()
    for path, size in found.items():
        if arguments.json:
            write_json({"path": str(path), "bytes": size})
        else:
            print(f"{_size(size):>10}  {path}")
    if not found and not arguments.json:
        root = packed.folder()
        print(f"nothing in {root}" if root is not None else f"off ({packed.VARIABLE})")


def _facts(arguments: argparse.Namespace) -> dict[str, Any]:
    from .text import plain

    with load(arguments) as model:
        found: dict[str, Any] = plain(model.info())
        return found


def _installation() -> dict[str, Any]:
    import platform

    import numpy

    from .. import __version__, _core, packed
    from ..architectures import families
    from ..hub import builtin_ids

    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "isa": _core.isa(),
        "threads": _core.default_threads(),
        "cache": str(packed.folder() or "off"),
        "bytes in cache": sum(packed.sizes().values()),
        "built-in models": builtin_ids(),
        "model types": list(families()),
    }


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
