"""Expected values of zero-shot classification, by the pipeline of transformers: writes zero_shot.json.

The checkpoints are those of bert-seqcls and bart-seqcls with other names of labels; BART gets a small tokenizer,
which is stored with the values. The heads are scaled so that the scores differ.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast, pipeline

HERE = Path(__file__).parent
TEXTS = ["the cat sat on the mat", "a dog runs in the street and a man sees it", "i read the news"]
LABELS = ["cat", "dog", "the news"]
ORDERS = [
    ["contradiction", "neutral", "entailment"],
    ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"],
    ["contradiction", "entailment", "neutral"],
]
CALLS: list[dict[str, Any]] = [
    {},
    {"multi_label": True},
    {"hypothesis_template": "it is about {} ."},
    {"candidate_labels": ["cat"]},
]


def words() -> Tokenizer:
    """A tokenizer of whole words with the special tokens of BART."""
    known = sorted({word for text in [*TEXTS, *LABELS, "this example is", "it is about"] for word in text.split()})
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", ".", *known])}
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    found.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return found


def values(name: str, order: list[str], scale: float, tokenizer: str | None) -> list[dict[str, Any]]:
    """The scores of each call for each text."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        shutil.copytree(HERE / name, folder)
        config = json.loads((folder / "config.json").read_text())
        config["id2label"] = {str(index): label for index, label in enumerate(order)}
        config["label2id"] = {label: index for index, label in enumerate(order)}
        (folder / "config.json").write_text(json.dumps(config))
        if tokenizer is None:
            own: Any = AutoTokenizer.from_pretrained(folder)
        else:
            special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
            own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer), **special)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            last = model.classifier if name.startswith("bert") else model.classification_head.out_proj
            last.weight *= scale
        # No padding: as a text alone.
        run = pipeline("zero-shot-classification", model=model, tokenizer=own, device="cpu", batch_size=1)
        found = []
        for call in CALLS:
            options = {"candidate_labels": LABELS, **call}
            results = [run(text, **options) for text in TEXTS]
            found.append({**options, "scores": [dict(zip(r["labels"], r["scores"], strict=True)) for r in results]})
        return found


def main() -> None:
    tokenizer = words().to_str()
    cases = []
    for name, scale, own in (("bert-seqcls", 8.0, None), ("bart-seqcls", 1.0, tokenizer)):
        for order in ORDERS:
            cases.append({"checkpoint": name, "order": order, "scale": scale, "calls": values(name, order, scale, own)})
    text = json.dumps({"texts": TEXTS, "tokenizer": json.loads(tokenizer), "cases": cases}, indent=1)
    (HERE / "zero_shot.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
