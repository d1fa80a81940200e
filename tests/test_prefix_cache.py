"""The prefix cache: reused for common prefixes, without effect on results, within its bound."""

from __future__ import annotations

import pickle
import random
import threading
from pathlib import Path
from typing import Any

import pytest

import lapwing

GOLDEN = Path(__file__).parent / "golden"
SHORT: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}
KV_BLOCK = 32


def load(**options: Any) -> Any:
    return lapwing.load(GOLDEN / "llama", **options)


def some_ids(seed: int, length: int, vocab: int = 60) -> list[int]:
    return random.Random(seed).choices(range(1, vocab), k=length)


@pytest.mark.parametrize("kv", ["f32", "f16", "q8"])
def test_ids_and_scores_are_those_of_a_fresh_model(kv: str) -> None:
    own, fresh = load(kv_cache=kv), load(kv_cache=kv, prefix_cache=False)
    base = some_ids(1, 45)
    generator = random.Random(2)
    prompts = [base, base, base[:7], base[:33], [*base, *some_ids(3, 20)]]
    for _ in range(12):
        begin = generator.choice(prompts)
        prompts.append([*begin[: generator.randrange(1, len(begin) + 1)], *some_ids(generator.randrange(99), 5)])
    for prompt in prompts:
        for options in (SHORT, {**SHORT, "beams": 3}, {**SHORT, "temperature": 1.0, "n": 3, "seed": 4}):
            found, wanted = (
                own.generate_ids(prompt, **options, num_hypotheses=1)
                if "n" not in options
                else own.generate_ids(prompt, **options)
                for own in (own, fresh)
            )
            assert found == wanted
    assert own.core.prefixes()[2] > 100
    assert fresh.core.prefixes() == (0, 0, 0)


def test_what_was_generated_is_reused_too() -> None:
    own = load()
    prompt = some_ids(5, 40)
    answer = own.generate_ids(prompt, **SHORT)
    # The last token was returned but never fed.
    next_turn = [*prompt, *answer, *some_ids(6, 9)]
    own.generate_ids(next_turn, **SHORT)
    assert own.core.prefixes()[2] == len(prompt) + len(answer) - 1
    # For a fully cached prompt, the last token is still computed.
    own.generate_ids(next_turn, **SHORT)
    assert own.core.prefixes()[2] == len(prompt) + len(answer) - 1 + len(next_turn) - 1


def test_logprobs_are_equal_to_the_bit() -> None:
    own, fresh = load(), load(prefix_cache=False)
    for prompt in ("Hello there, how are you?", "Hello there, how is it?", "Hello there, how are you? Well."):
        assert own.generate(prompt, logprobs=3, **SHORT) == fresh.generate(prompt, logprobs=3, **SHORT)


def test_a_system_message_serves_other_conversations() -> None:
    own = lapwing.load(GOLDEN / "qwen3")
    system = "Answer as sailors do."
    first = lapwing.Chat(own, system=system, **SHORT)
    first.send("Hello")
    before = own.core.prefixes()[2]
    other = lapwing.Chat(own, system=system, **SHORT)
    answer = other.send("What?")
    shared = own.core.prefixes()[2] - before
    assert shared > len(own.tokenizer.encode(system)) // 2
    fresh = lapwing.Chat(lapwing.load(GOLDEN / "qwen3", prefix_cache=False), system=system, **SHORT)
    assert fresh.send("What?") == answer
    # Each turn reuses the previous one.
    before = own.core.prefixes()[2]
    assert other.send("Oh?") == fresh.send("Oh?")
    assert own.core.prefixes()[2] - before > shared


def test_streams_that_are_closed_leave_what_they_computed() -> None:
    own, fresh = load(), load(prefix_cache=False)
    stream = own.stream("Hello there", **{**SHORT, "max_tokens": 40})
    next(stream)
    stream.close()
    assert own.core.prefixes()[0] == 1
    assert own.generate("Hello there", **SHORT) == fresh.generate("Hello there", **SHORT)
    assert own.core.prefixes()[2] > 0


def test_the_bound_holds_and_the_oldest_go_first() -> None:
    probe = load()
    probe.generate_ids(some_ids(1, 8), **SHORT)
    block = probe.core.prefixes()[1]  # of one block
    bound = 17 * block - 1
    own = load(prefix_cache=bound)
    prompts = [some_ids(seed * 10, 3 * KV_BLOCK) for seed in range(9)]
    for prompt in prompts:
        own.generate_ids(prompt, **SHORT)
        assert own.core.prefixes()[1] <= bound
    # A sequence takes four blocks, so the cache has the last four sequences.
    assert own.core.prefixes()[0] == 4
    before = own.core.prefixes()[2]
    own.generate_ids(prompts[0], **SHORT)
    assert own.core.prefixes()[2] - before <= 1
    before = own.core.prefixes()[2]
    own.generate_ids(prompts[-1], **SHORT)
    assert own.core.prefixes()[2] - before == len(prompts[-1]) - 1
    small = load(prefix_cache=4 * block - 1)
    small.generate_ids(prompts[0], **SHORT)
    assert small.core.prefixes() == (0, 0, 0)


def test_a_sequence_beyond_the_bound_leaves_the_others() -> None:
    probe = load()
    probe.generate_ids(some_ids(1, 8), **SHORT)
    own = load(prefix_cache=3 * probe.core.prefixes()[1])
    for length in (8, 2 * KV_BLOCK - 9):
        own.generate_ids(some_ids(length, length), **SHORT)
    kept = own.core.prefixes()
    assert kept[0] == 2
    own.generate_ids(some_ids(3, 3 * KV_BLOCK + 9), **SHORT)
    assert own.core.prefixes() == kept


def test_batches_share_and_keep(tmp_path: Path) -> None:
    own, fresh = load(), load(prefix_cache=False)
    prompts = [[*some_ids(1, 40), *some_ids(seed, 4)] for seed in range(5)]
    assert own.generate_ids(prompts, **SHORT) == fresh.generate_ids(prompts, **SHORT)
    mixed = [prompts[3], some_ids(77, 3), [*prompts[1], 5], [9]]
    assert own.generate_ids(mixed, **SHORT) == fresh.generate_ids(mixed, **SHORT)
    assert own.core.prefixes()[2] >= len(prompts[3]) - 1 + len(prompts[1])


def test_threads_may_share_a_model() -> None:
    own, fresh = load(), load(prefix_cache=False)
    prompts = [[*some_ids(1, 35), seed] for seed in range(1, 9)]
    wanted = [fresh.generate_ids(prompt, **SHORT) for prompt in prompts]
    found: dict[int, Any] = {}

    def work(index: int) -> None:
        for _ in range(3):
            found[index] = own.generate_ids(prompts[index], **SHORT)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(len(prompts))] == wanted


def test_the_option_is_checked_and_goes_with_the_handle() -> None:
    for value in (-1, "yes", None, 1.5):
        with pytest.raises(lapwing.OptionError, match="prefix_cache"):
            load(prefix_cache=value)
    again = pickle.loads(pickle.dumps(load(prefix_cache=False)))
    again.generate_ids([1, 2, 3], **SHORT)
    assert again.core.prefixes() == (0, 0, 0)


@pytest.mark.parametrize("name", ["marian", "bert-sentence"])
def test_bytes_for_prompts_are_refused_where_there_are_none(name: str) -> None:
    with pytest.raises(lapwing.OptionError, match=r"prefix_cache is 4096.*only a TextGenerator has a prefix cache"):
        lapwing.load(GOLDEN / name, prefix_cache=4096)
    lapwing.load(GOLDEN / name, prefix_cache=False).close()


@pytest.mark.parametrize("name", ["llama-dynamic", "llama-longrope", "phi3-longrope", "marian"])
def test_models_whose_keys_depend_on_more_than_the_beginning_keep_none(name: str) -> None:
    own = lapwing.load(GOLDEN / name)
    own.generate_ids(some_ids(1, 20), max_tokens=3)
    assert own.core.prefixes() == (0, 0, 0)
