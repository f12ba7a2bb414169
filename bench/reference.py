#!/usr/bin/env python3
"""Scores examples the reference's way (arXiv 2510.01454, the published code): for each checkpoint and
example the image goes through the vision tower again, the language model runs whole with its logits,
hooks catch q_proj and k_proj of every layer, softmax(K Q' / sqrt(d)) is taken over the full length, the
slices are summed, svd_lowrank gives the singular values.

    python reference.py THREADS

bench/score.ts drives it: one JSON request a line on stdin, one JSON answer a line on stdout.
    {"do": "load", "checkpoint": DIR}
    {"do": "score", "folder": DIR, "examples": [0, 1], "batch": 1, "attention": "eager" | "sdpa"}
        -> {"seconds", "cpuSeconds", "top5": exact singular values of each, worked out off the clock}
    {"do": "end"} -> {"peakBytes"}
"""
import gc
import json
import sys
import time

import torch
import transformers
from safetensors import safe_open

PUBLISHED_Q = 5


class Reference:
    def __init__(self):
        self.model, self.q, self.k = None, [], []
        self.folder, self.examples, self.pixels = None, [], {}

    def load(self, checkpoint):
        self.model = None
        gc.collect()
        self.model = transformers.LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        for layer in self.model.model.language_model.layers:
            layer.self_attn.q_proj.register_forward_hook(lambda module, args, output: self.q.append(output))
            layer.self_attn.k_proj.register_forward_hook(lambda module, args, output: self.k.append(output))
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def open(self, folder):
        if folder == self.folder:
            return
        with open(f"{folder}/examples.json") as file:
            self.examples = json.load(file)
        with safe_open(f"{folder}/pixels.safetensors", "pt") as file:
            self.pixels = {int(key): file.get_tensor(key) for key in file.keys()}
        self.folder = folder

    def score(self, folder, examples, batch, attention):
        self.open(folder)
        if self.model.config._attn_implementation != attention:
            self.model.set_attn_implementation(attention)
        seconds = cpu = 0.0
        top5 = []
        with torch.inference_mode():
            for at in range(0, len(examples), batch):
                group = [self.examples[i] for i in examples[at:at + batch]]
                clock, cpu_clock = time.perf_counter(), time.process_time()
                summed = self.attention(group, attention)
                torch.svd_lowrank(summed, q=PUBLISHED_Q)
                seconds += time.perf_counter() - clock
                cpu += time.process_time() - cpu_clock
                for example, matrix in zip(group, summed):
                    rows = len(example["ids"]) - self.first_row
                    top5.append(torch.linalg.svdvals(matrix[:rows].double())[:5].tolist())
        return {"seconds": seconds, "cpuSeconds": cpu, "top5": top5}

    def attention(self, group, attention):
        longest = max(len(example["ids"]) for example in group)
        ids = torch.tensor([example["ids"] + [0] * (longest - len(example["ids"])) for example in group])
        pixels = torch.stack([self.pixels[example["image"]] for example in group])
        image = (ids[0] == self.model.config.image_token_id).nonzero().flatten()
        first, last = int(image[0]), int(image[-1])
        self.first_row = last + 2
        self.q.clear()
        self.k.clear()
        self.model(input_ids=ids, pixel_values=pixels, use_cache=False, output_attentions=attention == "eager")
        total = 0
        for q, k in zip(self.q, self.k):
            k = torch.repeat_interleave(k, q.shape[-1] // k.shape[-1], dim=2)
            weights = torch.softmax(torch.matmul(k, q.transpose(-2, -1)) / q.shape[-1] ** 0.5, dim=-1)
            total = total + weights[:, last + 2:, first:last + 1]
        return total


def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def main():
    torch.set_num_threads(int(sys.argv[1]))
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    reference = Reference()
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        if what == "end":
            print(json.dumps({"peakBytes": peak_bytes()}), flush=True)
            return
        answer = reference.load(**request) if what == "load" else reference.score(**request)
        print(json.dumps({**answer, "torch": torch.__version__, "transformers": transformers.__version__}), flush=True)


if __name__ == "__main__":
    main()
