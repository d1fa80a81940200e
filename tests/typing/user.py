"""A user's program: mypy --strict and pyright check the type of each public call (`tests/test_typing.py`)."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import lapwing
from lapwing import (
    Answer,
    Chat,
    Chunk,
    Classification,
    EncoderOutput,
    Fill,
    GenerateOptions,
    Generation,
    Hit,
    Hypothesis,
    LoadOptions,
    ModelInfo,
    Pair,
    Ranked,
    Score,
    Seq2Seq,
    SingleOptions,
    SparseEmbedding,
    Tag,
    TextEncoder,
    TextGenerator,
    Tokenizer,
    TokenLogprob,
    Translation,
)

Floats = NDArray[np.float32]
PROMPTS = ["One", "Two"]
MESSAGES = [{"role": "user", "content": "Hello"}]
ARRAY = np.arange(3)


def loading(task: str) -> None:
    assert_type(lapwing.load("name", task="generate"), TextGenerator | Seq2Seq)
    for decoder in (lapwing.load("name", task="chat"), lapwing.load("name", task="score", weights="q8", threads=2)):
        assert_type(decoder, TextGenerator)
    assert_type(lapwing.load("name", task="embed"), TextEncoder)
    assert_type(lapwing.load("name", task="encode"), TextEncoder)
    assert_type(lapwing.load("name", task="classify"), TextEncoder)
    assert_type(lapwing.load("name", task="rank"), TextEncoder)
    assert_type(lapwing.load("name", task="tag"), TextEncoder)
    assert_type(lapwing.load("name", task="answer"), TextEncoder)
    assert_type(lapwing.load("name", task="fill-mask"), TextEncoder)
    assert_type(lapwing.load("name", task="translate"), Seq2Seq)
    assert_type(lapwing.load("name", task="summarize"), Seq2Seq)
    assert_type(lapwing.load("name"), TextGenerator | TextEncoder | Seq2Seq)
    assert_type(lapwing.load("name", task=task), TextGenerator | TextEncoder | Seq2Seq)
    options: LoadOptions = {"kv_cache": "q8", "prefix_cache": False}
    with lapwing.load("name", task="translate", **options) as model:
        assert_type(model, Seq2Seq)
        model.translate("A text.", target_lang="de")
    model.close()


def generating(model: TextGenerator) -> None:
    assert_type(model.generate("A", max_tokens=3, stop=["."]), Generation)
    assert_type(model.generate(PROMPTS), list[Generation])
    options: GenerateOptions = {"temperature": 0.7, "n": 2}
    result = model.generate("A", **options)
    assert_type(result.text, str)
    assert_type(result.alternatives, tuple[Hypothesis, ...])
    assert_type(result.logprobs, tuple[TokenLogprob, ...] | None)
    chunks = model.stream("A")
    assert_type(chunks, Generator[Chunk, None, None])
    for chunk in chunks:
        assert_type(chunk.text, str)
    chunks.close()
    assert_type(model.chat(MESSAGES), Generation)
    assert_type(model.chat([MESSAGES, MESSAGES]), list[Generation])
    model.stream_chat(MESSAGES, max_tokens=5).close()
    single: SingleOptions = {"seed": 3}
    assert_type(model.generate_ids([1, 2]), list[int])
    assert_type(model.generate_ids([[1, 2], [3]], **single), list[list[int]])
    assert_type(model.generate_ids([1, 2], n=2), list[Hypothesis])
    assert_type(model.generate_ids([[1, 2], ARRAY], num_hypotheses=2), list[list[Hypothesis]])
    assert_type(model.score("A"), Score)
    assert_type(model.explain("A", max_tokens=3), lapwing.Explanation)
    assert_type(model.explain(PROMPTS), list[lapwing.Explanation])
    assert_type(model.logit_lens("A"), lapwing.LogitLens)
    assert_type(model.score(PROMPTS), list[Score])
    assert_type(model.embed(PROMPTS), Floats)
    assert_type(model.logits([1, 2]), Floats)
    assert_type(model.logits(ARRAY), Floats)
    assert_type(model.encode([1, 2]), Floats)
    assert_type(model.encode([[1, 2], [3]]), list[Floats])
    assert_type(model.hidden_states([1, 2]), list[Floats])
    assert_type(model.attentions([1, 2], layer=-1), Floats)
    assert_type(model.info(), ModelInfo)
    assert_type(model.max_length, int | None)


def embedding(model: TextEncoder) -> None:
    vectors = model.encode_query(PROMPTS)
    assert_type(vectors, Floats)
    assert_type(model.encode_document("A", truncate_dim=8), Floats)
    assert_type(model.similarity(vectors, vectors), Floats)
    assert_type(model.semantic_search(PROMPTS, PROMPTS, top_k=2), list[list[Hit]])
    assert_type(model.paraphrase_mining(PROMPTS), list[Pair])
    assert_type(model.embed_sparse("A"), SparseEmbedding)
    assert_type(model.embed_sparse(PROMPTS), list[SparseEmbedding])
    assert_type(model.embed_tokens("A", kind="query"), Floats)
    assert_type(model.embed_tokens(PROMPTS), list[Floats])


def conversing(model: TextGenerator) -> None:
    chat = Chat(model, system="Be brief.", max_tokens=5)
    assert_type(chat.send("Hello"), Generation)
    assert_type(chat.stream("Hello"), Generator[Chunk, None, None])
    chat.change(temperature=0)
    chat.resume(MESSAGES)
    chat.undo()
    chat.reset()


def encoding(model: TextEncoder) -> None:
    assert_type(model.features("A", hidden_states=True), EncoderOutput)
    assert_type(model.features(("A", "B")), EncoderOutput)
    assert_type(model.features(["A", ("A", "B")]), list[EncoderOutput])
    assert_type(model.embed("A"), Floats)
    assert_type(model.embed(PROMPTS, normalize=True), Floats)
    assert_type(model.encode_query("A"), Floats)
    assert_type(model.encode_document(PROMPTS, truncate_dim=64), Floats)
    assert_type(model.similarity(model.embed("A"), model.embed(PROMPTS)), Floats)
    assert_type(model.semantic_search("A", PROMPTS, top_k=2), list[list[Hit]])
    assert_type(model.paraphrase_mining(PROMPTS), list[Pair])
    assert_type(model.embed_sparse("A"), SparseEmbedding)
    assert_type(model.embed_sparse(PROMPTS), list[SparseEmbedding])
    assert_type(model.embed_tokens("A", kind="query"), Floats)
    assert_type(model.embed_tokens(PROMPTS), list[Floats])
    assert_type(model.classify("A"), Classification)
    assert_type(model.classify(("A", "B"), scores="softmax"), Classification)
    assert_type(model.classify(PROMPTS), list[Classification])
    assert_type(model.classify(iter(PROMPTS)), Generator[Classification, None, None])
    model.embed(iter(PROMPTS)).close()
    assert_type(model.classify([("A", "B")]), list[Classification])
    assert_type(model.classify("A", labels=PROMPTS, multi_label=True), Classification)
    assert_type(model.tag("A", aggregation="first"), list[Tag])
    assert_type(model.tag(PROMPTS), list[list[Tag]])
    assert_type(model.answer("A", "B"), Answer)
    assert_type(model.answer("A", PROMPTS), list[Answer])
    assert_type(model.answer(PROMPTS, "B"), list[Answer])
    assert_type(model.answer(PROMPTS, PROMPTS), list[Answer])
    assert_type(model.fill_mask("A"), list[Fill] | list[list[Fill]])
    assert_type(model.fill_mask(PROMPTS), list[list[Fill] | list[list[Fill]]])
    assert_type(model.rank("A", PROMPTS), list[Ranked])
    assert_type(model.encode([1, 2]), Floats)
    assert_type(model.encode([[1, 2], [3]], [[0, 0], [1]]), list[Floats])
    assert_type(model.hidden_states([1, 2], [0, 0]), list[Floats])
    assert_type(model.pooled([[1, 2]]), Floats)
    assert_type(model.head_logits([[1, 2]]), list[Floats])
    assert_type(model.attentions([1, 2], 0), Floats)


def translating(model: Seq2Seq) -> None:
    assert_type(model.translate("A", source_lang="en", target_lang="de", beams=4), Translation)
    assert_type(model.translate(PROMPTS), list[Translation])
    assert_type(model.summarize("A"), Translation)
    assert_type(model.summarize(PROMPTS, max_tokens=9), list[Translation])
    assert_type(model.generate("A"), Translation)
    assert_type(model.generate(PROMPTS), list[Translation])
    assert_type(model.stream("A"), Generator[Chunk, None, None])
    assert_type(model.generate_ids([1, 2]), list[Hypothesis])
    assert_type(model.generate_ids([[1, 2]]), list[list[Hypothesis]])
    assert_type(model.encode([1, 2]), Floats)
    assert_type(model.encode([[1, 2]]), list[Floats])
    assert_type(model.hidden_states([1, 2], [3]), list[Floats])
    assert_type(model.decoder_logits([1, 2], [3]), Floats)
    assert_type(model.attentions([1, 2], 0, [3], cross=True), Floats)
    assert_type(model.max_source_length, int | None)


def tokenizing(tokenizer: Tokenizer) -> None:
    assert_type(tokenizer.encode("A"), list[int])
    assert_type(tokenizer.encode_batch(PROMPTS), list[list[int]])
    assert_type(tokenizer.encoding("A"), lapwing.Encoding)
    assert_type(tokenizer.encode_pair("A", "B").offsets, list[tuple[int, int]])
    assert_type(tokenizer.decode([1, 2]), str)
    assert_type(tokenizer.decode_pieces([1, 2]), str)
    assert_type(tokenizer.token_to_id("A"), int | None)
    assert_type(tokenizer.id_to_token(1), str | None)
    assert_type(tokenizer.mask_token, str | None)
    assert_type(tokenizer.token_bytes(1), bytes)
    assert_type(tokenizer.eos_token_id, int | None)
    assert_type(tokenizer.apply_chat_template(MESSAGES), str)
    assert_type(tokenizer.encode_chat(MESSAGES), list[int])
    assert_type(tokenizer.language_prefixes(), list[str])
    tokenizer.stream().push([1])


def failing() -> str:
    try:
        lapwing.load("name")
    except (lapwing.CheckpointError, lapwing.SpecError, lapwing.OptionError) as error:
        return str(error)
    except (lapwing.ContextLengthError, lapwing.ModelClosedError, lapwing.NumericalError, lapwing.InternalError):
        raise
    except lapwing.Error:
        raise
    return ""
