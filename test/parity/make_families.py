#!/usr/bin/env python3
"""Tiny random proxies of every family but LLaVA's own, saved and scored by transformers itself.

    python make_families.py OUT

Writes OUT/<case>/{data.json, images/, expected.json, expected.safetensors, run/checkpoint-N/} in the form of the golden
sets of families: rendered prompts, ids, pixels, and for both modes the 5 largest singular values of every example and
checkpoint, the losses, and those of the prompt without its pictures' text (`bare`). Attention maps and singular values are numpy's; all of it is float64.
"""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch
import transformers as tr
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import AddedToken

from make_parity import attention, byte_pieces, draw_image, only_float64, randomise

STEPS, TOPK, MARK = [3, 5], 5, "<image>"
# Of the two checkpoints on disk, case by case.
TYPES = [(torch.float32, torch.bfloat16), (torch.float16, torch.bfloat16)]
TALKS = [
    [("<image>\nWhat colour is the square?", "Red.")],
    [("Hello!", "Hi."), ("<image>\n<image>\nWhich of the two is brighter, 1 or 2?", "The first; the other is “dull”.")],
    [("What is a singular value?", "The root of an eigenvalue of A'A.")],
]
SIZES = [[(130, 50)], [(60, 60), (37, 90)], []]

HALF = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
LLAMA = dict(model_type="llama", hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=1024)
QWEN2 = LLAMA | dict(model_type="qwen2", num_key_value_heads=1)
SIGLIP = dict(model_type="siglip_vision_model", hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
              image_size=28, patch_size=7, vision_use_head=False)
CLIP = SIGLIP | dict(model_type="clip_vision_model", num_hidden_layers=3, projection_dim=16)
GRIDS = [[28 * h, 28 * w] for h in (1, 2, 3) for w in (1, 2, 3)]
QWEN2_VISION = dict(depth=2, embed_dim=32, hidden_size=48, mlp_ratio=2, num_heads=2, patch_size=7, spatial_merge_size=2, temporal_patch_size=2)
QWEN_VISION = dict(depth=2, hidden_size=32, intermediate_size=40, num_heads=2, patch_size=7, spatial_merge_size=2,
                   temporal_patch_size=2, out_hidden_size=48)


def mrope(*section, **own):
    return dict(rope_parameters=dict(rope_type="default", rope_theta=50000.0, mrope_section=list(section), **own))


def smol(kind):
    def make(tok):
        images = getattr(tr, kind + "ImageProcessorPil")(do_image_splitting=kind == "Idefics3", size=dict(longest_edge=84),
                                                        max_image_size=dict(longest_edge=42), **HALF)
        if kind == "Idefics3":
            return tr.Idefics3Processor(images, tok, image_seq_len=4)
        video = tr.SmolVLMVideoProcessor(size=dict(longest_edge=42), max_image_size=dict(longest_edge=42))
        return tr.SmolVLMProcessor(images, tok, video, image_seq_len=4)

    vision = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=7)
    return dict(kind=kind, mark=MARK, processor=make, config=dict(vision_config=vision, text_config=LLAMA, scale_factor=3))


def llava(kind, **config):
    def make(tok):
        side = config["vision_config"]["image_size"]
        select = dict(vision_feature_select_strategy=config["vision_feature_select_strategy"])
        if kind == "LlavaNext":
            images = tr.LlavaNextImageProcessorPil(size=dict(shortest_edge=side), crop_size=dict(height=side, width=side),
                                                   image_grid_pinpoints=GRIDS)
            return tr.LlavaNextProcessor(images, tok, patch_size=7, num_additional_image_tokens=1, **select)
        images = tr.LlavaOnevisionImageProcessorPil(size=dict(height=side, width=side), image_grid_pinpoints=GRIDS, **HALF)
        video = tr.LlavaOnevisionVideoProcessor(size=dict(height=side, width=side))
        return tr.LlavaOnevisionProcessor(images, tok, video, num_image_tokens=16, vision_aspect_ratio=config["vision_aspect_ratio"], **select)

    return dict(kind=kind, mark=MARK, processor=make, config=dict(image_grid_pinpoints=GRIDS, **config))


def qwen(kind, look, vision, text):
    def make(tok):
        shape = dict(patch_size=7, merge_size=2, temporal_patch_size=2)
        images = tr.Qwen2VLImageProcessorPil(min_pixels=2500, max_pixels=4200, **shape, **look)
        video = tr.Qwen3VLVideoProcessor if kind == "Qwen3VL" else tr.Qwen2VLVideoProcessor
        return getattr(tr, kind + "Processor")(images, tok, video(**shape))

    base = {k: v for k, v in LLAMA.items() if k != "model_type"}
    return dict(kind=kind, mark="<|image_pad|>", processor=make, config=dict(vision_config=vision, text_config=base | text))


def internvl():
    def make(tok):
        images = tr.GotOcr2ImageProcessorPil(size=dict(height=28, width=28), crop_to_patches=True, max_patches=4)
        video = tr.InternVLVideoProcessor(size=dict(height=28, width=28))
        return tr.InternVLProcessor(images, tok, video, image_seq_length=4)

    vision = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7,
                  attention_bias=True, use_qk_norm=True)
    return dict(kind="InternVL", mark="<IMG_CONTEXT>", processor=make, config=dict(vision_config=vision, text_config=QWEN2, downsample_ratio=0.5))


CASES = {
    "smolvlm": smol("SmolVLM"),
    "idefics3": smol("Idefics3"),
    "llava-next": llava("LlavaNext", vision_config=CLIP, text_config=LLAMA | dict(model_type="mistral", sliding_window=None),
                        vision_feature_layer=-2, vision_feature_select_strategy="default"),
    "llava-onevision": llava("LlavaOnevision", vision_config=SIGLIP, text_config=QWEN2, vision_aspect_ratio="anyres_max_3",
                             vision_feature_layer=-1, vision_feature_select_strategy="full"),
    "qwen2.5-vl": qwen("Qwen2_5_VL", {}, QWEN_VISION | dict(window_size=28, fullatt_block_indexes=[1]), mrope(2, 2, 2)),
    "qwen3-vl": qwen("Qwen3VL", HALF, QWEN_VISION | dict(num_position_embeddings=36, deepstack_visual_indexes=[0, 1]),
                     dict(head_dim=16, num_hidden_layers=3, **mrope(4, 2, 2, mrope_interleaved=True))),
    "internvl3": internvl(),
    "qwen2-vl": qwen("Qwen2VL", {}, QWEN2_VISION, mrope(2, 3, 1)),
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}MARK{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)
SPECIAL = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>",
           "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *[f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)]]


def make_tokenizer(case):
    tok = byte_pieces(["<|endoftext|>", "<|im_start|>", "<|im_end|>", MARK])
    tok.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    names = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    own = dict(start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>")
    fast = tr.PreTrainedTokenizerFast(tokenizer_object=tok, extra_special_tokens=own if case["kind"] == "InternVL" else {}, **names)
    shown = f"<|vision_start|>{case['mark']}<|vision_end|>" if case["kind"].startswith("Qwen") else case["mark"]
    fast.chat_template = TEMPLATE.replace("MARK", shown)
    return fast


def make_config(case, tokenizer):
    kind = getattr(tr, case["kind"] + "Config")
    text = case["config"]["text_config"] | dict(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    ids = dict(image_token_id=tokenizer.convert_tokens_to_ids(case["mark"]))
    if case["kind"].startswith("Qwen"):
        ids |= dict(video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
                    vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
                    vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"))
    if case["kind"].startswith("Llava"):
        ids = dict(image_token_index=ids["image_token_id"])
    return kind(**case["config"] | dict(text_config=text), **ids, tie_word_embeddings=False)


def load(case, folder):
    """From the disk, in float64."""
    model = getattr(tr, case["kind"] + "ForConditionalGeneration").from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager")
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            with only_float64():
                module.__init__(module.config)
    return model.eval()


@torch.no_grad()
def run(model, out):
    """-> (q, k) of every layer of the text, and the logits"""
    found = {"q": [], "k": []}
    hooks = []
    for name, module in model.named_modules():
        at = re.search(r"(?:text_model|language_model)\.layers\.\d+\.self_attn\.([qk])_proj$", name)
        if at:
            store = found[at[1]]
            hooks.append(module.register_forward_hook(lambda m, i, o, store=store: store.append(o[0].numpy())))
    inputs = {key: x.double() if key == "pixel_values" else x for key, x in out.items()}
    with only_float64():
        logits = model(**inputs, use_cache=False).logits[0].numpy()
    for hook in hooks:
        hook.remove()
    return list(zip(found["q"], found["k"])), logits


def loss_of(logits, ids, answers):
    rows, targets = logits[np.array(answers) - 1], np.array(ids)[answers]
    peak = rows.max(1, keepdims=True)
    sums = np.log(np.exp(rows - peak).sum(1)) + peak[:, 0]
    return float((sums - rows[np.arange(len(targets)), targets]).mean())


def top5(pairs, columns, rows, mode):
    total = sum(attention(q, k, mode)[np.ix_(rows, columns)] for q, k in pairs)
    values = np.linalg.svd(total, compute_uv=False)[:TOPK]
    return [*values.tolist(), *[0.0] * (TOPK - len(values))]


def make_example(case, folder, i, processor, config):
    talk, names = TALKS[i], [f"images/{i}.{j}.png" for j in range(len(SIZES[i]))]
    pictures = []
    for j, (name, size) in enumerate(zip(names, SIZES[i])):
        draw_image(folder / name, 10 * i + j)
        Image.open(folder / name).convert("RGB").resize(size).save(folder / name)
        pictures.append(Image.open(folder / name).convert("RGB"))
    left, messages = list(pictures), []
    for question, answer in talk:
        shown = [dict(type="image", image=left.pop(0)) for _ in range(question.count(MARK))]
        text = question.replace(MARK, "").strip()
        messages += [dict(role="user", content=[*shown, dict(type="text", text=text)]),
                     dict(role="assistant", content=[dict(type="text", text=answer)])]
    prompt = processor.apply_chat_template(messages, tokenize=False)
    out = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    ids = out["input_ids"][0].tolist()
    image_id = getattr(config, "image_token_id", None) or config.image_token_index
    columns = [p for p, token in enumerate(ids) if token == image_id]
    rows = list(range(columns[-1] + 2, len(ids))) if columns else None
    turns = [{"from": who, "value": text} for pair in talk for who, text in zip(("human", "gpt"), pair)]
    entry = dict(id=f"{i}", conversations=turns) | (dict(image=names) if names else {})
    expected = dict(prompt=prompt, input_ids=ids, has_image=bool(names), columns=columns or None, rows=rows, answers=list(range(len(ids) - 4, len(ids))))
    without = processor.tokenizer(prompt.replace(case["mark"], "")).input_ids
    expected["bare"] = dict(ids=without, answers=list(range(len(without) - 4, len(without)))) if names else None
    return entry, expected, out


def make_case(name, case, out):
    folder = out / name
    (folder / "images").mkdir(parents=True)
    tokenizer = make_tokenizer(case)
    processor, config = case["processor"](tokenizer), make_config(case, tokenizer)
    processor.chat_template = tokenizer.chat_template
    made = [make_example(case, folder, i, processor, config) for i in range(len(TALKS))]
    data, examples, prepared = map(list, zip(*made))
    blank = lambda: [[] if e["has_image"] else None for e in examples]
    found, losses, tensors = {mode: blank() for mode in ("reference", "paper")}, blank(), {}
    bare_losses = blank()
    for i, x in enumerate(prepared):
        for key in ("pixel_values", "image_grid_thw"):
            if key in x:
                tensors[f"{key}.{i}"] = x[key].numpy()
    for step in STEPS:
        where = folder / "run" / f"checkpoint-{step}"
        model = getattr(tr, case["kind"] + "ForConditionalGeneration")._from_config(config)
        randomise(model, step, step == STEPS[0])
        model.to(TYPES[list(CASES).index(name) % 2][STEPS.index(step)]).save_pretrained(where)
        tokenizer.save_pretrained(where), processor.save_pretrained(where)
        model = load(case, where)
        for i, e in enumerate(examples):
            if not e["has_image"]:
                continue
            pairs, logits = run(model, prepared[i])
            for mode in found:
                found[mode][i].append(top5(pairs, e["columns"], e["rows"], mode))
            losses[i].append(loss_of(logits, e["input_ids"], e["answers"]))
            ids, answers = e["bare"]["ids"], e["bare"]["answers"]
            _, logits = run(model, dict(input_ids=torch.tensor([ids])))
            bare_losses[i].append(loss_of(logits, ids, answers))
    save_file(tensors, folder / "expected.safetensors")
    expected = dict(steps=STEPS, examples=examples, modes={mode: dict(top5=values) for mode, values in found.items()}, losses=losses, bare_losses=bare_losses)
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    for name, case in CASES.items():
        if len(sys.argv) < 3 or name in sys.argv[2:]:
            make_case(name, case, Path(sys.argv[1]))
