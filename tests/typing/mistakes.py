"""Mistakes that a type checker finds: each line with an error says so, and mypy reports no others."""

import lapwing
from lapwing import Seq2Seq, TextEncoder, TextGenerator


def mistakes(generator: TextGenerator, encoder: TextEncoder, translator: Seq2Seq) -> None:
    lapwing.load("name", task="embed").generate("A")  # error: attr-defined
    lapwing.load("name").classify("A")  # error: union-attr
    lapwing.load("name", weights="int8")  # error: call-overload
    lapwing.lod("name")  # error: attr-defined
    generator.generate("A", max_new_tokens=5)  # error: call-overload
    generator.generate("A", temperature="hot")  # error: call-overload
    generator.generate(3)  # error: call-overload
    print(generator.generate("A").txt)  # error: attr-defined
    encoder.classify("A", scores="softmx")  # error: call-overload
    encoder.tag("A", aggregation="sum")  # error: call-overload
    encoder.rank("A", "B", scores="softmax")  # error: arg-type
    print(encoder.tokenizer.eos)  # error: attr-defined
    print(translator.translate("A").translation_text)  # error: attr-defined
    translator.translate("A", tgt_lang="de")  # error: call-overload
