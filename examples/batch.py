"""Translate a batch: results are in input order and equal those of single calls."""

import lapwing

TEXTS = ["A man.", "A woman in a red coat is waiting for the bus.", "Two dogs play."] * 4

with lapwing.load("lapwing/tiny-en-de", threads=2) as model:
    many = model.translate(TEXTS, beams=1)
    single = [model.translate(text, beams=1) for text in TEXTS]
    print("equal:", many == single)
    print(many[1].text)
