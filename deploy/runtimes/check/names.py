"""Holds the exports of small random adapters of every class against llama.cpp's own converter and
mlx-lm's own loader: see README.md beside this file."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, load_adapters
from safetensors.torch import save_file

from kmerged import ROOT, daemon

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD = 64, 96, 3, 4, 2, 16
QUERY, KEY = HEADS * HEAD, KV_HEADS * HEAD
ATTENTION = {
    "self_attn.q_proj": (QUERY, HIDDEN),
    "self_attn.k_proj": (KEY, HIDDEN),
    "self_attn.v_proj": (KEY, HIDDEN),
}
OUTPUT = {"self_attn.o_proj": (HIDDEN, QUERY)}
LLAMA = ATTENTION | OUTPUT | {
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
PHI = ATTENTION | {
    "self_attn.dense": (HIDDEN, QUERY),
    "mlp.fc1": (INTERMEDIATE, HIDDEN),
    "mlp.fc2": (HIDDEN, INTERMEDIATE),
}
PHI3 = OUTPUT | {
    "self_attn.qkv_proj": (QUERY + 2 * KEY, HIDDEN),
    "mlp.gate_up_proj": (2 * INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
STARCODER2 = ATTENTION | OUTPUT | {
    "mlp.c_fc": (INTERMEDIATE, HIDDEN),
    "mlp.c_proj": (HIDDEN, INTERMEDIATE),
}
# Class, model type, modules.
CLASSES = [
    ("LlamaForCausalLM", "llama", LLAMA),
    ("MistralForCausalLM", "mistral", LLAMA),
    ("Qwen2ForCausalLM", "qwen2", LLAMA),
    ("Qwen3ForCausalLM", "qwen3", LLAMA),
    ("GemmaForCausalLM", "gemma", LLAMA),
    ("Gemma2ForCausalLM", "gemma2", LLAMA),
    ("Gemma3ForCausalLM", "gemma3_text", LLAMA),
    ("Gemma3ForConditionalGeneration", "gemma3", LLAMA),
    ("Mistral3ForConditionalGeneration", "mistral3", LLAMA),
    ("GraniteForCausalLM", "granite", LLAMA),
    ("SmolLM3ForCausalLM", "smollm3", LLAMA),
    ("OlmoForCausalLM", "olmo", LLAMA),
    ("Olmo2ForCausalLM", "olmo2", LLAMA),
    ("CohereForCausalLM", "cohere", LLAMA),
    ("StableLmForCausalLM", "stablelm", LLAMA),
    ("PhiForCausalLM", "phi", PHI),
    ("Phi3ForCausalLM", "phi3", PHI3),
    ("Starcoder2ForCausalLM", "starcoder2", STARCODER2),
]
# Everything that any of the classes asks for.
COMMON = {
    "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
    "vocab_size": 128, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5, "norm_eps": 1e-5, "norm_epsilon": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu",
    "partial_rotary_factor": 0.5, "embedding_multiplier": 1.0, "residual_multiplier": 1.0,
    "logits_scaling": 1.0, "attention_multiplier": 1.0, "logit_scale": 1.0,
    "query_pre_attn_scalar": 16, "final_logit_softcapping": 30.0, "sliding_window": 64,
    "attn_logit_softcapping": 50.0, "rope_scaling": None, "original_max_position_embeddings": 128,
    "use_parallel_residual": False, "model_max_length": 128, "bos_token_id": 1, "eos_token_id": 2,
    "attention_bias": False, "mlp_bias": False, "use_qkv_bias": False,
}
WRAPPED = {"mistral3": "mistral", "gemma3": "gemma3_text"}


def config_of(name, kind):
    if kind not in WRAPPED:
        return COMMON | {"architectures": [name], "model_type": kind}
    text = COMMON | {"model_type": WRAPPED[kind]}
    outer = {"architectures": [name], "model_type": kind, "vision_config": {}, "vocab_size": 128}
    return outer | {"text_config": text}


def write_adapter(folder: Path, kind, modules):
    prefix = "base_model.model.model." + ("language_model." if kind in WRAPPED else "") + "layers."
    random = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(LAYERS):
        for module, (rows, columns) in modules.items():
            for factor, shape in (("A", (4, columns)), ("B", (rows, 4))):
                name = f"{prefix}{layer}.{module}.lora_{factor}.weight"
                tensors[name] = torch.randn(*shape, generator=random)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
    config["target_modules"] = [module.split(".")[1] for module in modules]
    (folder / "adapter_config.json").write_text(json.dumps(config))


def contents(path: Path):
    reader = gguf.GGUFReader(path)
    keys = ("general.type", "general.architecture", "adapter.type", "adapter.lora.alpha")
    tensors = {
        t.name: (list(map(int, t.shape)), t.tensor_type, np.ascontiguousarray(t.data).tobytes())
        for t in reader.tensors
    }
    return {key: reader.get_field(key).contents() for key in keys}, tensors


def beside_converter(llama_cpp: Path, base: Path, peft: Path, ours: Path, work: Path):
    theirs = work / "theirs.gguf"
    script = llama_cpp / "convert_lora_to_gguf.py"
    command = [sys.executable, script, peft, "--base", base, "--outtype", "f32", "--outfile", theirs]
    environment = dict(os.environ, PYTHONPATH=str(llama_cpp / "gguf-py"))
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ran.returncode:
        return "not converted: " + ran.stderr.strip().splitlines()[-1][:80]
    return "same" if contents(theirs) == contents(ours) else "DIFFERENT"


def in_mlx(config: dict, folder: Path):
    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(config))
    load_adapters(model, str(folder))
    loaded = dict(tree_flatten(model.parameters()))
    tensors = mx.load(str(folder / "adapters.safetensors"))
    same = all(bool(mx.array_equal(loaded[name], tensor)) for name, tensor in tensors.items())
    return "loaded" if same else "DIFFERENT"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-cpp", type=Path, required=True, help="a source tree of llama.cpp")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/debug")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    failed = False
    with tempfile.TemporaryDirectory(prefix="kmc-") as room, daemon(options.bin, Path(room)) as kmerge:
        print(f"{'class':34} {'beside the converter':22} in mlx-lm")
        for name, kind, modules in CLASSES:
            work = Path(room) / kind
            work.mkdir()
            config = config_of(name, kind)
            (work / "config.json").write_text(json.dumps(config))
            write_adapter(work / "adapter", kind, modules)
            kmerge("base", "add", kind, "--config", work / "config.json",
                   "--operator", "kmerge-linear")
            kmerge("push", work / "adapter", "--task", "t", "--base", kind, "--wait")
            for form in ("peft", "gguf"):
                kmerge("pull", "t", "--base", kind, "--as", form, "--out", work / form)
            ours = work / "gguf" / "adapter.gguf"
            beside = beside_converter(options.llama_cpp, work, work / "peft", ours, work)
            if kind == "olmo":
                mlx = "refused, as it should be"
                try:
                    kmerge("pull", "t", "--base", kind, "--as", "mlx", "--out", work / "mlx")
                    mlx = "NOT REFUSED"
                except subprocess.CalledProcessError:
                    pass
            else:
                kmerge("pull", "t", "--base", kind, "--as", "mlx", "--out", work / "mlx")
                mlx = in_mlx(config, work / "mlx")
            print(f"{name:34} {beside:22} {mlx}", flush=True)
            failed |= beside == "DIFFERENT" or mlx.isupper()
    print("failed" if failed else "all good")
    return failed


if __name__ == "__main__":
    sys.exit(main())
