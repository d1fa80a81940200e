"""A conversation of two turns: python examples/chat.py [MODEL]. Without one, a tiny model with random weights."""

import sys
from pathlib import Path

import lapwing

TINY = Path(__file__).parent.parent / "tests" / "golden" / "qwen2"

with lapwing.load(sys.argv[1] if len(sys.argv) > 1 else TINY) as model:
    messages = [{"role": "system", "content": "Answer in one sentence."}]
    for question in ("What is a lapwing?", "Where does it nest?"):
        messages.append({"role": "user", "content": question})
        answer = ""
        for chunk in model.stream_chat(messages, max_tokens=12, temperature=0):
            answer += chunk.text
        messages.append({"role": "assistant", "content": answer})
        print(f"{question} -> {len(answer)} characters")
