"""Golden adapters of the tiny Llama in the formats of llama.cpp and mlx-lm, by their own libraries.

    python formats.py        # needs torch, safetensors, gguf, mlx

For each adapter: expected/formats/<name>.gguf, written with llama.cpp's gguf package, and
expected/formats/<name>/, written with mlx. The order of q's and k's rows is llama.cpp's own
(reshape, swap, reshape), on torch tensors; nothing of kmerge takes part.
"""

import json
from pathlib import Path

import gguf
import mlx.core as mx
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
OUT = HERE / "expected" / "formats"
NAMES = ["a1", "a4-f16", "a4-bf16"]
BASE = json.loads((HERE / "base" / "config.json").read_text())
TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}


def permute(weights: torch.Tensor, heads: int) -> torch.Tensor:
    rows = weights.shape[0] // heads
    return (
        weights.reshape(heads, 2, rows // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def modules(name: str):
    factors = load_file(HERE / "adapters" / name / "adapter_model.safetensors")
    for layer in range(BASE["num_hidden_layers"]):
        for module in TENSORS:
            path = f"model.layers.{layer}.{module}"
            a, b = (factors.get(f"base_model.model.{path}.lora_{f}.weight") for f in "AB")
            if a is not None:
                yield layer, module, path, a, b


def write_gguf(name: str, config: dict) -> None:
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    heads = {
        "self_attn.q_proj": BASE["num_attention_heads"],
        "self_attn.k_proj": BASE["num_key_value_heads"],
    }
    for layer, module, _, a, b in modules(name):
        if module in heads:
            b = permute(b, heads[module])
        for leaf, tensor in (("lora_a", a), ("lora_b", b)):
            tensor = tensor.contiguous()
            raw = None
            if tensor.dtype == torch.bfloat16:
                array = tensor.view(torch.uint8).numpy()
                raw = gguf.GGMLQuantizationType.BF16
            else:
                array = tensor.numpy()
            writer.add_tensor(f"blk.{layer}.{TENSORS[module]}.weight.{leaf}", array, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_mlx(name: str, config: dict) -> None:
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    keys = set()
    for _, module, path, a, b in modules(name):
        keys.add(module)
        for leaf, tensor in (("lora_a", a), ("lora_b", b)):
            turned = tensor.T.contiguous()
            if tensor.dtype == torch.bfloat16:
                array = mx.array(turned.view(torch.uint16).numpy()).view(mx.bfloat16)
            else:
                array = mx.array(turned.numpy())
            tensors[f"{path}.{leaf}"] = array
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    lora = {
        "rank": config["r"],
        "scale": config["lora_alpha"] / config["r"],
        "dropout": 0.0,
        "keys": sorted(keys),
    }
    text = {"fine_tune_type": "lora", "num_layers": BASE["num_hidden_layers"], "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(text, indent=4) + "\n")


OUT.mkdir(parents=True, exist_ok=True)
for name in NAMES:
    config = json.loads((HERE / "adapters" / name / "adapter_config.json").read_text())
    assert not config["use_rslora"] and not config["rank_pattern"] and not config["alpha_pattern"], name
    write_gguf(name, config)
    write_mlx(name, config)
