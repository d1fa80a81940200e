"""Commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .. import __version__
from .hints import Parser

Run = Callable[[argparse.Namespace], int | None]


def _lazy(module: str, name: str) -> Run:
    """The function of a command, imported when it runs, so that the help is fast."""

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
    ("max-tokens", int, "maximum number of new tokens"),
    ("min-tokens", int, "minimum number of new tokens"),
    ("temperature", float, "0 is greedy; above 0 samples"),
    ("top-k", int, "sample from the k most probable tokens"),
    ("top-p", float, "sample from the most probable tokens with this total probability"),
    ("min-p", float, "sample from tokens with at least this probability relative to the most probable"),
    ("typical-p", float, "sample from the most typical tokens with this total probability"),
    ("seed", int, "makes samples reproducible"),
    ("beams", int, "width of the beam search"),
    ("num-hypotheses", int, "number of hypotheses of a beam search to show"),
    ("n", int, "number of texts to sample"),
    ("length-penalty", float, "above 0 favours longer texts in a beam search"),
    ("repetition-penalty", float, "above 1 lowers the probability of tokens that have occurred"),
    ("presence-penalty", float, "subtracted from the logits of tokens that have occurred"),
    ("frequency-penalty", float, "subtracted from the logits of tokens for each occurrence"),
    ("no-repeat-ngram-size", int, "no n-gram of this size occurs twice"),
    ("logprobs", int, "report log-probabilities with this many alternatives (with --json)"),
)


def setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``; a value that is not JSON is a string."""
    import json

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value


def _model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    parser.add_argument(
        "model",
        nargs="?" if optional else None,
        help="folder, hub id, or built-in id (lapwing/tiny-en-de, lapwing/tiny-shakespeare)",
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "-w",
        "--weights",
        default="auto",
        choices=("auto", "stored", "f32", "bf16", "f16", "q8", "q4"),
        help="type of the weights (default: auto)",
    )
    group.add_argument(
        "--activations",
        default="int16",
        choices=("int16", "int8", "bf16"),
        help="rounding of activations: int8 (q8 weights only) and bf16 (bf16 weights only) are faster on some machines "
        "and less accurate (default: int16)",
    )
    group.add_argument(
        "--kv-cache",
        default="auto",
        choices=("auto", "f32", "f16", "q8"),
        help="type of cached keys and values (default: auto)",
    )
    group.add_argument("-t", "--threads", type=_positive, help="number of compute threads")
    group.add_argument("--revision", help="branch, tag or commit on the hub")
    group.add_argument("--offline", action="store_true", help="use only the local cache of the hub")
    group.add_argument(
        "--packed-cache",
        action=argparse.BooleanOptionalAction,
        help="cache packed weights on disk for the next load (default: for large quantized models)",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress, nor that of downloads")


def _input(parser: argparse.ArgumentParser, *, lines: bool) -> None:
    group = parser.add_argument_group("input and output")
    group.add_argument(
        "-f",
        "--file",
        action="append",
        metavar="FILE",
        help="read texts from a file (-: standard input)",
    )
    unit = group.add_mutually_exclusive_group()
    default = "lines" if lines else "whole"
    unit.add_argument(
        "--lines",
        dest="unit",
        action="store_const",
        const="lines",
        help="each line of the input is a text; a blank line gives a blank line",
    )
    unit.add_argument("--whole", dest="unit", action="store_const", const="whole", help="each input is one text")
    parser.set_defaults(unit=default)
    _json(group)


def _json(group: Any) -> None:
    group.add_argument("--json", action="store_true", help="print one JSON object per line")


def _generation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generation")
    for name, kind, text in _GENERATION:
        group.add_argument(f"--{name}", type=kind, help=text)
    group.add_argument("--stop", action="append", metavar="TEXT", help="end at this text (may be repeated)")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="continue past end tokens")
    group.add_argument(
        "-o",
        "--option",
        action="append",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="any other option of generation, with the value as JSON: -o top_h=0.4 -o 'bad_words=[\"man\"]' "
        "(may be repeated)",
    )


def build() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="lapwing",
        description="Transformer language models on CPUs, from plain Hugging Face checkpoints.",
    )
    parser.add_argument("--version", action="version", version=f"lapwing {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, text: str, module: str = "commands", function: str = "") -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=_lazy(module, function or name.replace("-", "_")), parser=found)
        return found

    generate = command("generate", "continue a text (or transform it, with an encoder-decoder)")
    _model(generate)
    generate.add_argument("text", nargs="*", help="prompts")
    _input(generate, lines=False)
    generate.add_argument("--no-stream", action="store_true", help="print a text only when it is complete")
    _generation(generate)

    chat = command("chat", "chat with a model", "talk", "chat")
    _model(chat)
    chat.add_argument("--system", help="system message")
    chat.add_argument("--template", help="name of a chat template of the checkpoint, or a template")
    chat.add_argument(
        "--set",
        action="append",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="a template variable, with the value as JSON: --set enable_thinking=false (may be repeated)",
    )
    chat.add_argument("--tools", metavar="FILE", help="JSON list of tools for the template")
    chat.add_argument("--documents", metavar="FILE", help="JSON list of documents for the template")
    _json(chat)
    _generation(chat)

    translate = command("translate", "translate texts")
    _model(translate)
    translate.add_argument("text", nargs="*", help="texts")
    translate.add_argument("--from", dest="source_lang", metavar="LANGUAGE", help="language of the texts")
    translate.add_argument("--to", dest="target_lang", metavar="LANGUAGE", help="language to translate into")
    translate.add_argument("--target-prefix", metavar="TEXT", help="beginning of each translation")
    translate.add_argument("--split-sentences", action="store_true", help="translate sentence by sentence")
    _input(translate, lines=True)
    _generation(translate)

    summarize = command("summarize", "summarize texts")
    _model(summarize)
    summarize.add_argument("text", nargs="*", help="texts")
    _input(summarize, lines=False)
    _generation(summarize)

    embed = command("embed", "embeddings of texts: a line of numbers each, or JSON, or a .npy file")
    _model(embed)
    embed.add_argument("text", nargs="*", help="texts")
    embed.add_argument("--output", metavar="FILE", help="write a float32 array [texts, dim] as .npy")
    embed.add_argument("--prompt-name", help="name of a prompt of the checkpoint, such as query")
    embed.add_argument("--prompt", help="text to prepend to each text")
    embed.add_argument(
        "--truncate",
        action=argparse.BooleanOptionalAction,
        help="truncate long texts, or refuse them (default: as the checkpoint specifies)",
    )
    embed.add_argument("--max-tokens", type=_positive, help="maximum length of a text in tokens")
    embed.add_argument("--dim", type=_positive, help="keep only the first dimensions")
    embed.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="scale to unit length")
    _input(embed, lines=True)

    classify = command("classify", "labels of texts")
    _model(classify)
    classify.add_argument("text", nargs="*", help="texts")
    classify.add_argument("--pairs", action="store_true", help="each line is two texts, separated by a tab")
    classify.add_argument("--top-k", type=_positive, help="number of labels to show (default: 1; all with --json)")
    classify.add_argument(
        "--scores",
        default="auto",
        choices=("auto", "softmax", "sigmoid", "none"),
        help="exclusive labels, independent labels, raw logits, or as the checkpoint specifies (default: auto)",
    )
    classify.add_argument(
        "--label",
        action="append",
        metavar="LABEL",
        help="zero-shot: score this label with an NLI model (may be repeated)",
    )
    classify.add_argument("--hypothesis", metavar="TEXT", help="zero-shot: a sentence with {} in place of the label")
    classify.add_argument("--multi-label", action="store_true", help="zero-shot: labels are independent")
    classify.add_argument("--truncate", action="store_true", help="truncate long texts")
    _input(classify, lines=True)

    tag = command("tag", "labelled spans of texts, such as names")
    _model(tag)
    tag.add_argument("text", nargs="*", help="texts")
    tag.add_argument(
        "--aggregation",
        default="simple",
        choices=("none", "simple", "first", "average", "max"),
        help="single tokens, adjacent tokens of one label, or words labelled by their tokens (default: simple)",
    )
    tag.add_argument(
        "--ignore-label", action="append", metavar="LABEL", help="label to omit (may be repeated; default: O)"
    )
    tag.add_argument("--stride", type=int, help="read long texts in windows that overlap by this many tokens")
    _input(tag, lines=True)

    answer = command("answer", "answer a question from texts")
    _model(answer)
    answer.add_argument("question", help="the question")
    answer.add_argument("text", nargs="*", help="contexts")
    answer.add_argument("--top-k", type=_positive, default=1, help="number of answers to show (default: 1)")
    answer.add_argument(
        "--max-answer-tokens", type=_positive, default=15, help="maximum length of an answer in tokens (default: 15)"
    )
    answer.add_argument("--window", type=_positive, default=384, help="tokens per window (default: 384)")
    answer.add_argument("--stride", type=int, default=128, help="overlap of windows in tokens (default: 128)")
    answer.add_argument("--allow-no-answer", action="store_true", help="allow 'no answer', shown as an empty text")
    _input(answer, lines=False)

    rank = command("rank", "sort texts by relevance to a query")
    _model(rank)
    rank.add_argument("query", help="the query")
    rank.add_argument("text", nargs="*", help="documents")
    rank.add_argument("--top-k", type=_positive, help="number of texts to show")
    rank.add_argument(
        "--scores",
        default="auto",
        choices=("auto", "sigmoid", "none"),
        help="for a cross-encoder: probabilities, raw logits, or as the checkpoint specifies (default: auto)",
    )
    rank.add_argument("--query-prompt", metavar="TEXT", help="for an embedding model: text to prepend to the query")
    rank.add_argument(
        "--document-prompt", metavar="TEXT", help="for an embedding model: text to prepend to each document"
    )
    rank.add_argument(
        "--truncate",
        action=argparse.BooleanOptionalAction,
        help="truncate long documents, or refuse them (default: as the checkpoint specifies)",
    )
    _input(rank, lines=True)

    fill = command("fill-mask", "candidates for a mask token in texts")
    _model(fill)
    fill.add_argument("text", nargs="*", help="texts with a mask token")
    fill.add_argument("--top-k", type=_positive, default=5, help="number of candidates to show (default: 5)")
    fill.add_argument(
        "--target", action="append", metavar="TOKEN", help="restrict the candidates to this one (may be repeated)"
    )
    _input(fill, lines=True)

    explain = command("explain", "contributions of input tokens to a prediction, or the logit lens", "explain")
    _model(explain)
    explain.add_argument("text", nargs="*", help="texts, or prompts")
    explain.add_argument(
        "--target",
        metavar="TEXT",
        help="the label, filled token, continuation or translation to explain (default: the model's own)",
    )
    explain.add_argument(
        "--method",
        choices=("occlusion", "shapley", "rollout"),
        help="remove tokens one by one, remove many together, or follow the attention (default: occlusion)",
    )
    explain.add_argument(
        "--removal",
        choices=("auto", "mask", "unk", "delete"),
        help="how tokens are removed (default: mask for encoders with a mask token, else delete)",
    )
    explain.add_argument("--samples", type=_positive, help="orders of tokens for Shapley values (default: 16)")
    explain.add_argument("--seed", type=int, help="makes Shapley values reproducible (default: 0)")
    explain.add_argument(
        "--max-tokens", type=_positive, help="maximum length of a decoder's continuation (default: 16)"
    )
    explain.add_argument("--from", dest="source_lang", metavar="LANGUAGE", help="language of the texts")
    explain.add_argument("--to", dest="target_lang", metavar="LANGUAGE", help="language of the target")
    explain.add_argument("--logit-lens", action="store_true", help="show the tokens that each layer predicts")
    explain.add_argument("--top", type=_positive, help="tokens of the logit lens for each layer (default: 5)")
    explain.add_argument("--html", metavar="FILE", help="write a picture instead of text")
    _input(explain, lines=True)

    score = command("score", "log-probability and perplexity of texts")
    _model(score)
    score.add_argument("text", nargs="*", help="texts; for an encoder-decoder a source, a tab and a target each")
    _input(score, lines=False)

    info = command("info", "facts about a model from its headers, or about this installation", "info")
    _model(info, optional=True)
    _json(info)

    cache = command("cache", "list or remove packed weights on disk", "commands", "cached")
    cache.add_argument("--clear", nargs="*", metavar="MODEL", help="remove all, or those of the named models")
    _json(cache)

    demo = command("demo", "translations, text and similarities from the built-in models", "demo", "demo")
    demo.add_argument("-t", "--threads", type=_positive, help="number of compute threads")

    bench = command("bench", "measure a model's speed against the roofline of this machine", "bench")
    _model(bench)
    bench.add_argument("--prompt", type=_positive, help="tokens of a decoder's prompt (default: 512, or what fits)")
    bench.add_argument("--tokens", type=_positive, help="new tokens per run (default: 32)")
    bench.add_argument("--context", type=_positive, help="also decode after this many tokens (always: after 16)")
    bench.add_argument("--batch", type=_positive, default=8, help="texts per batch (default: 8)")
    bench.add_argument("--rounds", type=_positive, default=5, help="rounds of all measurements (default: 5)")
    _json(bench)
    return parser
