"""Makes the fixtures of encoders whose families have no other, and what transformers' pipelines say of all.

Needs torch and transformers 5; nothing in the tests does. Run it as

    python tests/golden/make_encoders.py

Each folder is a checkpoint with tiny random weights and two files: ``expected.safetensors`` (float32, computed with
eager attention) and ``expected.json`` (inputs and a tolerance for each tensor). The tolerance is three times what a
relative change of 1e-6 in all weights does, at least 2e-5 of the largest value. ``pipelines.json`` has inputs, options
and results of pipelines on checkpoints of this folder.
"""

from __future__ import annotations

import json
import shutil
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from safetensors.torch import save_file

GOLDEN = Path(__file__).parent
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 64,
    "max_position_embeddings": 44,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
DEBERTA = {"relative_attention": True, "position_biased_input": False, "norm_rel_ebd": "layer_norm"}
FIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "albert-mlm": ("AlbertForMaskedLM", {"embedding_size": 8, "num_hidden_groups": 2, "inner_group_num": 2}),
    "albert-seqcls": ("AlbertForSequenceClassification", {"embedding_size": 8, "num_labels": 3}),
    "deberta-mlm": (
        "DebertaForMaskedLM",
        {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]},
    ),
    "esm-mlm": (
        "EsmForMaskedLM",
        {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 9, "token_dropout": True},
    ),
    "eurobert-seqcls": ("EuroBertForSequenceClassification", {"num_labels": 3, **SPECIAL, "mask_token_id": 0}),
    "jina_embeddings_v3-model": ("JinaEmbeddingsV3Model", {"type_vocab_size": 1}),
    "megatron-bert-mlm": ("MegatronBertForMaskedLM", {}),
    "roformer-tokcls": ("RoFormerForTokenClassification", {"embedding_size": 8, "num_labels": 3}),
    "bert-choice": ("BertForMultipleChoice", {}),
    "bert-nsp": ("BertForNextSentencePrediction", {}),
    "deberta-v2-choice": ("DebertaV2ForMultipleChoice", {**DEBERTA, "pos_att_type": ["c2p"]}),
    "distilbert-choice": (
        "DistilBertForMultipleChoice",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 64, "max_position_embeddings": 44},
    ),
    "megatron-bert-nsp": ("MegatronBertForNextSentencePrediction", {}),
    "modernbert-choice": ("ModernBertForMultipleChoice", {**SPECIAL, "cls_token_id": 0, "sep_token_id": 0}),
    "camembert-tokcls": ("CamembertForTokenClassification", {"type_vocab_size": 1, "num_labels": 5}),
    "deberta-v2-mlm": (
        "DebertaV2ForMaskedLM",
        {**DEBERTA, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "conv_kernel_size": 3, "legacy": False},
    ),
    "deberta-v2-model": (
        "DebertaV2Model",
        {**DEBERTA, "pos_att_type": ["c2p"], "max_relative_positions": 12, "position_biased_input": True},
    ),
    "distilbert-mlm": (
        "DistilBertForMaskedLM",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 64, "max_position_embeddings": 44},
    ),
    "electra-mlm": ("ElectraForMaskedLM", {"embedding_size": 8}),
    "gte-seqcls": ("GteForSequenceClassification", {"type_vocab_size": 2}),
    "modernbert-tokcls": (
        "ModernBertForTokenClassification",
        {
            "num_hidden_layers": 4,
            "local_attention": 8,
            "norm_bias": True,
            "mlp_bias": True,
            "attention_bias": True,
            "classifier_bias": True,
            **SPECIAL,
            "cls_token_id": 0,
            "sep_token_id": 0,
        },
    ),
    "mpnet-model": ("MPNetModel", {}),
    "mpnet-qa": ("MPNetForQuestionAnswering", {"num_labels": 2}),
    "nomic_bert-mlm": ("NomicBertForMaskedLM", {}),
    "xlm-roberta-xl-seqcls": ("XLMRobertaXLForSequenceClassification", {"num_labels": 3}),
}
TEXTS = [
    "Hello, world!",
    "The quick brown fox isn't over the dog.",
    "Zürich, São Paulo & naïve café",
    "U.S.A. (est. 1776) e-mail: foo@bar.com",
    "   leading and two  spaces ",
]
LONG = " ".join(TEXTS * 2)


def randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights that keep every part of the model visible in its output."""
    for name, p in model.named_parameters():
        if "embed_positions" in name and not p.requires_grad:  # a table of sines
            continue
        if p.ndim == 1:
            p.copy_(
                0.2 * torch.randn(p.shape, generator=generator) + float("norm" in name.lower() and "bias" not in name)
            )
        else:
            spread = 1.0 if "embed" in name else 1.5 / p.shape[-1] ** 0.5
            p.copy_(spread * torch.randn(p.shape, generator=generator))


def outputs(model: Any, inputs: dict[str, dict[str, Any]]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for key, values in inputs.items():
        tensors = {name: torch.tensor(value) for name, value in values.items()}
        if type(model).__name__.endswith("ForMultipleChoice"):  # one choice of each text
            tensors = {name: value[:, None] for name, value in tensors.items()}
        out = model(**tensors)
        for name in ("last_hidden_state", "pooler_output", "logits", "start_logits", "end_logits"):
            if getattr(out, name, None) is not None:
                found[f"{key}.{name}"] = getattr(out, name).float().contiguous().clone()
    return found


def measure(
    model: Any, compute: Callable[[], dict[str, torch.Tensor]], generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """What ``compute`` gives, and the tolerance of each tensor."""
    values = compute()
    spread = dict.fromkeys(values, 0.0)
    kept = {key: p.clone() for key, p in model.named_parameters()}
    for _ in range(4):
        for key, p in model.named_parameters():
            p.copy_(kept[key] * (1 + 1e-6 * torch.randn(p.shape, generator=generator)))
        for key, value in compute().items():
            spread[key] = max(spread[key], float((value - values[key]).abs().max()))
    for key, p in model.named_parameters():
        p.copy_(kept[key])
    return values, {k: float(f"{max(3 * spread[k], 2e-5 * float(v.abs().max())):.2g}") for k, v in values.items()}


def make(name: str, seed: int) -> None:
    class_name, changes = FIXTURES[name]
    cls = getattr(t, class_name)
    base = {} if "distilbert" in name else TINY
    config = cls.config_class(**{**base, **changes}, attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    model = cls(config).eval()
    randomize(model, generator)
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    rng = np.random.default_rng(seed)

    def ids(n: int) -> list[int]:
        return [int(i) for i in rng.integers(5, 64, n)]

    segments = getattr(config, "type_vocab_size", 0) or 0
    inputs: dict[str, dict[str, Any]] = {f"p{n}": {"input_ids": [ids(n)]} for n in (1, 7, 40)}
    if segments > 1:
        inputs["p40"]["token_type_ids"] = [[0] * 17 + [1] * 23]
    values, tolerance = measure(model, lambda: outputs(model, inputs), generator)
    save_file(values, folder / "expected.safetensors")
    expected = {
        "name": name,
        "architecture": class_name,
        "model_type": config.model_type,
        "task": "encoder",
        "seed": seed,
        "storage_dtype": "float32",
        "transformers": t.__version__,
        "tolerance": tolerance,
        "inputs": inputs,
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def tokenizer(folder: Path) -> Any:
    """The tokenizer as tokenizer.json has it: some classes of transformers build another one."""
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {key: value for key, value in config.items() if key.endswith("_token")}
    found = t.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    if "roberta" in folder.name or "modernbert" in folder.name or "distilbert" in folder.name:
        found.model_input_names = ["input_ids", "attention_mask"]
    else:
        found.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    return found


def pipelines() -> list[dict[str, Any]]:
    found = []

    def add(task: str, name: str, options: dict[str, Any], inputs: Any, output: Any) -> None:
        found.append({"task": task, "folder": name, "options": options, "input": inputs, "output": output})

    for name in ("bert-tokcls", "xlm-roberta-tokcls"):
        for aggregation in ("none", "simple", "first", "average", "max"):
            pipe = t.pipeline(
                "token-classification",
                model=str(GOLDEN / name),
                tokenizer=tokenizer(GOLDEN / name),
                aggregation_strategy=aggregation,
                ignore_labels=[],
                device="cpu",
            )
            rows = [(text, None) for text in TEXTS]
            if aggregation != "none":
                longest = pipe.model.config.max_position_embeddings
                pipe.tokenizer.model_max_length = longest - 2 * ("roberta" in name)
                rows.append((LONG, 16))
            for text, stride in rows:
                limits = {} if stride is None else {"stride": stride}
                spans = pipe(text, **limits)
                output = [
                    [s.get("entity_group") or s["entity"], s["start"], s["end"], round(float(s["score"]), 6)]
                    for s in spans
                ]
                add("tag", name, {"aggregation": aggregation, **limits}, text, output)
    for name in ("bert-seqcls", "roberta-seqcls", "distilbert-seqcls", "modernbert-seqcls", "deberta-v2-seqcls"):
        pipe = t.pipeline(
            "text-classification",
            model=str(GOLDEN / name),
            tokenizer=tokenizer(GOLDEN / name),
            top_k=None,
            device="cpu",
        )
        for text in TEXTS[:3]:
            rows = pipe([{"text": text, "text_pair": "another"}])[0]
            add("classify", name, {}, [text, "another"], [[row["label"], row["score"]] for row in rows])
    for name in ("bert-mlm", "roberta-mlm", "modernbert-mlm"):
        pipe = t.pipeline("fill-mask", model=str(GOLDEN / name), tokenizer=tokenizer(GOLDEN / name), device="cpu")
        mask = pipe.tokenizer.mask_token
        for text in (f"The quick {mask} fox.", f"Two {mask} and {mask}!"):
            rows = pipe(text, top_k=4)
            rows = rows if isinstance(rows[0], list) else [rows]
            output = [[[r["token"], r["token_str"], r["sequence"], r["score"]] for r in row] for row in rows]
            add("fill_mask", name, {"top_k": 4}, text, output)
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with torch.no_grad():
        for fixture in FIXTURES:
            make(fixture, zlib.crc32(fixture.encode()) % 10000)
        text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in pipelines())
    (GOLDEN / "pipelines.json").write_text(f"[{text}]\n", encoding="utf-8")
