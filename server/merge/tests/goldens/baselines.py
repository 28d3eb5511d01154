"""Makes expected/baselines: what PEFT's add_weighted_adapter gives for ties, dare and svd.

    python baselines.py        # peft, transformers, torch and safetensors must be installed

All members go into one slot, in order. They are put into normal form first (sqrt(s) folded into both
factors, scaling 1), since that is what kmerge compares; see operator/sparse.rs. PEFT's random draws
are replaced by those of operator/dare.rs, which are repeated here.
"""

import json
import math
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora.model import LoraModel
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
OUT = HERE / "expected" / "baselines"
MEMBERS = ["a0", "a1", "a2", "a3"]
PREFIX = "base_model.model."
RANK = 4
WORD = (1 << 64) - 1
# PEFT's word, the weighting and the density of each case.
CASES = [
    ("ties", "ties", "running", 0.5),
    ("ties", "ties", "released", 0.3),
    ("dare-linear", "dare_linear", "running", 0.5),
    ("dare-ties", "dare_ties", "released", 0.7),
    ("svd", "svd", "running", 1.0),
    ("svd", "svd", "released", 1.0),
]


def mix(bits):
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & WORD
    return bits ^ (bits >> 31)


def seed(path, generation, place):
    state = 0
    for part in [*path.encode(), generation, place]:
        state = mix(state ^ part)
    return state


def draws(start, count):
    step = 0x9E3779B97F4A7C15
    return [mix((start + step * (i + 1)) & WORD) >> 11 for i in range(count)]


class Chance:
    """Stands in for torch.bernoulli while one module is merged: A then B, slot then newcomer."""

    def __init__(self):
        self.density = 1.0
        self.generation = 0
        self.path = ""
        self.place = 0

    def __call__(self, probabilities):
        # Not from the probabilities, which are the density rounded to f32.
        limit = int(self.density * 2**53)
        values = draws(seed(self.path, self.generation, self.place), probabilities.numel())
        self.place += 1
        mask = torch.tensor([float(value < limit) for value in values])
        return mask.reshape(probabilities.shape)


CHANCE = Chance()


def follow_modules():
    """Tells CHANCE which module PEFT is at."""
    inner = LoraModel._generalized_task_arithmetic_weighted_adapter

    def outer(self, combination, adapters, weights, target, *rest):
        names = [name for name, module in self.model.named_modules() if module is target]
        CHANCE.path, CHANCE.place = names[0], 0
        return inner(self, combination, adapters, weights, target, *rest)

    LoraModel._generalized_task_arithmetic_weighted_adapter = outer
    torch.bernoulli = CHANCE


def normal_form(name):
    config = json.loads((HERE / "adapters" / name / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / config["r"]
    tensors = load_file(HERE / "adapters" / name / "adapter_model.safetensors")
    return {key: value.float() * math.sqrt(scaling) for key, value in tensors.items()}


def weights(operator, weighting, n):
    if weighting == "running":
        return [1 - 1 / n, 1 / n]
    return [0.5, 0.5] if operator == "svd" else [1.0, 1.0]


def run(operator, word, weighting, density):
    base = LlamaConfig(**json.loads((HERE / "base" / "config.json").read_text()))
    config = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    model = get_peft_model(LlamaForCausalLM(base), config, adapter_name="step1")
    set_peft_model_state_dict(model, normal_form(MEMBERS[0]), adapter_name="step1")
    CHANCE.density = density
    for n, member in enumerate(MEMBERS[1:], start=2):
        model.add_adapter(member, config)
        set_peft_model_state_dict(model, normal_form(member), adapter_name=member)
        CHANCE.generation = n
        model.add_weighted_adapter(
            [f"step{n - 1}", member],
            weights(operator, weighting, n),
            f"step{n}",
            combination_type=word,
            density=density,
        )
    last = f".step{len(MEMBERS)}.weight"
    return {
        key.removeprefix(PREFIX).replace(last, ".weight"): value.detach().clone().contiguous()
        for key, value in model.state_dict().items()
        if key.endswith(last)
    }


def main():
    torch.set_num_threads(1)
    follow_modules()
    OUT.mkdir(parents=True, exist_ok=True)
    cases = []
    for operator, word, weighting, density in CASES:
        file = f"{operator}-{weighting}.safetensors"
        save_file(run(operator, word, weighting, density), OUT / file)
        cases.append(
            {
                "operator": operator,
                "weighting": weighting,
                "density": density,
                "members": MEMBERS,
                "file": file,
            }
        )
    (OUT / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
