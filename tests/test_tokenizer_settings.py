"""Settings of tokenizer_config.json beside a tokenizer.json that says otherwise, against recordings of
transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import lapwing
from lapwing.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden"
ROWS: list[dict[str, Any]] = json.loads((GOLDEN / "tokenizer_settings.json").read_text(encoding="utf-8"))


def changed(row: dict[str, Any], target: Path) -> Tokenizer:
    """The tokenizer of the row's fixture with its changes to tokenizer_config.json: ``config`` is added,
    ``without`` removed, ``flags`` are those of added tokens by their text."""
    for path in (GOLDEN / row["fixture"]).iterdir():
        if path.suffix in (".json", ".model", ".spm", ".txt") and not path.name.startswith("expected"):
            shutil.copy(path, target)
    place = target / "tokenizer_config.json"
    config = json.loads(place.read_text(encoding="utf-8"))
    for key in row.get("without", ()):
        config.pop(key, None)
    config.update(row.get("config", {}))
    for entry in config.get("added_tokens_decoder", {}).values():
        entry.update(row.get("flags", {}).get(entry["content"], {}))
    place.write_text(json.dumps(config), encoding="utf-8")
    return Tokenizer(target)


@pytest.mark.parametrize("fixture", sorted({row["fixture"] for row in ROWS}))
def test_settings_override_tokenizer_json(fixture: str, tmp_path: Path) -> None:
    made: dict[str, Tokenizer] = {}
    for row in (row for row in ROWS if row["fixture"] == fixture):
        key = json.dumps([row.get(part) for part in ("config", "without", "flags")])
        if key not in made:
            (tmp_path / str(len(made))).mkdir()
            made[key] = changed(row, tmp_path / str(len(made)))
        assert made[key].encode(row["text"]) == row["ids"], (key, row["text"])
        assert made[key].decode(row["ids"], skip_special_tokens=True) == row["decoded"], (key, row["text"])


@pytest.mark.parametrize("setting", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_settings_of_another_type_are_named(setting: str, tmp_path: Path) -> None:
    with pytest.raises(lapwing.CheckpointError, match=setting):
        changed({"fixture": "bert-model", "config": {setting: "no"}}, tmp_path)


ESM = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]


@pytest.mark.parametrize(
    ("text", "ids", "decoded"),
    [
        ("MKT<mask>VRQ", [0, 20, 15, 11, 32, 7, 10, 16, 2], "M K T V R Q"),
        ("M K T <mask> V", [0, 20, 15, 11, 32, 7, 2], "M K T V"),
        ("MKTJvrqXx", [0, 20, 15, 11, 3, 24, 3, 2], "M K T X"),
        ("A  B\nC", [0, 5, 25, 23, 2], "A B C"),
        ("<pad>AA<eos>", [0, 1, 5, 5, 2, 2], "A A"),
        (" M1K ", [0, 20, 3, 15, 2], "M K"),
        ("jkl", [0, 3, 2], ""),
        ("", [0, 2], ""),
    ],
)
def test_word_list_of_esm_is_cut_at_every_token(text: str, ids: list[int], decoded: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(ESM), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}', encoding="utf-8")
    own = Tokenizer(tmp_path)
    assert own.encode(text) == ids
    assert own.decode(ids, skip_special_tokens=True) == decoded


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "BertweetTokenizer", "RoFormerTokenizer", "TapasTokenizer"])
@pytest.mark.parametrize("place", ["tokenizer_config.json", "config.json"])
def test_word_lists_of_other_classes_are_refused_by_name(name: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nx", encoding="utf-8")
    (tmp_path / place).write_text(json.dumps({"tokenizer_class": name, "model_type": "bert"}), encoding="utf-8")
    with pytest.raises(lapwing.CheckpointError, match=name):
        Tokenizer(tmp_path)


def test_word_list_of_mpnet_doubles_the_separator_of_pairs(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("<s>\n<pad>\n</s>\n[UNK]\na\nb\n<mask>", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "mpnet"}', encoding="utf-8")
    assert Tokenizer(tmp_path).encode_pair("a", "B").ids == [0, 4, 2, 2, 5, 2]


def test_byte_level_vocabulary_of_deberta(tmp_path: Path) -> None:
    words = ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]", "a", "b", "ab"]
    (tmp_path / "vocab.json").write_text(
        json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8"
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "deberta"}', encoding="utf-8")
    own = Tokenizer(tmp_path)
    assert own.encode("ab") == [0, 7, 1]
    assert own.encode_pair("ab", "a").ids == [0, 7, 1, 1, 5, 1]
