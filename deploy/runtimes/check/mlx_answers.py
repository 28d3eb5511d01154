"""Greedy continuations by mlx-lm, with the same documents on stdin and stdout as llama.mjs."""

import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_adapters, load_model

asked = json.load(sys.stdin)
mx.set_default_device(mx.cpu)
model, _ = load_model(Path(asked["model"]))
if asked["adapter"]:
    # What mlx_lm.generate --adapter-path does: strict about every name and shape.
    model = load_adapters(model, asked["adapter"])
model.eval()
answers = []
for prompt in asked["prompts"]:
    cache = make_prompt_cache(model)
    tokens, answer = prompt, []
    while len(answer) < asked["count"] and (not answer or answer[-1] != asked["stop"]):
        logits = model(mx.array([tokens]), cache=cache)[0, -1]
        tokens = [int(mx.argmax(logits))]
        answer += tokens
    answers.append(answer)
json.dump(answers, sys.stdout)
