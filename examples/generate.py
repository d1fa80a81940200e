"""Continue a text: as a whole, streamed, and with log-probabilities."""

import lapwing

with lapwing.load("lapwing/tiny-shakespeare") as model:
    print(model.generate("ROMEO:\n", max_tokens=40, temperature=0).text)

    for chunk in model.stream("JULIET:\n", max_tokens=40, seed=1, stop="\n\n"):
        print(chunk.text, end="", flush=True)
    print()

    result = model.generate("KING", max_tokens=5, temperature=0, logprobs=3)
    for token in result.logprobs:
        alternatives = ", ".join(f"{text!r} {logprob:.2f}" for _, text, logprob in token.top)
        print(f"{token.text!r}: {alternatives}")
