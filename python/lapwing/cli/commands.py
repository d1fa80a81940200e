"""The commands that read texts and print results."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, short_repr
from .info import size
from .input import Texts
from .text import generation, load, need, progress, write, write_json

if TYPE_CHECKING:
    from ..results import Chunk


def generate(arguments: argparse.Namespace) -> None:
    """Continues prompts; a single one is streamed."""
    items = Texts(arguments)
    with load(arguments) as model:
        run = need(model, "generate", "generate")
        options = generation(arguments)
        single = None if arguments.no_stream or arguments.json or model.kind != "decoder" else items.single()
        if single is not None:
            chunks = None
            # stream refuses beams and several samples, also those of the checkpoint: they are printed when
            # complete.
            with contextlib.suppress(OptionError):
                chunks = model.stream(single, **options)
            if chunks is not None:
                _stream(chunks)
                return
        shown = progress(arguments, writes=True)
        for item, result in items.results(lambda texts: run(texts, progress=shown, **options)):
            if arguments.json:
                write_json(result or {"text": ""}, prompt=item)
            elif result is None:
                write("")
            else:
                others = getattr(result, "alternatives", None)
                for one in (result, *(result.hypotheses[1:] if others is None else others)):
                    write(one.text)


def _stream(chunks: Iterable[Chunk]) -> None:
    """A text as it comes; its last line is complete also after Ctrl-C."""
    try:
        for chunk in chunks:
            print(chunk.text, end="", flush=True)
    except KeyboardInterrupt:
        write("")
        raise
    write("")


def translate(arguments: argparse.Namespace) -> None:
    """One translation per line."""
    items = Texts(arguments)
    with load(arguments, "translate") as model:
        options = {
            "source_lang": arguments.source_lang,
            "target_lang": arguments.target_lang,
            "target_prefix": arguments.target_prefix,
            "split_sentences": arguments.split_sentences,
            "progress": progress(arguments, writes=True),
            **generation(arguments),
        }
        _rewritten(arguments, items.results(lambda texts: model.translate(texts, **options)))


def summarize(arguments: argparse.Namespace) -> None:
    """One summary per line."""
    items = Texts(arguments)
    with load(arguments, "summarize") as model:
        options = {"progress": progress(arguments, writes=True), **generation(arguments)}
        _rewritten(arguments, items.results(lambda texts: model.summarize(texts, **options)))


def _rewritten(arguments: argparse.Namespace, results: Iterable[tuple[str, Any]]) -> None:
    for item, result in results:
        if arguments.json:
            write_json(result or {"text": ""}, source=item)
        elif result is None:
            write("")
        elif arguments.num_hypotheses:
            for hypothesis in result.hypotheses:
                write(f"{hypothesis.score:.4f}\t{hypothesis.text}")
        else:
            write(result.text)


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
    items = Texts(arguments)
    with load(arguments) as model:
        run = need(model, "embed", "embed")
        options = {
            "normalize": arguments.normalize,
            "prompt": arguments.prompt,
            "prompt_name": arguments.prompt_name,
            "truncate": arguments.truncate,
            "max_tokens": arguments.max_tokens,
            "truncate_dim": arguments.dim,
            "progress": progress(arguments, writes=not arguments.output),
        }
        found = items.results(lambda texts: run(texts, **options))
        if arguments.output:
            _save(arguments.output, (vector for _, vector in found))
            return
        for item, vector in found:
            if arguments.json:
                write_json({"text": item, "embedding": vector})
            else:
                write("" if vector is None else " ".join(f"{value:.6g}" for value in vector))


def _save(path: str, vectors: Iterable[Any]) -> None:
    """An array with a row for each line, also of those before Ctrl-C; NaN for a blank one."""
    import numpy as np

    rows: list[Any] = []
    try:
        rows.extend(vectors)
    finally:
        width = next((len(row) for row in rows if row is not None), 0)
        if rows:
            array = np.stack([np.full(width, np.nan, np.float32) if row is None else row for row in rows])
            with open(path, "wb") as file:  # noqa: PTH123  # np.save adds a suffix to paths
                np.save(file, array)
            blank = sum(row is None for row in rows)
            note = f", {blank} of NaN for blank lines" if blank else ""
            print(f"{path}: {len(rows)} vectors of {width}{note}", file=sys.stderr)


def classify(arguments: argparse.Namespace) -> None:
    """Label and score of each text."""
    items = Texts(arguments, _paired("--pairs is set") if arguments.pairs else None)
    with load(arguments, "classify") as model:
        options = {
            "labels": arguments.label,
            **({} if arguments.hypothesis is None else {"hypothesis": arguments.hypothesis}),
            "multi_label": arguments.multi_label,
            "top_k": arguments.top_k or (None if arguments.json else 1),
            "scores": arguments.scores,
            "truncate": arguments.truncate,
            "progress": progress(arguments, writes=True),
        }
        for item, result in items.results(lambda texts: model.classify(texts, **options)):
            if arguments.json:
                text = item.split("\t", 1) if arguments.pairs and result is not None else item
                write_json(result or {"label": None, "score": None, "labels": []}, text=text)
            elif result is None:
                write("")
            else:
                for found in result.labels:
                    write(f"{found.label}\t{found.score:.4f}\t{item}")


def _paired(why: str) -> Callable[[str], tuple[str, str]]:
    """Splits a line into its two texts."""

    def pair(item: str) -> tuple[str, str]:
        left, tab, right = item.partition("\t")
        if not tab:
            raise OptionError(f"{why}, but {short_repr(item)} is one text: expected two texts separated by a tab")
        return left, right

    return pair


def tag(arguments: argparse.Namespace) -> None:
    """Labelled spans, one per line; an empty line separates texts."""
    items = Texts(arguments)
    with load(arguments, "tag") as model:
        options = {
            "aggregation": arguments.aggregation,
            "ignore_labels": arguments.ignore_label or ["O"],
            "stride": arguments.stride,
            "progress": progress(arguments, writes=True),
        }
        for index, (item, found) in enumerate(items.results(lambda texts: model.tag(texts, **options))):
            if arguments.json:
                write_json({"text": item, "tags": found or []})
                continue
            if index:
                write("")
            for part in found or ():
                write(f"{part.label}\t{part.score:.4f}\t{part.start}-{part.end}\t{part.text}")


def answer(arguments: argparse.Namespace) -> None:
    """The answer from each context."""
    from ..models.arguments import is_text
    from ..models.feed import Feed, windows

    items = Texts(arguments)
    with load(arguments, "answer") as model:
        options = {
            "top_k": arguments.top_k,
            "allow_no_answer": arguments.allow_no_answer,
            "max_answer_tokens": arguments.max_answer_tokens,
            "window": arguments.window,
            "stride": arguments.stride,
        }

        def run(texts: Texts) -> Iterator[Any]:
            def ask(contexts: list[str]) -> list[Any]:
                found: list[Any] = model.answer([arguments.question] * len(contexts), contexts, **options)
                return found

            return windows(Feed(texts, is_text, "context"), ask, progress(arguments, writes=True), "answering")

        for _, result in items.results(run):
            if arguments.json:
                write_json(result or {"text": ""}, question=arguments.question)
            elif result is None:
                write("")
            else:
                for found in (result, *result.alternatives):
                    write(f"{found.text}\t{found.score:.4f}\t{found.start}-{found.end}")


def rank(arguments: argparse.Namespace) -> None:
    """Documents, best first; blank lines are counted and not ranked."""
    items = Texts(arguments)
    given = list(items.results(list))
    places = [place for place, (_, text) in enumerate(given) if text is not None]
    with load(arguments) as model:
        results = need(model, "rank", "rank")(
            arguments.query,
            [given[place][0] for place in places],
            top_k=arguments.top_k,
            scores=arguments.scores,
            query_prompt=arguments.query_prompt,
            document_prompt=arguments.document_prompt,
            truncate=arguments.truncate,
            progress=progress(arguments),
        )
    for result in results:
        if arguments.json:
            write_json(dataclasses.replace(result, index=places[result.index]))
        else:
            write(f"{result.score:.4f}\t{places[result.index]}\t{result.text}")


def fill_mask(arguments: argparse.Namespace) -> None:
    """Candidates, best first."""
    items = Texts(arguments)
    with load(arguments, "fill-mask") as model:
        options = {
            "top_k": arguments.top_k,
            "targets": arguments.target,
            "progress": progress(arguments, writes=True),
        }
        for item, result in items.results(lambda texts: model.fill_mask(texts, **options)):
            masks = [] if result is None else result if result and isinstance(result[0], list) else [result]
            if arguments.json:
                write_json({"text": item, "masks": masks})
                continue
            if result is None:
                write("")
            for candidates in masks:
                for found in candidates:
                    write(f"{found.score:.4f}\t{found.token}\t{found.text}")


def score(arguments: argparse.Namespace) -> None:
    """Sum of log-probabilities, perplexity and number of scored tokens of each text, by name; of an encoder-decoder of
    each target."""
    from ..models.arguments import is_text_or_pair
    from ..models.feed import Feed, windows

    items = Texts(arguments)
    with load(arguments) as model:
        run = need(model, "score", "score")
        shown = progress(arguments, writes=True)

        def results(texts: Texts) -> Iterator[Any]:
            if model.kind != "encoder-decoder":
                found: Iterator[Any] = run(texts, progress=shown)
                return found
            texts.convert = _paired("the model is an encoder-decoder")

            def targets(batch: list[Any]) -> list[Any]:
                scored: list[Any] = run([source for source, _ in batch], [target for _, target in batch])
                return scored

            return windows(Feed(texts, is_text_or_pair, "text"), targets, shown, "scoring")

        for item, result in items.results(results):
            if arguments.json:
                named: dict[str, Any] = {"logprob": None, "perplexity": None, "tokens": 0, "ids": [], "logprobs": []}
                if result is not None:
                    named = {
                        "logprob": result.total,
                        "perplexity": result.perplexity,
                        "tokens": len(result.logprobs),
                        "ids": result.ids,
                        "logprobs": result.logprobs,
                    }
                write_json(named, text=item)
            elif result is None:
                write("")
            else:
                write(f"logprob={result.total:.4f}\tperplexity={result.perplexity:.4f}\ttokens={len(result.logprobs)}")


def cached(arguments: argparse.Namespace) -> None:
    """Lists packed weights on disk, one file per line with its model, or removes them."""
    import time

    from .. import packed

    if arguments.clear is not None:
        freed = packed.clear(arguments.clear)
        if arguments.json:
            write_json({"freed": freed})
        else:
            write(f"removed {size(freed)}")
        return
    found = packed.files()
    for file in found:
        if arguments.json:
            write_json({**dataclasses.asdict(file), "path": str(file.path)})
        else:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.last_use))
            write(f"{size(file.bytes):>10}  {used}  {file.weights or '-':<4}  {file.model or file.path.name}")
    if not found and not arguments.json:
        root = packed.folder()
        write(f"nothing in {root}" if root is not None else f"off ({packed.VARIABLE})")
    elif not arguments.json:
        write(f"{size(sum(file.bytes for file in found)):>10}  in {packed.folder()}")
