"""Chat for two turns: python examples/chat.py [MODEL]. Default: a tiny model with random weights."""

import sys
from pathlib import Path

import lapwing

TINY = Path(__file__).parent.parent / "tests" / "golden" / "qwen2"

with lapwing.load(sys.argv[1] if len(sys.argv) > 1 else TINY) as model:
    chat = lapwing.Chat(model, system="Answer in one sentence.", max_tokens=12, temperature=0)
    for question in ("What is a lapwing?", "Where does it nest?"):
        answer = "".join(chunk.text for chunk in chat.stream(question))
        print(f"{question} -> {len(answer)} characters")
    print(f"{len(chat.messages)} messages")
