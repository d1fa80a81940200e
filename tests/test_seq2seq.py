"""Encoder-decoders: languages, tasks, settings, variants and refusals of each family."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lapwing
from lapwing.models import languages

GOLDEN = Path(__file__).parent / "golden"
GREEDY: dict[str, Any] = {"beams": 1, "max_tokens": 8}


@cache
def model(name: str) -> Any:
    return lapwing.load(GOLDEN / name, weights="f32")


def copy(name: str, target: Path, **config: Any) -> Path:
    """A fixture with changed keys in config.json; None removes one."""
    folder = target / name
    shutil.copytree(GOLDEN / name, folder)
    values = {**json.loads((folder / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
    return folder


def change_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({k: v for k, v in {**values, **changes}.items() if v is not None}))


def change_tensors(folder: Path, **changes: Any) -> None:
    path = folder / "model.safetensors"
    values = {**load_file(path), **{name.replace("__", "."): value for name, value in changes.items()}}
    save_file({name: value for name, value in values.items() if value is not None}, path)


# -- languages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["deu_Latn", "de", "German", "DEU_LATN"])
def test_nllb_marks_the_source_and_forces_the_target(source: str) -> None:
    own = model("m2m_100-nllb")
    ids = own.tokenizer.encode("Hello, world!", add_special_tokens=False)
    german, french = (own.tokenizer.token_to_id(code) for code in ("deu_Latn", "fra_Latn"))
    found = own.translate("Hello, world!", source_lang=source, target_lang="French", **GREEDY)
    best = own.generate_ids([german, *ids, own.tokenizer.eos_token_id], forced_bos=french, **GREEDY)[0]
    assert found.ids == best.ids
    assert found.ids[0] == french
    assert "fra_Latn" not in found.text
    other = own.translate("Hello, world!", source_lang="rus_Cyrl", target_lang="eng_Latn", **GREEDY)
    assert other.ids[0] == own.tokenizer.token_to_id("eng_Latn")
    chunks = list(own.stream("Hello, world!", source_lang=source, target_lang="fr", max_tokens=8))
    assert "".join(chunk.text for chunk in chunks) == found.text


def test_old_nllb_marks_the_source_after_the_text(tmp_path: Path) -> None:
    folder = copy("m2m_100-nllb", tmp_path)
    change_json(folder / "tokenizer_config.json", legacy_behaviour=True)
    own, new = lapwing.load(folder, weights="f32"), model("m2m_100-nllb")
    ids = new.tokenizer.encode("Hello", add_special_tokens=False)
    german, english = (new.tokenizer.token_to_id(code) for code in ("deu_Latn", "eng_Latn"))
    best = new.generate_ids([*ids, new.tokenizer.eos_token_id, german], forced_bos=english, **GREEDY)[0]
    assert own.translate("Hello", source_lang="de", target_lang="en", **GREEDY).ids == best.ids


def test_first_mbart_starts_the_decoder_with_the_target(tmp_path: Path) -> None:
    own = model("mbart")
    tokens = own.tokenizer
    ids = [*tokens.encode("Hello", add_special_tokens=False), tokens.eos_token_id]
    german, french, romanian = (tokens.token_to_id(code) for code in ("de_DE", "fr_XX", "ro_RO"))

    def started(start: int) -> Any:
        folder = copy("mbart", tmp_path / str(start))
        change_json(folder / "generation_config.json", decoder_start_token_id=start)
        return lapwing.load(folder, weights="f32")

    best = started(french).generate_ids([*ids, german], **GREEDY)[0]
    assert own.translate("Hello", source_lang="de", target_lang="fr", **GREEDY).ids == best.ids
    # Without a target: the checkpoint's start token, Romanian.
    own_start = own.generate_ids([*ids, german], **GREEDY)[0]
    assert own.translate("Hello", source_lang="de_DE", **GREEDY).ids == own_start.ids
    assert started(romanian).generate_ids([*ids, german], **GREEDY)[0].ids == own_start.ids


def test_newer_mbart_marks_the_source_first_and_forces_the_target(tmp_path: Path) -> None:
    folder = copy("mbart", tmp_path)
    change_json(folder / "tokenizer_config.json", tokenizer_class="MBart50TokenizerFast")
    change_json(folder / "generation_config.json", decoder_start_token_id=2)
    own = lapwing.load(folder, weights="f32")
    tokens = own.tokenizer
    ids = [*tokens.encode("Hello", add_special_tokens=False), tokens.eos_token_id]
    german, french = (tokens.token_to_id(code) for code in ("de_DE", "fr_XX"))
    best = own.generate_ids([german, *ids], forced_bos=french, **GREEDY)[0]
    assert own.translate("Hello", source_lang="de", target_lang="fr", **GREEDY).ids == best.ids
    # The tokenizer's target applies only if the settings force none.
    romanian = own.translate("Hello", **GREEDY).ids[0]
    assert romanian == tokens.token_to_id("ro_RO")
    change_json(folder / "generation_config.json", forced_bos_token_id=french)
    assert lapwing.load(folder, weights="f32").translate("Hello", **GREEDY).ids[0] == french


def test_m2m_100_writes_languages_between_underscores(tmp_path: Path) -> None:
    from .test_tokenizer import RECORDED, recorded_folder

    case = next(case for case in RECORDED if case["class"] == "M2M100Tokenizer" and case["config"].get("src_lang"))
    folder = copy("m2m_100-nllb", tmp_path)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    recorded_folder(case, tmp_path)
    for name in (case["file"], "vocab.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / name, folder)
    own = lapwing.load(folder, weights="f32")
    row = case["texts"][0]
    text, (french, *rest) = row["text"], row["ids"]
    german = own.tokenizer.token_to_id("__de__")
    best = own.generate_ids([french, *rest], forced_bos=german, **GREEDY)[0]
    for target in ("de", "__de__", "German", "deu"):
        assert own.translate(text, target_lang=target, **GREEDY).ids == best.ids
    cebuano = own.translate(text, source_lang="ast", target_lang="ceb", **GREEDY)
    best = own.generate_ids(
        [own.tokenizer.token_to_id("__ast__"), *rest], forced_bos=own.tokenizer.token_to_id("__ceb__"), **GREEDY
    )[0]
    assert cebuano.ids == best.ids
    with pytest.raises(lapwing.OptionError, match="target_lang is needed"):
        own.translate(text)


def test_languages_in_the_text_are_text() -> None:
    own = model("m2m_100-nllb")
    found = own.translate("eng_Latn Hello rus_Cyrl", source_lang="de", target_lang="fr", **GREEDY)
    ids = own.tokenizer.encode("eng_Latn Hello rus_Cyrl")
    ids[0] = own.tokenizer.token_to_id("deu_Latn")
    french = own.tokenizer.token_to_id("fra_Latn")
    assert found.ids == own.generate_ids(ids, forced_bos=french, **GREEDY)[0].ids


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m2m_100-nllb", {"source_lang": "Germn", "target_lang": "en"}, "source_lang is 'Germn'.*'deu_Latn'"),
        ("m2m_100-nllb", {"target_lang": "zulu"}, "target_lang is 'zulu', which this checkpoint does not have"),
        ("m2m_100-nllb", {"target_lang": "</s>"}, "target_lang is '</s>'"),
        ("m2m_100-nllb", {"target_lang": 7}, "target_lang is 7: expected a string or None"),
        ("m2m_100-nllb", {"target_lang": "fr", "forced_bos": 7}, "remove one of them"),
        ("mbart", {"target_lang": "fr_FR"}, "target_lang is 'fr_FR'.*nearest are 'fr_XX'"),
        ("t5-v1_0", {"target_lang": "German"}, "must both be set"),
        ("t5-v1_0", {}, "the prompt of this model names them"),
        ("t5-v1_0", {"source_lang": "en", "target_lang": "Germn"}, "'Germn'.*nearest are 'German'"),
        ("bart", {"target_lang": "de"}, "has no languages"),
    ],
)
def test_languages_that_are_not_there_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(lapwing.OptionError, match=message):
        model(name).translate("Hello", **options)


def test_codes_without_a_script_are_found_where_there_is_one() -> None:
    known = ["ceb_Latn", "zho_Hans", "zho_Hant", "kas_Arab", "kas_Deva"]
    assert languages.code("ceb", known, "x") == "ceb_Latn"
    assert languages.code("Chinese", known, "x") == "zho_Hans"
    with pytest.raises(lapwing.OptionError, match="'kas_Arab', 'kas_Deva'"):
        languages.code("kas", known, "x")


# -- tasks ---------------------------------------------------------------------------------------------

PARAMS = {
    "summarization": {"prefix": "summarize: ", "max_length": 7, "min_length": 5, "num_beams": 3},
    "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 6, "num_beams": 2},
}


def test_t5_takes_prefixes_and_settings_from_its_tasks(tmp_path: Path) -> None:
    own = lapwing.load(copy("t5-v1_0", tmp_path, task_specific_params=PARAMS), weights="f32")

    def plain(text: str, **options: Any) -> Any:
        return own.generate(text, **options)

    # max_length counts the decoder's start token.
    wanted = plain("summarize: Hello", beams=3, max_tokens=6, min_tokens=4)
    assert own.summarize("Hello") == wanted
    assert len(wanted.ids) >= 4
    german = plain("translate English to German: Hello", beams=2, max_tokens=5)
    assert own.translate("Hello", source_lang="en", target_lang="de") == german
    assert own.translate("Hello", source_lang="English", target_lang="German") == german
    # A pair without settings uses only the words of the prompt.
    french = own.translate("Hello", source_lang="en", target_lang="fr", **GREEDY)
    assert french == plain("translate English to French: Hello", **GREEDY)
    assert own.summarize(["Hello", "you"], max_tokens=3) == [
        plain(f"summarize: {text}", beams=3, max_tokens=3, min_tokens=3) for text in ("Hello", "you")
    ]


def test_summaries_have_no_prefix_but_the_checkpoints(tmp_path: Path) -> None:
    own = model("mt5")
    assert own.summarize("Hello", **GREEDY) == own.generate("Hello", **GREEDY)
    with_prefix = lapwing.load(copy("mt5", tmp_path, prefix="tldr: "), weights="f32")
    assert with_prefix.summarize("Hello", **GREEDY) == own.generate("tldr: Hello", **GREEDY)


def test_long_texts_are_refused_or_split_on_request() -> None:
    own = model("pegasus")
    text = "The quick brown fox isn't over the dog. " * 8
    with pytest.raises(lapwing.ContextLengthError, match="at most 64"):
        own.translate(text)
    assert own.translate(text, split_sentences=True, **GREEDY).text


# -- settings of the checkpoint ------------------------------------------------------------------------


def test_settings_of_old_checkpoints_are_in_the_configuration(tmp_path: Path) -> None:
    settings = {
        "num_beams": 3,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 2,
        "min_length": 5,
        "max_length": 9,
        "forced_bos_token_id": 0,
    }
    folder = copy("bart", tmp_path, **settings)
    (folder / "generation_config.json").unlink()
    own, same = lapwing.load(folder, weights="f32"), model("bart")
    ids = [0, 20, 30, 40, 2]
    wanted = same.generate_ids(
        ids, beams=3, length_penalty=2.0, early_stopping=True, no_repeat_ngram_size=2, min_tokens=4, max_tokens=8
    )
    assert own.generate_ids(ids) == wanted
    assert len(wanted[0].ids) <= 8
    assert wanted[0].ids[0] == 0


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bart", ("decoder_start_token_id", "eos_token_id", "forced_eos_token_id", "activation_function")),
        ("pegasus", ("decoder_start_token_id", "eos_token_id", "forced_eos_token_id")),
        ("m2m_100-nllb", ("decoder_start_token_id", "eos_token_id", "scale_embedding", "activation_function")),
        ("t5-v1_0", ("decoder_start_token_id", "eos_token_id", "feed_forward_proj", "num_decoder_layers")),
        ("mt5", ("decoder_start_token_id", "eos_token_id", "feed_forward_proj", "num_decoder_layers")),
        ("umt5", ("decoder_start_token_id", "eos_token_id", "feed_forward_proj", "layer_norm_epsilon")),
        ("blenderbot", ("decoder_start_token_id", "eos_token_id", "encoder_no_repeat_ngram_size")),
        ("blenderbot-small", ("decoder_start_token_id", "eos_token_id", "forced_eos_token_id")),
    ],
)
def test_families_fill_in_what_the_configuration_omits(name: str, keys: tuple[str, ...], tmp_path: Path) -> None:
    whole, bare = copy(name, tmp_path / "whole"), copy(name, tmp_path / "bare", **dict.fromkeys(keys))
    for folder in (whole, bare):
        (folder / "generation_config.json").unlink()
    ids = [11, 20, 30, 2 if name[0] in "b" else 1]
    options = {"beams": 2, "max_tokens": 12}
    found = lapwing.load(bare, weights="f32").generate_ids(ids, **options)
    assert found == lapwing.load(whole, weights="f32").generate_ids(ids, **options)


# -- variants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t5-v1_0", "bart", "m2m_100-nllb", "pegasus", "mt5"])
def test_tied_tables_may_be_stored_under_every_name(name: str, tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    prefix = "" if name.endswith("t5") or name.startswith("t5") else "model__"
    stored = load_file(folder / "model.safetensors")
    table = stored[f"{prefix.replace('__', '.')}shared.weight"]
    both = {f"{prefix}{side}__embed_tokens__weight": table for side in ("encoder", "decoder")}
    language = {} if "lm_head.weight" in stored else {"lm_head__weight": table}
    own = model(name)
    for changes in ({**both, f"{prefix}shared__weight": None}, {**both, **language}):
        change_tensors(folder, **changes)
        found = lapwing.load(folder, weights="f32").decoder_logits([5, 6, 7], [2, 8])
        np.testing.assert_array_equal(found, own.decoder_logits([5, 6, 7], [2, 8]))


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("t5-v1_0", {"decoder__block__0__layer__1__EncDecAttention__relative_attention_bias__weight": (8, 4)}),
        ("bart", {"model__encoder__version": (1,), "model__decoder__version": (1,)}),
        ("m2m_100-nllb", {"model__encoder__embed_positions__weights": (66, 32), "final_logits_bias": (1, 320)}),
        ("bart", {"classification_head__dense__weight": (32, 32), "qa_outputs__bias": (2,)}),
    ],
)
def test_tensors_of_old_checkpoints_without_use_are_left(name: str, extra: dict[str, Any], tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    change_tensors(folder, **{key: np.ones(shape, np.float32) for key, shape in extra.items()})
    found = lapwing.load(folder, weights="f32").decoder_logits([5, 6], [2])
    np.testing.assert_array_equal(found, model(name).decoder_logits([5, 6], [2]))


@pytest.mark.parametrize("name", ["pegasus", "marian"])
def test_stored_sines_count(name: str, tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    stack = model(name).spec.encoder
    zeros = np.zeros((stack.stem.positions, stack.hidden_size), np.float32)
    change_tensors(folder, **{f"model__{side}__embed_positions__weight": zeros for side in ("encoder", "decoder")})
    other = lapwing.load(folder, weights="f32").encode([[5, 6, 7]])[0]
    assert not np.allclose(other, model(name).encode([[5, 6, 7]])[0])


def test_scores_of_t5_are_scaled_where_its_head_is_tied(tmp_path: Path) -> None:
    folder = copy("t5-v1_0", tmp_path)
    want = model("t5-v1_0").decoder_logits([5, 6], [0])
    width = model("t5-v1_0").spec.encoder.hidden_size
    for config, scale in (
        ({"tie_word_embeddings": False}, width**0.5),
        ({"tie_word_embeddings": True}, 1.0),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, width**0.5),
    ):
        change_json(folder / "config.json", **{"scale_decoder_outputs": None, **config})
        found = lapwing.load(folder, weights="f32").decoder_logits([5, 6], [0])
        np.testing.assert_allclose(found, want * scale, rtol=1e-5)


def test_encoder_of_t5_alone(tmp_path: Path) -> None:
    whole = model("t5-v1_0")
    encoder = lapwing.load(GOLDEN / "t5-v1_0", weights="f32", task="embed")
    np.testing.assert_array_equal(encoder.encode([[5, 6, 7]])[0], whole.encode([[5, 6, 7]])[0])
    mean = encoder.embed("Hello", normalize=False)
    states = whole.encode([whole.tokenizer.encode("Hello")])[0]
    np.testing.assert_allclose(mean, states.mean(axis=0), atol=1e-5)
    # The same from a folder of sentence-transformers.
    folder = copy("t5-v1_0", tmp_path)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    )
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_allclose(lapwing.load(folder, weights="f32").embed("Hello"), mean, atol=1e-6)


# -- heads ---------------------------------------------------------------------------------------------


def test_heads_read_the_last_end_token() -> None:
    own = model("bart-seqcls")
    ids = [5, 6, 2, 7, 2]
    first = own.head_logits([ids])[0]
    # Tokens after it reach the encoder alone.
    assert not np.allclose(own.head_logits([[*ids, 9]])[0], first, atol=1e-4)
    one_by_one = [own.head_logits([part])[0] for part in ([5, 2], ids, [9, 9, 9, 2])]
    together = own.head_logits([[5, 2], ids, [9, 9, 9, 2]])
    np.testing.assert_array_equal(np.stack(one_by_one), np.stack(together))
    with pytest.raises(lapwing.OptionError, match="have no end token"):
        own.head_logits([[5, 6]])


def test_heads_serve_texts(tmp_path: Path) -> None:
    folder = copy("bart", tmp_path, architectures=["BartForSequenceClassification"])
    random = np.random.default_rng(1)
    weights = {"dense": random.normal(size=(32, 32)), "out_proj": random.normal(size=(3, 32))}
    weights = {name: value.astype(np.float32) / 8 for name, value in weights.items()}
    zeros = {name: np.zeros(len(value), np.float32) for name, value in weights.items()}
    change_tensors(folder, **{f"classification_head__{name}__weight": value for name, value in weights.items()})
    change_tensors(folder, **{f"classification_head__{name}__bias": value for name, value in zeros.items()})
    own, whole = lapwing.load(folder, weights="f32"), model("bart")
    assert own.kind == "encoder"
    ids = own.tokenizer.encode_pair("Hello, world!", "another").ids
    state = whole.hidden_states(ids, [2, *ids[:-1]])[-1][-1]
    logits = np.tanh(state @ weights["dense"].T) @ weights["out_proj"].T
    np.testing.assert_allclose(own.head_logits([ids])[0], logits, atol=1e-5)
    scores = np.exp(logits) / np.exp(logits).sum()
    found = own.classify(("Hello, world!", "another"))
    assert found.label == f"LABEL_{scores.argmax()}"
    assert found.score == pytest.approx(float(scores.max()), abs=1e-5)


def test_heads_that_are_not_stored_are_named(tmp_path: Path) -> None:
    with pytest.raises(lapwing.OptionError, match=r"this checkpoint \(BartForConditionalGeneration\) has a head for"):
        lapwing.load(GOLDEN / "bart", task="classify")
    with pytest.raises(lapwing.CheckpointError, match=r"missing tensor head\.0\.weight"):
        lapwing.load(copy("bart", tmp_path, architectures=None), task="classify")


@pytest.mark.parametrize(("name", "count"), [("bart-seqcls", 3), ("t5-seqcls", 3), ("t5-tokcls", 5)])
def test_heads_tell_the_number_of_labels_where_the_configuration_does_not(
    name: str, count: int, tmp_path: Path
) -> None:
    own = lapwing.load(copy(name, tmp_path, id2label=None, label2id=None, num_labels=None), weights="f32")
    got = own.head_logits([[5, 2, 1]])[0]
    assert got.shape[-1] == count
    np.testing.assert_array_equal(got, model(name).head_logits([[5, 2, 1]])[0])
    with pytest.raises(lapwing.CheckpointError, match=r"has shape \[\d, 16\], expected \[4, 16\]"):
        lapwing.load(copy(name, tmp_path / "wrong", id2label={str(i): str(i) for i in range(4)}))


@pytest.mark.parametrize("start", [-1, 64, "x", [2], 1.5])
def test_impossible_start_tokens_of_heads_are_named(start: Any, tmp_path: Path) -> None:
    own = lapwing.load(copy("bart-seqcls", tmp_path, decoder_start_token_id=start))
    with pytest.raises(lapwing.CheckpointError, match=r"decoder_start_token_id is .* from 0 to 63"):
        own.head_logits([[5, 2]])


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("bart", {"architectures": ["BartForCausalLM"]}, "architectures is .*expected a whole encoder-decoder"),
        ("bart", {"architectures": ["BartForTokenClassification"]}, "expected a whole encoder-decoder"),
        ("bart", {"encoder_attention_heads": 5}, "encoder_attention_heads is 5: expected a divisor of d_model, 32"),
        ("bart", {"activation_function": "mish"}, "activation_function is 'mish'"),
        ("bart", {"max_position_embeddings": 63}, "has shape"),
        ("t5-v1_0", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj is"),
        ("t5-v1_0", {"feed_forward_proj": "twice-gelu"}, "feed_forward_proj is 'twice-gelu'"),
        ("t5-v1_0", {"relative_attention_num_buckets": 2}, "relative_attention_num_buckets is 2: expected at least 4"),
        ("t5-v1_0", {"relative_attention_max_distance": 1}, "relative_attention_max_distance is 1: expected more"),
        ("t5-v1_0", {"num_decoder_layers": 3}, "decoder.layers.2"),
        ("m2m_100-nllb", {"pad_token_id": -1}, "pad_token_id is -1"),
        ("m2m_100-nllb", {"d_model": 2}, "d_model is 2"),
    ],
)
def test_impossible_configurations_are_named(name: str, config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(lapwing.CheckpointError, match=message):
        lapwing.load(copy(name, tmp_path, **config))
