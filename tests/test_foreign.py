"""The tables of foreign names: every target exists, and the errors show them."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

import lapwing
from lapwing import foreign
from lapwing.__main__ import main
from lapwing.cli.parser import build
from lapwing.loading import TASKS
from lapwing.models.generation_config import HONOURED
from lapwing.models.options import GenerateOptions

from .refusals import fails, model

CLASSES = (lapwing.TextGenerator, lapwing.TextEncoder, lapwing.Seq2Seq)
METHODS = {name for kind in CLASSES for name in dir(kind) if not name.startswith("_")}
LOAD = set(inspect.signature(lapwing.load).parameters)


def options() -> set[str]:
    """The options of all public methods."""
    found = {*GenerateOptions.__annotations__, *inspect.signature(lapwing.Chat).parameters}
    for kind in CLASSES:
        for name in METHODS & set(dir(kind)):
            if callable(method := getattr(kind, name)):
                found |= set(inspect.signature(method).parameters)
    return found


def targets(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, part.partition("; ")[0]) for name, text in table.items() for part in text.split(" | ")]


def test_the_table_is_large() -> None:
    names = {*(key.partition("=")[0] for key in foreign.OPTIONS), *foreign.METHODS, *foreign.NAMES, *foreign.FLAGS}
    assert len(names) > 300


@pytest.mark.parametrize(("name", "target"), targets(foreign.OPTIONS))
def test_options_point_to_what_exists(name: str, target: str) -> None:
    if target == "-":
        return
    if target.startswith("."):
        assert target[1:] in METHODS
        return
    option, _, value = target.removeprefix("load.").partition("=")
    assert option in (LOAD if target.startswith("load.") else options())
    if value:
        assert isinstance(eval(value), bool | int | float | str | None)
    assert option != name or target.startswith("load.")  # an option never stands for itself


def test_an_own_option_of_a_method_is_not_foreign() -> None:
    assert not set(foreign.OPTIONS) & set(GenerateOptions.__annotations__)


@pytest.mark.parametrize(("name", "target"), [*targets(foreign.METHODS), *targets(foreign.NAMES)])
def test_methods_point_to_what_exists(name: str, target: str) -> None:
    if target.startswith("lapwing."):
        assert getattr(lapwing, target.removeprefix("lapwing.")) is not None
    elif target != "-":
        assert target[1:] in METHODS


def test_foreign_names_are_not_our_own() -> None:
    assert not set(foreign.METHODS) & METHODS
    assert not set(foreign.NAMES) & set(lapwing.__all__)


def test_every_setting_of_generation_config_is_known_as_an_option() -> None:
    assert set(HONOURED) <= {*GenerateOptions.__annotations__, *foreign.OPTIONS}


def test_values_are_those_of_the_options() -> None:
    from lapwing import loading
    from lapwing.models.tasks.tagging import AGGREGATIONS

    known = {
        "weights": loading.WEIGHTS,
        "kv_cache": loading.KV_CACHE,
        "activations": loading.ACTIVATIONS,
        "task": TASKS,
        "aggregation": AGGREGATIONS,
        "scores": ("auto", "softmax", "sigmoid", "none"),
    }
    assert set(foreign.VALUES) == set(known)
    for option, values in foreign.VALUES.items():
        assert set(values.values()) <= set(known[option])
        assert not set(values) & set(known[option])


def commands() -> dict[str, Any]:
    return next(action.choices for action in build()._actions if action.dest == "run" or action.choices)


def test_commands_and_flags_point_to_what_exists() -> None:
    known = commands()
    flags = {text for parser in known.values() for action in parser._actions for text in action.option_strings}
    assert set(foreign.COMMANDS.values()) <= set(known)
    assert not set(foreign.COMMANDS) & set(known)
    assert not set(foreign.FLAGS) & (flags - {"--prompt", "--text", "-i"})
    for text in foreign.FLAGS.values():
        assert set(re.findall(r"(?<!\w)--[a-z-]+", text)) <= flags


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: model("llama").generate("the", do_sample=False),
            "generate has no option do_sample=False: use temperature=0",
        ),
        (lambda: model("llama").generate("the", do_sample=True), "use temperature=1"),
        (lambda: model("llama").generate("the", max_new_tokens=5), "max_new_tokens=5: use max_tokens=5"),
        (lambda: model("llama").generate("the", stream=True), "use the method stream"),
        (lambda: model("llama").generate("the", temp=0.7), "use temperature=0.7"),
        (lambda: model("llama").generate("the", n_threads=2), "set threads=2 in lapwing.load"),
        (lambda: model("llama").generate("the", weights="q8"), "set weights='q8' in lapwing.load"),
        (lambda: model("llama").stream("the", stop_strings=["x"]), "use stop=['x']"),
        (lambda: model("llama").generate_ids([3], num_beams=2), "use beams=2"),
        (lambda: model("marian").translate("the", tgt_lang="de"), "use target_lang='de'"),
        (lambda: model("bert-sentence").embed("the", batch_size=8), "use batch_tokens (counts the tokens"),
        (lambda: model("bert-sentence").embed("the", show_progress_bar=True), "use progress=True"),
        (lambda: model("bert-sentence").embed("the", normalize_embeddings=True), "use normalize=True"),
        (lambda: model("bert-sentence").embed("the", device="cpu"), "leave it out: everything runs on the CPU"),
        (lambda: model("bert-sentence").embed("the", normalise=True), "did you mean normalize?"),
        (lambda: model("bert-tokcls").tag("the", aggregation_strategy="max"), "use aggregation='max'"),
        (lambda: model("bert-seqcls").classify("the", truncation=True), "use truncate=True"),
        (
            lambda: lapwing.load("x", torch_dtype="float16"),
            "load has no option torch_dtype='float16': use weights='f16'",
        ),
        (
            lambda: lapwing.Chat(model("qwen3"), max_new_tokens=3),
            "Chat has no option max_new_tokens=3: use max_tokens=3",
        ),
        (lambda: lapwing.Chat(model("qwen3"), system_prompt="x"), "use system='x'"),
        (lambda: model("qwen3").chat([], system="x"), "a message {'role': 'system'"),
        (lambda: lapwing.load("x", device_map="auto"), "leave it out: everything runs on the CPU"),
        (lambda: lapwing.load("x", n_ctx=2048), "leave it out: the context has the length of the model"),
        (lambda: lapwing.load("x", load_in_4bit=True), "use weights='q4'"),
        (lambda: lapwing.load("x", inter_threads=2), "one engine computes all calls together"),
        (lambda: lapwing.load("x", weights="int8"), "it is 'q8' here"),
        (lambda: lapwing.load("x", task="text-generation"), "it is 'generate' here"),
        (lambda: lapwing.load("x", task="translation_en_to_de"), "it is 'translate' here"),
    ],
)
def test_errors_name_the_right_option(call: Callable[[], Any], words: str) -> None:
    fails(lapwing.OptionError, call, words)


@pytest.mark.parametrize(
    ("name", "attribute", "words"),
    [
        ("llama", "create_chat_completion", "use chat"),
        ("llama", "predict", "use generate"),
        ("bert-seqcls", "predict", "use classify"),
        ("llama", "classify", "only an encoder (TextEncoder) has it"),
        ("llama", "translate_batch", "use translate of an encoder-decoder (Seq2Seq)"),
        ("marian", "translate_batch", "use translate (takes a list of texts)"),
        ("marian", "to", "everything runs on the CPU"),
        ("llama", "from_pretrained", "use lapwing.load"),
        ("llama", "genrate", "did you mean generate"),
        ("llama", "zzzzzzzz", "no attribute 'zzzzzzzz'"),
    ],
)
def test_attributes_that_others_have(name: str, attribute: str, words: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(words)):
        getattr(model(name), attribute)
    assert not hasattr(model(name), attribute)
    assert getattr(model(name), attribute, 3) == 3


def test_models_are_copied_and_pickled_as_before() -> None:
    own = model("llama")
    for other in (copy.copy(own), copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert other.generate("the", max_tokens=3).ids == own.generate("the", max_tokens=3).ids
    with pytest.raises(AttributeError):
        own.__array__  # noqa: B018
    assert list(inspect.signature(own.generate).parameters)[:2] == ["prompt", "progress"]


def test_names_of_tokenizers() -> None:
    own = model("bert-seqcls").tokenizer
    for _, target in targets(foreign.TOKENIZER):
        assert target == "-" or target == "lapwing.Tokenizer" or hasattr(own, target[1:])
    assert not [name for name in foreign.TOKENIZER if hasattr(own, name)]
    with pytest.raises(AttributeError, match="use encode_batch"):
        own.batch_encode_plus(["the"])
    with pytest.raises(AttributeError, match="use max_length"):
        own.model_max_length  # noqa: B018
    with pytest.raises(AttributeError, match="use specials"):
        own.special_tokens_map  # noqa: B018
    fails(
        lapwing.OptionError, lambda: own.encode("the", return_tensors="pt"), "encode has no option return_tensors='pt'"
    )
    fails(lapwing.OptionError, lambda: own.encode("the", padding=True), "need no padding")
    assert copy.copy(own).encode("the") == own.encode("the")


@pytest.mark.parametrize("name", ["pipeline", "AutoModelForCausalLM", "SentenceTransformer", "Llama", "Translator"])
def test_names_of_the_package(name: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}': use lapwing.load"):
        getattr(lapwing, name)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("generate M hi --max-new-tokens 5", "--max-new-tokens: use --max-tokens 5"),
        ("generate M hi --max-new-tokens=5", "--max-new-tokens: use --max-tokens 5"),
        ("generate M hi --num-beams 5", "--num-beams: use --beams 5"),
        ("generate M -p hi", "-p: texts are arguments after the model"),
        ("generate -m M -p hi", "-m: the model is the first argument"),
        ("generate M hi --temp 0.3 --n-gpu-layers 3", "--n-gpu-layers: leave it out: everything runs on the CPU"),
        ("generate M hi --do-sample false", "--do-sample: use --temperature 0"),
        ("generate M hi --bad-words-ids 3", "--bad-words-ids: use -o bad_words=3"),
        ("generate M hi --n-threads 2", "--n-threads: use --threads 2"),
        ("chat M --temp 0.3", "use --temperature"),
        ("chat M --maxtokens 3", "--maxtokens: did you mean --max-tokens"),
        ("translate M hi --tgt-lang de", "--tgt-lang: use --to de"),
        ("embed M hi --normalize-embeddings", "--normalize-embeddings: use --normalize"),
        ("embed M hi --batch-size 3", "--batch-size: leave it out: a list is computed as a batch"),
        ("generate M hi -w int8", "it is q8 here"),
        ("tag M hi --aggregation mean", "it is average here"),
        ("encode M hi", "use embed"),
        ("transalte M hi", "did you mean translate?"),
    ],
)
def test_the_command_line_names_the_right_flag(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert words in capsys.readouterr().err


def results() -> dict[str, type]:
    return {name: kind for name, kind in vars(lapwing.results).items() if hasattr(kind, "__dataclass_fields__")}


def test_attributes_of_results_point_to_what_exists() -> None:
    known = {name for kind in results().values() for name in dir(kind)} | {
        name for kind in results().values() for name in kind.__dataclass_fields__
    }
    assert set(foreign.RESULTS.values()) <= known


def test_results_name_the_right_attribute() -> None:
    found = model("llama").generate("the", max_tokens=2)
    for name in ("generated_text", "choices", "outputs"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; use .text"):
            getattr(found, name)
        assert not hasattr(found, name)
        with pytest.raises(TypeError, match=f"no items, such as '{name}'; use .text"):
            found[name]
    with pytest.raises(TypeError, match="one text gives one result, and a list of texts a list"):
        found[0]
    with pytest.raises(TypeError, match=r"use \.text"):
        found["text"]
    with pytest.raises(AttributeError, match=r"it has .*generated_tokens"):
        found.zzz  # noqa: B018
    label = model("bert-seqcls").classify("the")
    with pytest.raises(TypeError, match=r"use \.label"):
        label["label"]
    for one in (found, label):
        assert copy.deepcopy(one) == one == pickle.loads(pickle.dumps(one))
