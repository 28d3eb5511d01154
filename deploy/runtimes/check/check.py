"""Proves the exports with the real llama.cpp and mlx-lm: see README.md beside this file."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from kmerged import ROOT, daemon

HERE = Path(__file__).resolve().parent
PROMPTS = 16
TOKENS = 16
BASE = "checked"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the base model, a GGUF file")
    parser.add_argument("--tasks", type=Path, help="<task>.jsonl with prompts")
    parser.add_argument("--record", type=Path, help="keep prompts and reference in this file")
    parser.add_argument("--recorded", type=Path, help="take them from it: needs neither torch nor tasks")
    parser.add_argument("--adapters", type=Path, default=ROOT / "client/demo")
    parser.add_argument("--count", type=int, default=4, help="how many tasks")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/debug")
    parser.add_argument("--node", type=Path, help="where node-llama-cpp is installed")
    parser.add_argument("--work", type=Path, help="a directory to keep; the base model is reused")
    return parser.parse_args()


# The base model, in F32 for everyone, so that nobody rounds on the way.


def prepare(source: Path, work: Path):
    """Gives the model as a GGUF file in F32 and as a directory of safetensors."""
    plain, folder = prepare_gguf(source, work), work / "base"
    if not (folder / "model.safetensors").exists():
        import torch
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder.mkdir(exist_ok=True)
        where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        config = model.config.to_dict()
        config.pop("quantization_config", None)
        config |= {"architectures": [type(model).__name__], "torch_dtype": "float32"}
        # transformers has it inside since 5.0, mlx-lm looks for it here.
        config["rope_theta"] = (config.get("rope_parameters") or config)["rope_theta"]
        (folder / "config.json").write_text(json.dumps(config, indent=2, default=str))
        tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}
        if config.get("tie_word_embeddings"):
            tensors.pop("lm_head.weight", None)
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return plain, folder


def prepare_gguf(source: Path, work: Path):
    plain = work / "base-f32.gguf"
    if not plain.exists():
        to_f32(source, plain)
    return plain


def copy_gguf(source: Path, target: Path, change):
    """Copies a GGUF file, each tensor as `change(name, tensor)` gives it."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, field.contents())
        else:
            writer.add_key_value(name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        data, kind = change(tensor.name, tensor)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def to_f32(source: Path, target: Path):
    def plain(_, tensor):
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return np.ascontiguousarray(data, dtype=np.float32), None

    copy_gguf(source, target, plain)


def without_permutation(source: Path, target: Path, config: dict):
    """What an export that forgot the order of q's and k's rows would be."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}

    def undo(name, tensor):
        data = np.array(tensor.data)
        count = heads.get(name.split(".")[2])
        if count and name.endswith(".lora_b"):
            rows = data.shape[0] // count
            turned = data.reshape(count, rows // 2, 2, -1).swapaxes(1, 2)
            data = np.ascontiguousarray(turned.reshape(data.shape))
        return data, None

    copy_gguf(source, target, undo)


# kmerge, from pushing to pulling.


def exports(kmerge, options, tasks, config: Path, base: Path | None, work: Path):
    """Pushes the tasks' adapters, pulls each task in every format, and one as a whole model."""
    kmerge("base", "add", BASE, "--config", config)
    for task in tasks:
        kmerge("push", options.adapters / task, "--task", task, "--base", BASE, "--wait")
    found = {}
    for task in tasks:
        found[task] = {f: work / "out" / task / f for f in ("peft", "gguf", "mlx")}
        for form, out in found[task].items():
            kmerge("pull", task, "--base", BASE, "--as", form, "--out", out, "--force")
    if base is None:
        return found, None
    # The whole model, once: it is large.
    whole = work / "model"
    shutil.rmtree(whole, ignore_errors=True)
    kmerge("pull", tasks[0], "--base", BASE, "--as", "model", "--base-weights", base, "--out", whole)
    return found, whole


# The three runtimes.


class Reference:
    """transformers and PEFT, in torch."""

    def __init__(self, folder: Path, adapters: dict, stop: int):
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        torch.set_grad_enabled(False)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        (first, path), *others = adapters.items()
        self.model = PeftModel.from_pretrained(base, path, adapter_name=first).eval()
        for name, path in others:
            self.model.load_adapter(path, adapter_name=name)
        self.stop = stop

    def with_adapter(self, name, prompts):
        self.model.set_adapter(name)
        return greedy(self.model, prompts, self.stop)

    def without(self, prompts):
        with self.model.disable_adapter():
            return greedy(self.model, prompts, self.stop)


def greedy(model, prompts, stop):
    import torch

    # All at once, shorter ones filled up on the left, where the mask leaves them out.
    longest = max(map(len, prompts))
    filled = [[stop] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    out = model.generate(
        input_ids=torch.tensor(filled), attention_mask=torch.tensor(mask), do_sample=False,
        max_new_tokens=TOKENS, eos_token_id=stop, pad_token_id=stop,
    )
    answers = (row[longest:].tolist() for row in out)
    return [a[: a.index(stop) + 1] if stop in a else a for a in answers]


def ask(command, model, adapter, prompts, stop):
    document = {
        "model": str(model), "adapter": adapter and str(adapter), "prompts": prompts,
        "count": TOKENS, "stop": stop,
    }
    ran = subprocess.run(
        [str(word) for word in command], input=json.dumps(document), text=True, check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(ran.stdout)


def equal(left, right):
    return sum(l == r for l, r in zip(left, right, strict=True))


def measured(options, work: Path, found):
    """What transformers and PEFT answer, task by task: prompts, with the adapter, without it."""
    from transformers import AutoTokenizer

    folder = work / "base"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    truth = Reference(folder, {task: forms["peft"] for task, forms in found.items()}, stop)
    known = {}
    for task in found:
        lines = (options.tasks / f"{task}.jsonl").read_text().splitlines()[:PROMPTS]
        prompts = [
            tokenizer(json.loads(line)["prompt"], add_special_tokens=False)["input_ids"]
            for line in lines
        ]
        assert len(prompts) == PROMPTS
        known[task] = (prompts, truth.with_adapter(task, prompts), truth.without(prompts))
    return {"stop": stop, "tasks": known}


def main():
    options = arguments()
    work = options.work or Path(tempfile.mkdtemp(prefix="kmerge-check-"))
    work.mkdir(parents=True, exist_ok=True)
    if options.recorded:
        plain, base = prepare_gguf(options.model, work), None
    else:
        plain, base = prepare(options.model, work)
    config_file = options.adapters / "config.json"
    config = json.loads(config_file.read_text())
    recorded = options.recorded and json.loads(options.recorded.read_text())
    available = sorted(p.name for p in options.adapters.iterdir() if p.is_dir())
    has_prompts = lambda task: (options.tasks / f"{task}.jsonl").exists()
    tasks = list(recorded["tasks"]) if recorded else [t for t in available if has_prompts(t)]
    tasks = tasks[: options.count]
    assert len(tasks) >= 4, f"adapters and prompts for four tasks are needed, found {tasks}"
    with tempfile.TemporaryDirectory(prefix="kmc-") as room, daemon(options.bin, Path(room)) as kmerge:
        found, whole = exports(kmerge, options, tasks, config_file, base, work)
    truth = recorded or measured(options, work, found)
    known, stop = truth["tasks"], truth["stop"]
    if options.record:
        options.record.write_text(json.dumps(truth, separators=(",", ":")) + "\n")
    runtimes = {}
    if options.node:
        runtimes["gguf"] = (plain, ["node", HERE / "llama.mjs", options.node])
    if not recorded:
        runtimes["mlx"] = (base, [sys.executable, HERE / "mlx_answers.py"])
    # On another machine than the recording's two tokens that are as likely may change places.
    needed = PROMPTS - 1 if recorded else PROMPTS
    failures = []

    def row(task, name, answers, is_good):
        _, wanted, bare = known[task]
        same, base = equal(answers, wanted), equal(answers, bare)
        good = is_good(same, base)
        mark = "" if good else "   FAILED"
        print(f"{task:16} {name:20} {same:16} {base:12}{mark}", flush=True)
        if not good:
            failures.append((task, name))

    print(f"{'task':16} {'export':20} {'as the reference':>16} {'as the base':>12}   of {PROMPTS}")
    if whole:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32).eval()
        answers = greedy(model, known[tasks[0]][0], stop)
        row(tasks[0], "model", answers, lambda same, base: same == PROMPTS and base < PROMPTS)
        del model
    for form, (model, command) in runtimes.items():
        bare = ask(command, model, None, known[tasks[0]][0], stop)
        row(tasks[0], f"{form}, no adapter", bare, lambda _, base: base >= needed)
        for task in tasks:
            path = found[task][form]
            adapter = path / "adapter.gguf" if form == "gguf" else path
            answers = ask(command, model, adapter, known[task][0], stop)
            row(task, form, answers, lambda same, base: same >= needed and base < needed)
            if form == "gguf":
                broken = work / f"{task}-unpermuted.gguf"
                without_permutation(adapter, broken, config)
                answers = ask(command, model, broken, known[task][0], stop)
                row(task, "gguf, not permuted", answers, lambda same, _: same < needed)
    print("all good" if not failures else f"failed: {failures}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
