"""States of sequences beyond keys and values: sliding windows give back blocks, short convolutions keep snapshots. A
prompt that shares a prefix with an earlier one re-reads at most one block of tokens behind it, and results do not
change."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from lapwing import _core
from lapwing.models.base import ragged
from lapwing.spec import (
    Attention,
    Block,
    Experts,
    FeedForward,
    LanguageHead,
    Layer,
    Model,
    Norm,
    Rotary,
    Router,
    ShortConvolution,
    Stack,
    TokenStem,
)

from .strategies import compiled, random_weights

KV_BLOCK, TILE, VOCABULARY, HIDDEN = 32, 128, 61, 16
NORM = Norm(kind="rms", eps=1e-5)
ROTARY = Rotary(inv_freq=(1.0, 0.1, 0.01, 0.001))


def attention(window: int | None) -> Block:
    body = Attention(heads=4, kv_heads=2, head_dim=8, scale=0.35, causal=True, window=window, rotary=ROTARY)
    return Block(body=body, input_norm=NORM)


MIXERS = {
    "window": [attention(48)],
    "windows": [attention(48), attention(None), attention(200)],
    "convolution": [Block(body=ShortConvolution(kernel=3), input_norm=NORM)],
    "hybrid": [Block(body=ShortConvolution(kernel=4), input_norm=NORM), attention(64), attention(None)],
}
FEED = FeedForward(width=24, activation="silu", gated=True)


def description(mixers: list[Block]) -> Model:
    feeds = [
        Block(body=FEED, input_norm=NORM),
        Block(body=Experts(router=Router(count=4, per_token=2), expert=FEED), input_norm=NORM),
    ]
    layers = tuple(Layer(blocks=(mixer, feeds[i % 2])) for i, mixer in enumerate([*mixers, mixers[0]]))
    stack = Stack(
        hidden_size=HIDDEN,
        stem=TokenStem(vocab_size=VOCABULARY),
        layers=layers,
        max_length=4096,
        final_norm=NORM,
    )
    return Model(decoder=stack, language_head=LanguageHead(vocab_size=VOCABULARY))


def models(name: str, **options: str) -> tuple[_core.Model, _core.Model]:
    """Two equal models, the second without a prefix cache."""
    spec = description(MIXERS[name])
    weights = random_weights(spec, 7)
    own, fresh = compiled(spec, weights, **options), compiled(spec, weights, **options)
    fresh.limit_prefixes(0)
    return own, fresh


def some_ids(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(1, VOCABULARY), k=length)


def generate(model: _core.Model, prompts: list[list[int]], **options: Any) -> list[Any]:
    text = json.dumps({"max_tokens": 6, "logprobs": True, **options})
    generation = model.generate(*ragged(prompts), text)
    try:
        events = generation.advance(0)
        return [sorted(events), generation.results()]
    finally:
        generation.close()


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("kv", ["f32", "q8"])
def test_a_changed_tail_is_read_from_the_last_block_on(name: str, kv: str) -> None:
    own, fresh = models(name, kv=kv)
    base = some_ids(1, 700)
    assert generate(own, [base]) == generate(fresh, [base])
    for kept in (699, 650, 601, 512, 333, 129, 40, 640):
        prompt = [*base[:kept], *some_ids(kept, 30)]
        before = own.prefixes()[2]
        assert generate(own, [prompt]) == generate(fresh, [prompt])
        assert own.prefixes()[2] - before > min(kept, len(prompt) - 1) - KV_BLOCK
    assert fresh.prefixes() == (0, 0, 0)


@pytest.mark.parametrize("name", MIXERS)
def test_the_next_turn_is_read_from_the_last_block_on(name: str) -> None:
    own, fresh = models(name)
    text = some_ids(2, 300)
    for turn in range(4):
        found = generate(own, [text], max_tokens=40)
        assert found == generate(fresh, [text], max_tokens=40)
        answer = found[1][0][0][0]
        text = [*text, *answer, *some_ids(turn, 50)]
        before = own.prefixes()[2]
        generate(own, [text], max_tokens=1)
        assert own.prefixes()[2] - before >= len(text) - 50 - 1 - KV_BLOCK


@pytest.mark.parametrize("name", MIXERS)
def test_a_small_history_changes_no_result(name: str) -> None:
    own, fresh = models(name)
    own.limit_prefixes(200_000)
    base = some_ids(3, 900)
    for kept in (899, 500, 899, 30, 700, 860):
        prompt = [*base[:kept], *some_ids(kept, 9)]
        assert generate(own, [prompt]) == generate(fresh, [prompt])
        assert own.prefixes()[1] <= 200_000


@pytest.mark.parametrize("name", MIXERS)
def test_searches_samples_and_guesses_fork_and_roll_back_the_states(name: str) -> None:
    own, fresh = models(name)
    prompts = [[*some_ids(4, 20) * 8, *some_ids(seed, seed)] for seed in (1, 5, 31)]
    plain = generate(fresh, prompts, max_tokens=30)
    for model in (own, fresh):
        guessed = generate(model, prompts, max_tokens=30, prompt_lookup=8)
        assert guessed == plain
    for options in ({"beams": 3}, {"temperature": 1.0, "samples": 3, "seed": 5}):
        alone = [generate(fresh, [prompt], **options)[1][0] for prompt in prompts if "beams" in options]
        together = generate(own, prompts, **options)
        assert together == generate(fresh, prompts, **options)
        assert not alone or together[1] == alone


@pytest.mark.parametrize("name", MIXERS)
def test_any_cut_of_a_prompt_gives_the_same_bits(name: str) -> None:
    """Prompts are read in pieces of 512 rows, so neighbours move the cuts."""
    _, fresh = models(name)
    prompt = some_ids(5, 1100)
    alone = generate(fresh, [prompt])
    for length in (1, 17, 300, 511):
        together = generate(fresh, [some_ids(6, length), prompt])
        assert together[1][1] == alone[1][0]
