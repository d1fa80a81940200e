"""Commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .. import __version__

Run = Callable[[argparse.Namespace], int | None]


def _lazy(module: str, name: str) -> Run:
    """The function of a command, imported when it runs, so that the help is there at once."""

    def run(arguments: argparse.Namespace) -> int | None:
        function: Run = getattr(import_module(f".{module}", __package__), name)
        return function(arguments)

    return run


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return value


_GENERATION: tuple[tuple[str, Any, str], ...] = (
    ("max-tokens", int, "new tokens at most"),
    ("min-tokens", int, "new tokens at least"),
    ("temperature", float, "0 takes the likeliest token; above 0 draws"),
    ("top-k", int, "draw from the k likeliest tokens"),
    ("top-p", float, "draw from the likeliest tokens that make up this probability"),
    ("min-p", float, "draw from tokens at least so likely, relative to the likeliest"),
    ("typical-p", float, "draw from typical tokens that make up this probability"),
    ("seed", int, "makes draws repeatable"),
    ("beams", int, "width of the beam search"),
    ("num-hypotheses", int, "how many hypotheses of a beam search to show"),
    ("n", int, "how many texts to draw"),
    ("length-penalty", float, "above 0 favours longer texts in a beam search"),
    ("repetition-penalty", float, "above 1 makes tokens that were there unlikelier"),
    ("presence-penalty", float, "subtracted from tokens that were there"),
    ("frequency-penalty", float, "subtracted from tokens each time they were there"),
    ("no-repeat-ngram-size", int, "no sequence of so many tokens comes twice"),
    ("logprobs", int, "report log-probabilities, with so many alternatives (with --json)"),
)


def _setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``; a value that is no JSON is a text."""
    import json

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="folder, hub id, or built-in id (lapwing/tiny-en-de, lapwing/tiny-shakespeare)",
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "-w",
        "--weights",
        default="auto",
        choices=("auto", "stored", "f32", "bf16", "f16", "q8", "q4"),
        help="how matrices are kept (default: auto)",
    )
    group.add_argument(
        "--activations",
        default="int16",
        choices=("int16", "int8", "bf16"),
        help="inputs of products: int8 with q8 weights, bf16 with bf16 weights are faster on some machines and less exact "
        "(default: int16)",
    )
    group.add_argument(
        "--kv-cache",
        default="auto",
        choices=("auto", "f32", "f16", "q8"),
        help="type of cached keys and values (default: auto)",
    )
    group.add_argument("-t", "--threads", type=_positive, help="threads that compute")
    group.add_argument("--revision", help="branch, tag or commit on the hub")
    group.add_argument("--offline", action="store_true", help="use the local cache of the hub alone")
    group.add_argument(
        "--packed-cache",
        action=argparse.BooleanOptionalAction,
        help="keep packed weights on disk for the next load, or keep and use none (default: large quantized models)",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress")


def _input(parser: argparse.ArgumentParser, *, lines: bool) -> None:
    group = parser.add_argument_group("input and output")
    group.add_argument(
        "-f",
        "--file",
        action="append",
        metavar="FILE",
        help="read texts from a file (- is standard input)",
    )
    unit = group.add_mutually_exclusive_group()
    default = "lines" if lines else "whole"
    unit.add_argument(
        "--lines",
        dest="unit",
        action="store_const",
        const="lines",
        help="each line of the input is a text; empty ones are left out",
    )
    unit.add_argument("--whole", dest="unit", action="store_const", const="whole", help="each input is one text")
    parser.set_defaults(unit=default)
    _json(group)


def _json(group: Any) -> None:
    group.add_argument("--json", action="store_true", help="one JSON object a line")


def _generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generation")
    for name, kind, text in _GENERATION:
        group.add_argument(f"--{name}", type=kind, help=text)
    group.add_argument("--stop", action="append", metavar="TEXT", help="end at this text (may be repeated)")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="go on past end tokens")
    group.add_argument(
        "-o",
        "--option",
        action="append",
        type=_setting,
        default=[],
        metavar="NAME=VALUE",
        help="any other option of generation, its value as JSON: -o top_h=0.4 -o 'bad_words=[\"man\"]' (may be repeated)",
    )


def build() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="lapwing",
        description="Transformer language models on CPUs, from plain Hugging Face checkpoints.",
    )
    parser.add_argument("--version", action="version", version=f"lapwing {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, text: str, module: str = "commands", function: str = "") -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=_lazy(module, function or name.replace("-", "_")))
        return found

    generate = command("generate", "continue a text (or rewrite it, with an encoder-decoder)")
    _model(generate)
    generate.add_argument("text", nargs="*", help="prompts")
    _input(generate, lines=False)
    generate.add_argument("--no-stream", action="store_true", help="print a text when it is complete")
    _generation(generate)

    chat = command("chat", "talk with a model", "talk", "chat")
    _model(chat)
    chat.add_argument("--system", help="system message")
    chat.add_argument("--template", help="name of one of the checkpoint's chat templates, or a template itself")
    chat.add_argument(
        "--set",
        action="append",
        type=_setting,
        default=[],
        metavar="NAME=VALUE",
        help="a name that the template knows, its value as JSON: --set enable_thinking=false (may be repeated)",
    )
    chat.add_argument("--tools", metavar="FILE", help="JSON list of tools that the template offers")
    chat.add_argument("--documents", metavar="FILE", help="JSON list of documents that the template shows")
    _json(chat)
    _generation(chat)

    translate = command("translate", "translate texts")
    _model(translate)
    translate.add_argument("text", nargs="*", help="texts")
    translate.add_argument("--from", dest="source_lang", metavar="LANGUAGE", help="language of the texts")
    translate.add_argument("--to", dest="target_lang", metavar="LANGUAGE", help="language to translate into")
    translate.add_argument("--split-sentences", action="store_true", help="translate each sentence alone")
    _input(translate, lines=True)
    _generation(translate)

    summarize = command("summarize", "summarize texts")
    _model(summarize)
    summarize.add_argument("text", nargs="*", help="texts")
    _input(summarize, lines=False)
    _generation(summarize)

    embed = command("embed", "vectors of texts: numbers a line, or JSON, or a .npy file")
    _model(embed)
    embed.add_argument("text", nargs="*", help="texts")
    embed.add_argument("--output", metavar="FILE", help="write a float32 array [texts, dim] as .npy")
    embed.add_argument("--prompt-name", help="one of the checkpoint's prompts, such as query")
    embed.add_argument("--prompt", help="text to put before each text")
    embed.add_argument(
        "--truncate",
        action=argparse.BooleanOptionalAction,
        help="cut texts that are too long, or refuse them (default: as the checkpoint says)",
    )
    embed.add_argument("--max-tokens", type=_positive, help="longest text in tokens")
    embed.add_argument("--dim", type=_positive, help="keep the first dimensions only")
    embed.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="unit length")
    _input(embed, lines=True)

    classify = command("classify", "labels of texts")
    _model(classify)
    classify.add_argument("text", nargs="*", help="texts")
    classify.add_argument("--pairs", action="store_true", help="each text is two, set apart by a tab")
    classify.add_argument("--top-k", type=_positive, help="how many labels to show (default: 1; all with --json)")
    classify.add_argument(
        "--scores",
        default="auto",
        choices=("auto", "softmax", "sigmoid", "none"),
        help="one label of several, each label alone, raw logits, or as the checkpoint says (default: auto)",
    )
    classify.add_argument("--truncate", action="store_true", help="cut texts that are too long")
    _input(classify, lines=True)

    tag = command("tag", "labelled stretches of texts, such as names")
    _model(tag)
    tag.add_argument("text", nargs="*", help="texts")
    tag.add_argument(
        "--aggregation",
        default="simple",
        choices=("none", "simple", "first", "average", "max"),
        help="each token, adjacent tokens of one label, or words by their tokens' labels (default: simple)",
    )
    tag.add_argument("--ignore-label", action="append", metavar="LABEL", help="leave out (may be repeated; default: O)")
    tag.add_argument("--stride", type=int, help="read long texts in windows that share so many tokens")
    _input(tag, lines=True)

    answer = command("answer", "answer a question from texts")
    _model(answer)
    answer.add_argument("question", help="the question")
    answer.add_argument("text", nargs="*", help="contexts")
    answer.add_argument("--top-k", type=_positive, default=1, help="how many answers to show")
    answer.add_argument("--max-answer-tokens", type=_positive, default=15, help="longest answer (default: 15)")
    answer.add_argument("--window", type=_positive, default=384, help="tokens read at once (default: 384)")
    answer.add_argument("--stride", type=int, default=128, help="tokens that windows share (default: 128)")
    answer.add_argument("--allow-no-answer", action="store_true", help="let 'no answer' win, as an empty line")
    _input(answer, lines=False)

    rank = command("rank", "texts by relevance for a query")
    _model(rank)
    rank.add_argument("query", help="the query")
    rank.add_argument("text", nargs="*", help="documents")
    rank.add_argument("--top-k", type=_positive, help="how many to show")
    rank.add_argument(
        "--scores",
        default="auto",
        choices=("auto", "sigmoid", "none"),
        help="of a cross-encoder: probabilities, raw logits, or as the checkpoint says (default: auto)",
    )
    rank.add_argument("--query-prompt", metavar="TEXT", help="of an embedding model: text before the query")
    rank.add_argument("--document-prompt", metavar="TEXT", help="of an embedding model: text before each document")
    rank.add_argument(
        "--truncate",
        action=argparse.BooleanOptionalAction,
        help="cut documents that are too long, or refuse them (default: as the checkpoint says)",
    )
    _input(rank, lines=True)

    fill = command("fill-mask", "candidates for a mask token in texts")
    _model(fill)
    fill.add_argument("text", nargs="*", help="texts with a mask token")
    fill.add_argument("--top-k", type=_positive, default=5, help="how many to show (default: 5)")
    fill.add_argument("--target", action="append", metavar="TOKEN", help="a candidate to choose from (may be repeated)")
    _input(fill, lines=True)

    score = command("score", "log-probability and perplexity of texts")
    _model(score)
    score.add_argument("text", nargs="*", help="texts")
    _input(score, lines=False)

    info = command("info", "facts about a model, or about this installation without one")
    _model(info)
    for action in info._actions:
        if action.dest == "model":
            action.nargs = "?"
    _json(info)

    cache = command("cache", "packed weights that are kept on disk", "commands", "cached")
    cache.add_argument("--clear", action="store_true", help="remove them")
    _json(cache)

    demo = command("demo", "translations, text and similarities from the built-in models", "demo", "demo")
    demo.add_argument("-t", "--threads", type=_positive, help="threads that compute")

    bench = command("bench", "measure a model's speed on this machine, beside the machine's own", "bench")
    _model(bench)
    bench.add_argument("--prompt", type=_positive, help="tokens of a decoder's prompt (default: 512, or what fits)")
    bench.add_argument("--tokens", type=_positive, help="new tokens of a run (default: 32)")
    bench.add_argument("--context", type=_positive, help="decode after so many tokens, too (always: after 16)")
    bench.add_argument("--batch", type=_positive, default=8, help="texts at once (default: 8)")
    bench.add_argument("--rounds", type=_positive, default=5, help="rounds of all measurements (default: 5)")
    _json(bench)
    return parser
