"""Tasks of encoders through the public interface, on real and on tiny weights."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing
from lapwing.models.tasks import tagging, windows

from .loaded import GOLDEN, expected, minilm, model, tensors


def test_minilm_equals_transformers() -> None:
    own = minilm()
    entries = expected("minilm")
    vectors = own.embed(entries["texts"])
    assert vectors.dtype == np.float32
    assert np.abs(vectors - tensors("minilm")["embeddings"]).max() < 2e-6
    limit = entries["max_tokens"]
    for text, ids in zip(entries["texts"], entries["ids"], strict=True):
        if len(ids) < limit:
            assert own.tokenizer.encode(text) == ids
    for name, states in tensors("minilm").items():
        if name.startswith("hidden."):
            found = own.encode([entries["ids"][int(name.split(".")[1])]])[0]
            np.testing.assert_allclose(found, states, atol=2e-5)


def test_embeddings_do_not_depend_on_the_batch() -> None:
    own = minilm()
    texts = expected("minilm")["texts"][:8]
    together = own.embed(texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(own.embed(text), vector)
    assert np.array_equal(own.embed(texts, batch_tokens=1), together)
    assert own.embed([]).shape == (0, 384)


def test_long_texts_are_cut_as_the_checkpoint_says_or_refused() -> None:
    own = minilm()
    long = "word " * 400
    assert own.embed(long).shape == (384,)
    with pytest.raises(lapwing.ContextLengthError, match="256"):
        own.embed(long, truncate=False)
    assert not np.array_equal(own.embed(long, max_tokens=300), own.embed(long))


def test_embedding_options() -> None:
    own = minilm()
    text = "A dog runs."
    raw = own.embed(text, normalize=False)
    np.testing.assert_allclose(own.embed(text), raw / np.linalg.norm(raw), atol=1e-6)
    short = own.embed(text, truncate_dim=64)
    assert short.shape == (64,)
    assert np.array_equal(short, own.embed(text)[:64])
    unit = own.embed(text, truncate_dim=64, normalize=True)
    np.testing.assert_allclose(unit, short / np.linalg.norm(short), rtol=1e-6)
    assert np.array_equal(own.embed(text, prompt="query: "), own.embed("query: " + text))
    with pytest.raises(lapwing.OptionError, match="prompt_name"):
        own.embed(text, prompt_name="query")
    with pytest.raises(lapwing.OptionError, match="truncate_dim"):
        own.embed(text, truncate_dim=385)


def test_rank_orders_by_similarity() -> None:
    own = minilm()
    documents = ["A cat sleeps.", "Someone rides a bicycle.", "Stocks fell on Monday."]
    ranked = own.rank("a cyclist on a street", documents)
    assert next(r.index for r in ranked) == 1
    assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)
    assert own.rank("a cyclist", documents, top_k=1)[0].text == documents[1]
    with pytest.raises(lapwing.OptionError, match="documents"):
        own.rank("a", "b")


def test_folder_of_sentence_transformers() -> None:
    own = model("bert-sentence")
    entry = expected("bert-sentence")
    found = own.embed(entry["sentence"]["texts"])
    np.testing.assert_allclose(
        found,
        tensors("bert-sentence")["sentence.embeddings"],
        atol=entry["tolerance"]["sentence.embeddings"],
    )


def sentence_folder(tmp_path: Path, modules: list[str], **files: Any) -> Any:
    """The tiny BERT as a sentence-transformers folder with these modules."""
    for path in (GOLDEN / "bert-model").iterdir():
        if path.is_file() and not path.name.startswith("expected"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    listed = []
    for index, kind in enumerate(modules):
        place = "" if kind == "Transformer" else f"{index}_{kind}"
        listed.append(
            {
                "idx": index,
                "name": str(index),
                "path": place,
                "type": f"sentence_transformers.models.{kind}",
            }
        )
        (tmp_path / place).mkdir(exist_ok=True)
        if kind in files and kind != "Transformer":
            (tmp_path / place / "config.json").write_text(json.dumps(files[kind]), encoding="utf-8")
    (tmp_path / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    extra = files.get("extra")
    if extra is not None:
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(extra), encoding="utf-8")
    return tmp_path


def test_all_poolings_are_joined_in_order(tmp_path: Path) -> None:
    flags = [
        "pooling_mode_cls_token",
        "pooling_mode_max_tokens",
        "pooling_mode_mean_tokens",
        "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken",
    ]
    folder = sentence_folder(tmp_path, ["Transformer", "Pooling"], Pooling=dict.fromkeys(flags, True))
    with lapwing.load(folder) as own:
        text = "The quick brown fox"
        states = own.encode([own.tokenizer.encode(text)])[0].astype(np.float64)
        weights = np.arange(1, len(states) + 1)[:, None]
        parts = [
            states[0],
            states.max(axis=0),
            states.mean(axis=0),
            states.sum(axis=0) / math.sqrt(len(states)),
            (states * weights).sum(axis=0) / weights.sum(),
            states[-1],
        ]
        np.testing.assert_allclose(own.embed(text), np.concatenate(parts), atol=2e-6)


def test_dense_layer_and_prompts(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    width = model("bert-model").config["hidden_size"]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((7, width), dtype=np.float32)
    bias = rng.standard_normal(7, dtype=np.float32)
    folder = sentence_folder(
        tmp_path,
        ["Transformer", "Pooling", "Dense", "Normalize"],
        Pooling={"pooling_mode_mean_tokens": True, "include_prompt": False},
        Dense={
            "in_features": width,
            "out_features": 7,
            "bias": True,
            "activation_function": "torch.nn.Tanh",
        },
        extra={"prompts": {"query": "quick brown "}, "default_prompt_name": None},
    )
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    with lapwing.load(folder) as own:
        ids = own.tokenizer.encode("quick brown fox")
        count = len(own.tokenizer.encode("quick brown ")) - 1
        states = own.encode([ids])[0].astype(np.float64)
        for vector, rows in (
            (own.embed("quick brown fox"), states),
            (own.embed("fox", prompt_name="query"), states[count:]),
        ):
            wanted = np.tanh(weight @ rows.mean(axis=0) + bias)
            np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)
        assert np.array_equal(own.embed(["fox", "a b c"])[0], own.embed("fox"))


def test_a_prompt_left_out_keeps_the_places_of_the_other_tokens(tmp_path: Path) -> None:
    flags = dict.fromkeys(
        ["pooling_mode_cls_token", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken"], True
    )
    folder = sentence_folder(
        tmp_path,
        ["Transformer", "Pooling"],
        Pooling={**flags, "include_prompt": False},
        extra={"prompts": {"query": "quick brown "}},
    )
    with lapwing.load(folder) as own:
        states = own.encode([own.tokenizer.encode("quick brown fox")])[0].astype(np.float64)
        skip = len(own.tokenizer.encode("quick brown ")) - 1
        weights = np.arange(1, len(states) + 1)[skip:, None]
        mean = (states[skip:] * weights).sum(axis=0) / weights.sum()
        wanted = np.concatenate([states[skip], mean, states[-1]])
        np.testing.assert_allclose(own.embed("fox", prompt_name="query"), wanted, atol=2e-6)


def test_bounds_and_dimensions_in_newer_files(tmp_path: Path) -> None:
    folder = sentence_folder(
        tmp_path, ["Transformer", "Pooling"], Pooling={"pooling_mode": "mean"}, extra={"truncate_dim": 8}
    )
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model_max_length": 12}), encoding="utf-8")
    with lapwing.load(folder) as own:
        assert own.embed("word " * 100).shape == (8,)
        whole = own.embed("word " * 100, truncate_dim=own.config["hidden_size"])
        assert np.array_equal(own.embed("word " * 100), whole[:8])
        with pytest.raises(lapwing.ContextLengthError, match="12"):
            own.embed("word " * 100, truncate=False)


def test_a_cross_encoder_with_modules_makes_no_vectors(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "xlm-roberta-rerank", tmp_path, dirs_exist_ok=True)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    settings = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings), encoding="utf-8")
    with lapwing.load(tmp_path) as own:
        raw = model("xlm-roberta-rerank").rank("a", ["b", "c"], scores="none")
        assert own.rank("a", ["b", "c"]) == raw
        with pytest.raises(lapwing.OptionError, match="embedding model"):
            own.embed("a")


@pytest.mark.parametrize("name", ["GELU", "Sigmoid", "SiLU"])
def test_activations_of_dense_layers(name: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    width = model("bert-model").config["hidden_size"]
    settings = {"in_features": width, "out_features": 3, "activation_function": f"torch.nn.modules.activation.{name}"}
    folder = sentence_folder(
        tmp_path, ["Transformer", "Pooling", "Dense"], Pooling={"pooling_mode": "mean"}, Dense=settings
    )
    weight = np.random.default_rng(0).standard_normal((3, width), dtype=np.float32)
    save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    with lapwing.load(folder) as own:
        states = own.encode([own.tokenizer.encode("quick")])[0].astype(np.float64)
        x = weight @ states.mean(axis=0)
        gate = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]) if name == "GELU" else 1 / (1 + np.exp(-x))
        np.testing.assert_allclose(own.embed("quick"), gate if name == "Sigmoid" else x * gate, atol=1e-5)


def test_dense_layers_in_bfloat16(tmp_path: Path) -> None:
    width = model("bert-model").config["hidden_size"]
    settings = {"in_features": width, "out_features": 3, "activation_function": "torch.nn.Identity"}
    folder = sentence_folder(
        tmp_path, ["Transformer", "Pooling", "Dense"], Pooling={"pooling_mode": "mean"}, Dense=settings
    )
    rng = np.random.default_rng(0)
    values = {"linear.bias": rng.standard_normal(3), "linear.weight": rng.standard_normal((3, width))}
    bits = {name: (value.astype(np.float32).view(np.uint32) >> 16).astype("<u2") for name, value in values.items()}
    header, start = {}, 0
    for name, array in bits.items():
        stop = start + array.nbytes
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    (folder / "2_Dense" / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in bits.values())
    )
    bias, weight = ((array.astype(np.uint32) << 16).view(np.float32) for array in bits.values())
    with lapwing.load(folder) as own:
        (states,) = own.encode([own.tokenizer.encode("quick")])
        np.testing.assert_allclose(own.embed("quick"), weight @ states.mean(axis=0) + bias, atol=1e-5)


def test_damaged_sentence_folders_raise(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path, ["Transformer", "Pooling"], Pooling={"pooling_mode": "median"})
    with pytest.raises(lapwing.CheckpointError, match="median"):
        lapwing.load(folder)
    (folder / "modules.json").write_text('[{"type": "x.Pooling", "path": "../.."}]', encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match="is outside"):
        lapwing.load(folder)
    (folder / "modules.json").write_text('[{"type": "x.LSTM", "path": ""}]', encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match="LSTM"):
        lapwing.load(folder)
    (folder / "modules.json").write_text("{}", encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match="list"):
        lapwing.load(folder)


def test_encoder_call_returns_states() -> None:
    own = model("bert-model")
    result = own("Hello, world!", hidden_states=True, attentions=True)
    tokens = len(result.ids)
    assert result.last_hidden_state.shape[0] == tokens
    assert np.array_equal(result.hidden_states[-1], result.last_hidden_state)
    for weights in result.attentions:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert np.array_equal(result.pooler_output, own.pooled([result.ids])[0])
    pair = own(("Hello", "world"))
    assert np.array_equal(own([("Hello", "world"), "x"])[0].last_hidden_state, pair.last_hidden_state)


def test_classify_gives_all_labels() -> None:
    own = model("bert-seqcls")
    texts: list[Any] = ["Hello", ("What is it?", "It is a small test.")]
    results = own.classify(texts)
    for text, result in zip(texts, results, strict=True):
        assert sum(label.score for label in result.labels) == pytest.approx(1)
        assert result.label == result.labels[0].label
        assert own.classify(text) == result
    independent = own.classify("Hello", scores="sigmoid")
    logits = own.classify("Hello", scores="none")
    for one, raw in zip(independent.labels, logits.labels, strict=True):
        assert one.score == pytest.approx(1 / (1 + math.exp(-raw.score)))
    with pytest.raises(lapwing.OptionError, match="tag"):
        own.tag("Hello")
    with pytest.raises(lapwing.ContextLengthError):
        own.classify("word " * 600)
    assert own.classify("word " * 600, truncate=True).labels


def test_tags_have_the_characters_of_the_text() -> None:
    own = model("bert-tokcls")
    text = "The quick brown fox isn't over the lazy dog."
    for aggregation in tagging.AGGREGATIONS:
        for tag in own.tag(text, aggregation=aggregation, ignore_labels=()):
            assert tag.text == text[tag.start : tag.end]
    tokens = own.tag(text, aggregation="none", ignore_labels=())
    words = own.tag(text, aggregation="first", ignore_labels=())
    assert len(words) <= len(tokens)
    assert own.tag([text, "A"])[0] == own.tag(text)
    with pytest.raises(lapwing.OptionError, match="aggregation"):
        own.tag(text, aggregation="sum")
    with pytest.raises(lapwing.ContextLengthError, match="stride"):
        own.tag("word " * 600)
    assert all(t.end <= 3000 for t in own.tag("word " * 600, stride=8))


def _token(start: int, end: int, scores: list[float], subword: bool) -> Any:
    return tagging._Token(start, end, np.array(scores), subword)


def test_aggregation_follows_the_pipelines() -> None:
    # "microsoft": B-ENT I-NAME; "company": I-ENT
    text = "microsoft company"
    names = ["O", "B-ENT", "I-ENT", "I-NAME"]
    items = [
        _token(0, 5, [0, 0.8, 0.1, 0.1], False),
        _token(5, 9, [0, 0.05, 0.05, 0.9], True),
        _token(10, 17, [0.1, 0.1, 0.7, 0.1], False),
    ]

    def shown(aggregation: str) -> list[tuple[str, str, float]]:
        found = tagging._spans_of_labels(items, names, aggregation)
        return [(tag.label, text[tag.start : tag.end], round(tag.score, 6)) for tag in found]

    assert shown("none") == [
        ("B-ENT", "micro", 0.8),
        ("I-NAME", "soft", 0.9),
        ("I-ENT", "company", 0.7),
    ]
    assert shown("simple") == [
        ("ENT", "micro", 0.8),
        ("NAME", "soft", 0.9),
        ("ENT", "company", 0.7),
    ]
    assert shown("first") == [("ENT", text, 0.75)]
    assert shown("max") == [("NAME", "microsoft", 0.9), ("ENT", "company", 0.7)]
    assert shown("average") == [("NAME", "microsoft", 0.5), ("ENT", "company", 0.7)]


def test_answers_are_spans_of_the_context() -> None:
    own = model("bert-qa")
    question, context = "What is it?", "It is a small test of the quick brown fox."
    result = own.answer(question, context, top_k=3)
    for found in (result, *result.alternatives):
        assert found.text == context[found.start : found.end]
    assert 0 < result.no_answer_score < 1
    several = own.answer(question, [context, "Another text."])
    assert several[0].text == own.answer(question, context).text
    long = " ".join([context] * 30)
    found = own.answer(question, long, window=40, stride=8)
    assert found.text == long[found.start : found.end]
    none = own.answer(question, context, allow_no_answer=True, top_k=100)
    assert any(a.text == "" for a in (none, *none.alternatives))
    with pytest.raises(lapwing.ContextLengthError, match="window"):
        own.answer("word " * 50, context, window=20)


def test_windows_cover_the_text() -> None:
    own = model("bert-qa")
    encoding = own.tokenizer.encode_pair("What?", "word " * 100)
    parts = windows.split(encoding, 40, 10, part=1)
    covered = {offset for part in parts for offset, s in zip(part.offsets, part.sequences, strict=True) if s == 1}
    assert covered == {o for o, s in zip(encoding.offsets, encoding.sequences, strict=True) if s == 1}
    assert all(len(part) <= 40 for part in parts)
    with pytest.raises(lapwing.OptionError, match="stride"):
        windows.split(encoding, 40, 40, part=1)


def test_masks_are_filled() -> None:
    own = model("bert-mlm")
    result = own.fill_mask("The quick [MASK] fox.", top_k=3)
    assert len(result) == 3
    assert result[0].score >= result[1].score
    several = own.fill_mask("The [MASK] brown [MASK].")
    assert len(several) == 2
    target = own.fill_mask("The quick [MASK] fox.", targets=["the", "."])
    assert {fill.id for fill in target} == {
        own.tokenizer.token_to_id("the"),
        own.tokenizer.token_to_id("."),
    }
    with pytest.raises(lapwing.OptionError, match="no mask"):
        own.fill_mask("nothing here")
