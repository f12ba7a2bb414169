#!/usr/bin/env python3
"""Scores examples the reference's way (arXiv 2510.01454, the published code): for each checkpoint and
example the image goes through the vision tower again, the language model runs whole with its logits,
hooks catch q_proj and k_proj of every layer, softmax(K Q' / sqrt(d)) is taken over the full length, the
slices are summed, svd_lowrank gives the singular values. transformers' own classes, whatever the family;
a LoRA checkpoint is merged into its base by peft.

    python reference.py THREADS

bench/score.ts drives it: one JSON request a line on stdin, one JSON answer a line on stdout.
    {"do": "load", "checkpoint": DIR, "device": "cpu" | "cuda", "dtype": "float32" | "bfloat16" | "float16"}
    {"do": "score", "folder": DIR, "examples": 2, "attention": "eager" | "sdpa", "batch": 1}
        -> the first examples: {"seconds", "cpuSeconds", "tokens", "top5": exact singular values of each, worked out off the clock}
"""
import gc
import json
import os
import sys
import time

import torch
import transformers
from PIL import Image

PUBLISHED_Q = 5


def open_model(checkpoint, dtype):
    """-> the model, the folder of its processor"""
    adapter = os.path.join(checkpoint, "adapter_config.json")
    if not os.path.exists(adapter):
        return transformers.AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype), checkpoint
    import peft

    with open(adapter) as file:
        base = os.path.join(checkpoint, json.load(file)["base_model_name_or_path"])
    model, home = open_model(base, dtype)
    return peft.PeftModel.from_pretrained(model, checkpoint).merge_and_unload(), home


class Reference:
    def __init__(self):
        self.model, self.q, self.k = None, [], []
        self.prepared, self.batches = None, []

    def load(self, checkpoint, device="cpu", dtype="float32"):
        self.model = None
        gc.collect()
        model, self.home = open_model(checkpoint, getattr(torch, dtype))
        self.model = model.eval().to(device)
        for layer in self.model.get_decoder().layers:
            layer.self_attn.q_proj.register_forward_hook(lambda module, args, output: self.q.append(output))
            layer.self_attn.k_proj.register_forward_hook(lambda module, args, output: self.k.append(output))
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def open(self, folder, examples, batch):
        """Prepares the examples, off the clock."""
        if (folder, examples, batch) == self.prepared:
            return
        processor = transformers.AutoProcessor.from_pretrained(self.home)
        processor.tokenizer.padding_side = "right"
        with open(f"{folder}/data.json") as file:
            some = json.load(file)[:examples]
        self.batches = [prepare(processor, folder, some[at:at + batch]) for at in range(0, examples, batch)]
        self.prepared = folder, examples, batch

    def score(self, folder, examples, attention, batch=1):
        self.open(folder, examples, batch)
        if self.model.config._attn_implementation != attention:
            self.model.set_attn_implementation(attention)
        seconds = cpu = 0.0
        tokens, top5 = 0, []
        with torch.inference_mode():
            for inputs in self.batches:
                clock, cpu_clock = time.perf_counter(), time.process_time()
                summed = self.attention(inputs, attention).float()
                torch.svd_lowrank(summed, q=PUBLISHED_Q)
                if summed.is_cuda:
                    torch.cuda.synchronize()
                seconds += time.perf_counter() - clock
                cpu += time.process_time() - cpu_clock
                padding = (inputs["attention_mask"] == 0).sum(dim=1).tolist()
                tokens += int(inputs["attention_mask"].sum())
                for matrix, padded in zip(summed, padding):
                    rows = matrix[:len(matrix) - padded]
                    top5.append(torch.linalg.svdvals(rows.double())[:5].tolist())
        return {"seconds": seconds, "cpuSeconds": cpu, "tokens": tokens, "top5": top5}

    def attention(self, inputs, attention):
        inputs = inputs.to(self.model.device, self.model.dtype)
        image = (inputs["input_ids"][0] == self.model.config.image_token_id).nonzero().flatten()
        first, last = int(image[0]), int(image[-1])
        self.q.clear()
        self.k.clear()
        self.model(**inputs, use_cache=False, output_attentions=attention == "eager")
        total = 0
        for q, k in zip(self.q, self.k):
            k = torch.repeat_interleave(k, q.shape[-1] // k.shape[-1], dim=2)
            weights = torch.softmax(torch.matmul(k, q.transpose(-2, -1)) / q.shape[-1] ** 0.5, dim=-1)
            total = total + weights[:, last + 2:, first:last + 1]
        return total


def prepare(processor, folder, examples):
    """-> what the model takes of whole conversations, padded on the right"""
    prompts, pictures = [], []
    for example in examples:
        messages = []
        for turn in example["conversations"]:
            text = turn["value"].replace("<image>", "").strip()
            shown = [{"type": "image"}] if "<image>" in turn["value"] else []
            role = {"human": "user", "gpt": "assistant"}[turn["from"]]
            messages.append({"role": role, "content": [*shown, {"type": "text", "text": text}]})
        prompts.append(processor.apply_chat_template(messages, tokenize=False))
        pictures.append([Image.open(f"{folder}/{example['image']}").convert("RGB")])
    return processor(text=prompts, images=pictures, padding=len(examples) > 1, return_tensors="pt")


def main():
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    reference = Reference()
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        answer = reference.load(**request) if what == "load" else reference.score(**request)
        print(json.dumps({**answer, "torch": torch.__version__, "transformers": transformers.__version__}), flush=True)


if __name__ == "__main__":
    main()
