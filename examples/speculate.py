"""Speculative decoding, with the same result in fewer steps: guesses from the text itself, and from a smaller model."""

import lapwing

PROMPT = "First Citizen:\nWe are accounted poor citizens.\n\nFirst Citizen:\nWe are"

with lapwing.load("lapwing/tiny-shakespeare") as model, lapwing.load("lapwing/tiny-shakespeare", weights="q4") as draft:
    plain = model.generate(PROMPT, max_tokens=40, temperature=0)
    looked_up = model.generate(PROMPT, max_tokens=40, temperature=0, prompt_lookup=6)
    drafted = model.generate(PROMPT, max_tokens=40, temperature=0, draft_model=draft, draft_tokens=4)
    print("equal:", plain.text == looked_up.text == drafted.text)
    print(plain.text)
