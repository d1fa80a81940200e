"""Translate English captions into German."""

import lapwing

with lapwing.load("lapwing/tiny-en-de") as model:
    for result in model.translate(["A dog runs through the snow.", "Two men are talking."]):
        print(result.text)

    best = model.translate("A girl is reading a book.", beams=8, num_hypotheses=3)
    for hypothesis in best.hypotheses:
        print(f"{hypothesis.score:7.3f}  {hypothesis.text}")
