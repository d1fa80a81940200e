"""Score texts: the log-probability of each token, and perplexity."""

import lapwing

TEXTS = ["I pray thee, speak no more.", "Please stop talking right now."]

with lapwing.load("lapwing/tiny-shakespeare") as model:
    for text, score in zip(TEXTS, model.score(TEXTS), strict=True):
        print(f"{score.perplexity:8.1f}  {text}")
