"""Makes the small SentencePiece models of ``sentencepiece/`` and what transformers' classes make of texts with them.

Needs sentencepiece and transformers 5; nothing in the tests does. Run it as

    python tests/golden/make_sentencepiece.py
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import sentencepiece as spm
import transformers as t
from transformers.models.nllb import tokenization_nllb as nllb

FOLDER = Path(__file__).parent / "sentencepiece"
CORPUS = """The quick brown fox jumps over the lazy dog. Der schnelle braune Fuchs springt über den faulen Hund.
Le renard brun et rapide saute par-dessus le chien paresseux. Hello, world! How are you today? It isn't easy.
Vulpea brună și rapidă sare peste câinele leneș. A man is riding a bicycle down the street in the rain.
Two young women are sitting at a table; they talk about 12345 things, e.g. foo@bar.com (2024).
Eine Frau liest ein Buch im Park, während ein Kind mit einem Ball spielt. Быстрая лиса прыгает.
translate English to German: summarize: the house is wonderful, that is good news for us all."""
TEXTS = [
    "Hello, world!",
    "The quick brown fox isn't here.",
    "  leading and two  spaces ",
    "Zürich ﬁne ２０２４ über\tden Hund\nLe chien",
    "unknown 漢字 and 🙂",
    "summarize: the man is riding.",
    "</s> in the text <pad>",
    "",
]
BASE = {
    "model_type": "unigram",
    "vocab_size": 150,
    "character_coverage": 1.0,
    "user_defined_symbols": [],
    "minloglevel": 2,
}
MODELS: dict[str, dict[str, Any]] = {
    "unigram": {},
    "bpe": {"model_type": "bpe"},
    "padded": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
}
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    # class, SentencePiece model, its file's name, tokenizer_config.json
    ("MBartTokenizer", "unigram", "sentencepiece.bpe.model", {"src_lang": "ro_RO"}),
    ("MBartTokenizer", "unigram", "sentencepiece.bpe.model", {}),
    ("MBart50Tokenizer", "unigram", "sentencepiece.bpe.model", {"src_lang": "gl_ES"}),
    ("NllbTokenizer", "bpe", "sentencepiece.bpe.model", {"src_lang": "deu_Latn"}),
    ("NllbTokenizer", "bpe", "sentencepiece.bpe.model", {"legacy_behaviour": True}),
    ("M2M100Tokenizer", "bpe", "sentencepiece.bpe.model", {"src_lang": "fr"}),
    ("M2M100Tokenizer", "bpe", "sentencepiece.bpe.model", {"language_codes": "wmt21"}),
    ("T5Tokenizer", "padded", "spiece.model", {"extra_ids": 7}),
    ("PegasusTokenizer", "padded", "spiece.model", {}),
]


def train(name: str, values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        corpus, rules = Path(place) / "corpus.txt", Path(place) / "rules.tsv"
        corpus.write_text(CORPUS, encoding="utf-8")
        pairs = [
            ("ﬁ", "fi"),
            ("\t", " "),
            ("\n", " "),
            ("\u00a0", " "),
            *((chr(0xFF10 + d), str(d)) for d in range(10)),
        ]
        lines = (f"{ord(a):X}\t{' '.join(f'{ord(c):X}' for c in b)}" for a, b in pairs)
        rules.write_text("\n".join(lines) + "\n")
        options = {**BASE, **values, "normalization_rule_tsv": str(rules), "model_prefix": str(FOLDER / name)}
        spm.SentencePieceTrainer.train(input=str(corpus), **options)
    (FOLDER / f"{name}.vocab").unlink()


def record(class_name: str, model: str, file: str, config: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copy(FOLDER / f"{model}.model", folder / file)
        values = {"tokenizer_class": class_name, **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(values))
        pieces = spm.SentencePieceProcessor(model_file=str(folder / file))
        if class_name == "M2M100Tokenizer":
            names = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, len(pieces)))]
            (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
        own = getattr(t, class_name).from_pretrained(folder)
        rows = []
        for text in TEXTS:
            ids = own(text)["input_ids"]
            # Without a tokenizer.json, transformers 5 leaves out mBART's map of characters and NLLB's languages.
            if class_name == "MBartTokenizer" and "<" not in text:
                ids = [*(3 if i == 0 else i + 1 for i in pieces.encode(text)), *ids[-2:]]
            # It counts M2M-100's languages as text.
            text_ids = ids[1:] if class_name == "M2M100Tokenizer" else ids
            decoded = own.decode(text_ids, skip_special_tokens=True)
            if class_name == "NllbTokenizer":
                place = -1 if config.get("legacy_behaviour") else 0
                assert ids[place] == 3
                codes = nllb.FAIRSEQ_LANGUAGE_CODES
                ids[place] = len(pieces) + 1 + codes.index(config.get("src_lang", "eng_Latn"))
            rows.append({"text": text, "ids": ids, "decoded": decoded})
        return {"class": class_name, "model": model, "file": file, "config": config, "texts": rows}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, values in MODELS.items():
        train(name, values)
    found = [record(*case) for case in CASES]
    text = ",\n".join(json.dumps(case, ensure_ascii=False) for case in found)
    (FOLDER / "recorded.json").write_text(f"[{text}]\n", encoding="utf-8")
