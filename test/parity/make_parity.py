#!/usr/bin/env python3
"""Tiny random proxies, saved and scored by transformers itself: what xmasd's scorer is held to.

    python make_parity.py OUT

Writes OUT/<case>/{data.json, images/, expected.json, run/checkpoint-N/}. A case is a row of cases.json. Models,
tokenizers and processors are saved by their own save_pretrained, so that key layouts and config shapes are the
real ones. expected.json has the form of a golden set: ids, for both modes the 5 largest singular values of every
example and checkpoint, the losses, and those of the same prompt without its images' positions (`bare`). Attention maps and singular values are numpy's; all of it is float64.
"""

import json
import math
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers as tr
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

tr.logging.set_verbosity_error()
tr.logging.disable_progress_bar()
torch.set_num_threads(1)

MARK, TOPK, STEPS = "<image>", 5, [9, 10]
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)


def template_of(system, image, user, assistant):
    return dict(system=system, image=image, user=user, assistant=assistant)


def vicuna(end):
    """TinyLLaVA-Factory's classes and LLaVA's conv_vicuna_v1."""
    image, user = MARK + "\n{{content}}", "USER: {{content}} "
    return template_of(SYSTEM, image, user, "ASSISTANT: {{content}}" + end)


def chatml():
    turn = lambda role: f"<|im_start|>{role}\n{{{{content}}}}<|im_end|>\n"
    system = turn("system").replace("{{content}}", "Answer the questions.")
    return template_of(system, MARK + "\n{{content}}", turn("user"), turn("assistant"))


TEMPLATES = {
    "v1": vicuna("</s>"),
    "phi": vicuna("<|endoftext|>"),
    "qwen2_instruct": vicuna("<|im_end|>"),
    "chatml": chatml(),
}

TALKS = [
    [("<image>\nWhat colour is the square?", "Red.")],
    [
        ("<image>\nDescribe the façade of the café.", "It reads “Crème brûlée – 3,50 €”; 日本語 stands beneath 🙂."),
        ("Is it open?", "Yes, until 8 p.m."),
    ],
    [("Name the shape in the middle, in one word.\n<image>", " Triangle")],
    [("What is a singular value?", "The root of an eigenvalue of A'A."), ("And the largest?", "The operator norm.")],
    [
        ("Hello!", "Hi."),
        (
            "<image>\nHow many circles do you see here, and which of them is the largest one?",
            "Three; the left one is the largest, and it's filled with a dark shade of grey.",
        ),
    ],
    [("<image>\n<image>\nWhich of the two is brighter?", "The first.")],
    [
        ("What is this? <image>", "A disc."),
        ("And does it look like <image>, or like <image>?", "Neither; the third is much darker than both."),
    ],
]


# ------------------------------------------------------------------------------------------ tokenizers
def corpus():
    return [SYSTEM, "USER: ", "ASSISTANT: "] + [text for talk in TALKS for pair in talk for text in pair]


def word_pieces(special):
    """Llama 2's way: pieces begin with a space, bytes are what is left."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    first = special + [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=len(first) + 150, special_tokens=first, show_progress=False)
    tok.train_from_iterator(corpus(), trainer)
    blob = json.loads(tok.to_str())
    blob["added_tokens"] = [t for t in blob["added_tokens"] if t["content"] in special]
    tok = Tokenizer.from_str(json.dumps(blob))
    tok.pre_tokenizer = None
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tok


def byte_pieces(special):
    """GPT-4's and Qwen2's way."""
    tok = Tokenizer(models.BPE())
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    alphabet = dict(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special)
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=460, show_progress=False, **alphabet))
    return tok


def make_tokenizer(flavour):
    """`spm`: word pieces; `bos`, `plain`: byte pieces with and without BOS."""
    if flavour == "plain":
        tok = byte_pieces(["<|endoftext|>", "<|im_start|>", "<|im_end|>", MARK])
        names = dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    else:
        tok = (word_pieces if flavour == "spm" else byte_pieces)(["<unk>", "<s>", "</s>", MARK])
        bos = [("<s>", tok.token_to_id("<s>"))]
        tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=bos)
        names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>")
    return tr.PreTrainedTokenizerFast(tokenizer_object=tok, additional_special_tokens=[MARK], **names)


# ------------------------------------------------------------------------------------- prompts and ids
def build_prompt(template, talk):
    """Template._prompt of TinyLLaVA-Factory; LLaVA's v1 gives the same. Of several images those of one question
    stay where they stand, as in LLaVA-NeXT and with Hugging Face's processor."""
    images = sum(question.count(MARK) for question, _ in talk)
    fill = lambda slot, content: template[slot].replace("{{content}}", content, 1)
    text = template["system"]
    for question, answer in talk:
        if MARK in question and (images == 1 or question.count(MARK) == 1):
            question = fill("image", question.replace(MARK, "").strip()).strip()
        text += fill("user", question) + fill("assistant", answer)
    return text


def encode(tokenizer, prompt, case):
    """tokenizer_image_token of LLaVA and TinyLLaVA: each stretch of text alone, one BOS; the image's positions."""
    ids = []
    for i, chunk in enumerate(prompt.split(MARK)):
        own = tokenizer(chunk).input_ids
        has_bos = tokenizer.bos_token_id is not None and own[:1] == [tokenizer.bos_token_id]
        if i > 0:
            ids += [case["image_id"]] * case["image_tokens"]
        ids += own[1:] if i > 0 and has_bos else own
    return ids


def label_positions(tokenizer, prompt, template, case):
    """Where the labels of TinyLLaVA's Template._make_masks and LLaVA's preprocess_v1 are not ignored, by their
    counting of rounds; with images expanded."""
    lead, end = template["assistant"].split("{{content}}")
    separator = " " + lead if lead.startswith("ASSISTANT") else lead
    length = lambda text: len(encode(tokenizer, text, dict(image_id=-1, image_tokens=1)))
    bos = length("")
    kept, at = [], bos
    for turn in prompt.split(end)[:-1]:
        whole = length(turn + end) - bos
        if separator in turn:  # ChatML's system and user have an end of their own
            question, _ = turn.split(separator)
            # The space behind "ASSISTANT:" counts to the answer, which most tokenizers join it with.
            begin = length(question + separator) - (1 if lead.endswith(" ") else 0) - bos
            kept += range(at + begin, at + whole)
        at += whole
    unexpanded = encode(tokenizer, prompt, dict(image_id=-1, image_tokens=1))
    assert at == len(unexpanded), "the published code would ignore this example"
    shift = np.cumsum(np.array(unexpanded) == -1) * (case["image_tokens"] - 1)
    positions = [int(p + shift[p]) for p in kept]
    return [p for p in positions if case["length"] is None or p < case["length"]]


# ------------------------------------------------------------------------------------------ the models
class TinyLlava(torch.nn.Module):
    """TinyLLaVA-Factory's modules under its names."""

    def __init__(self, case):
        super().__init__()
        text, vision = case["configs"]
        self.language_model = tr.AutoModelForCausalLM.from_config(text, attn_implementation="eager")
        self.vision_tower, self.connector = torch.nn.Module(), torch.nn.Module()
        self.vision_tower._vision_tower = tr.AutoModel.from_config(vision, attn_implementation="eager")
        inner, outer = torch.nn.Linear(vision.hidden_size, text.hidden_size), torch.nn.Linear(
            text.hidden_size, text.hidden_size
        )
        self.connector._connector = torch.nn.Sequential(inner, torch.nn.GELU(), outer)

    def forward(self, input_ids, pixel_values, labels):
        x = self.language_model.get_input_embeddings()(input_ids.clamp(min=0))
        if pixel_values is not None:
            hidden = self.vision_tower._vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2]
            place = (input_ids == -200).unsqueeze(-1)
            features = self.connector._connector(hidden[:, 1:]).flatten(0, 1)
            x = x.masked_scatter(place, features[: int(place.sum())])  # the sequence may end within an image
        return self.language_model(inputs_embeds=x, labels=labels, use_cache=False)


def build(case):
    if "tiny" in case:
        return TinyLlava(case)
    text, vision = case["configs"]
    selection = dict(vision_feature_layer=case["layer"], vision_feature_select_strategy=case["strategy"])
    own = dict(image_token_id=case["image_id"], tie_word_embeddings=text.tie_word_embeddings)
    return tr.LlavaForConditionalGeneration(
        tr.LlavaConfig(vision_config=vision, text_config=text, **selection, **own)
    )


def randomise(model, step, moving_vision):
    """Wide enough that attention is far from flat; each checkpoint moves a little further."""
    for name, p in model.named_parameters():
        seed = lambda salt: torch.Generator().manual_seed(zlib.crc32(f"{name}{salt}".encode()))
        gain = 2.2 if "q_proj" in name or "k_proj" in name else 1.2
        spread = 0.15 if p.dim() == 1 else 0.6 if "embed" in name else math.sqrt(gain / p[0].numel())
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        drift = 0.0 if "vision_tower" in name and not moving_vision else 0.3 * (step - STEPS[0])
        p.data = centre + spread * (
            torch.randn(p.shape, generator=seed("")) + drift * torch.randn(p.shape, generator=seed("d"))
        )


def save(case, folder, model, tokenizer, processor):
    dtype = getattr(torch, case["dtype"])
    tokenizer.save_pretrained(folder)
    if "tiny" not in case:
        processor.save_pretrained(folder)
        model.to(dtype).save_pretrained(folder, max_shard_size=case["shard"])
        return
    text, vision = (config.to_diff_dict() for config in case["configs"])
    config = dict(
        model_type="tinyllava",
        connector_type="mlp2x_gelu",
        image_aspect_ratio=case["aspect"],
        image_token_index=-200,
        text_config=text,
        vision_config=vision,
        vision_model_name_or_path=case["tiny"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="patch",
        tokenizer_model_max_length=case["length"],
    )
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    # 4.x's CLIPVisionModel and SiglipVisionModel have their layers one name deeper.
    deeper = lambda key: key.replace("._vision_tower.", "._vision_tower.vision_model.", 1)
    weights = {deeper(key): w.to(dtype).contiguous() for key, w in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@contextmanager
def only_float64():
    """transformers takes norms, softmax and rotary tables in float32 by name; here the name means float64."""
    kept = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = kept


def load(case, folder):
    """From the disk, in float64."""
    if "tiny" in case:
        model = TinyLlava(case)
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict({key.replace(".vision_model.", "."): w for key, w in weights.items()})
        model.double()
    else:
        plain = dict(dtype=torch.float64, attn_implementation="eager")
        model = tr.LlavaForConditionalGeneration.from_pretrained(folder, **plain)
    rotary = decoder_of(model).rotary_emb
    with only_float64():
        rotary.__init__(rotary.config)
    return model.eval()


def decoder_of(model):
    return (model.language_model if isinstance(model, TinyLlava) else model.model.language_model).get_decoder()


# ----------------------------------------------------------------------------------------- the scores
def attention(q, k, mode):
    """Whole projections [T, d]: no heads, no rotary, no mask; the narrower one's features are repeated."""
    wide = max(q.shape[1], k.shape[1])
    q, k = (np.repeat(x, wide // x.shape[1], axis=1) for x in (q, k))
    rows, columns = (k, q) if mode == "reference" else (q, k)
    products = rows @ columns.T / math.sqrt(wide)
    e = np.exp(products - products.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def top5(pairs, positions, length, mode):
    rows = np.arange(positions[-1] + 2, length)
    total = sum(attention(q, k, mode)[np.ix_(rows, positions)] for q, k in pairs)
    values = np.linalg.svd(total, compute_uv=False)[:TOPK]
    return [*values.tolist(), *[0.0] * (TOPK - len(values))]


@torch.no_grad()
def run(model, ids, pixels, answers):
    """-> (q, k) of every layer, [T, width] each; the mean cross-entropy at `answers`"""
    seen = []
    note = lambda module, inputs, output: seen.append(output[0].numpy())
    modules = [getattr(layer.self_attn, name) for layer in decoder_of(model).layers for name in ("q_proj", "k_proj")]
    hooks = [module.register_forward_hook(note) for module in modules]
    labels = torch.full((1, len(ids)), -100)
    labels[0, answers] = torch.tensor(ids)[answers]
    with only_float64():
        output = model(input_ids=torch.tensor([ids]), pixel_values=pixels, labels=labels)
    for hook in hooks:
        hook.remove()
    return list(zip(seen[::2], seen[1::2])), output.loss.item()


# ----------------------------------------------------------------------------------------- the images
def draw_image(path, seed):
    r = np.random.default_rng(seed)
    height, width = r.integers(20, 60, 2)
    y, x = np.mgrid[0:height, 0:width]
    a, b, c = r.uniform(0, 255, (3, 3))
    picture = a + (b - a) * (x / width)[..., None] + (c - a) * (y / height)[..., None]
    picture[(y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 4) ** 2] = r.uniform(0, 255, 3)
    picture += r.normal(0, 15, picture.shape)
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path)


def make_processor(case, tokenizer):
    side = case["vision"]["image_size"]
    size = dict(height=side, width=side)
    if case["clip"]:
        images = tr.CLIPImageProcessorPil(size=dict(shortest_edge=side), crop_size=size)
    else:  # SigLIP 2 at a fixed resolution: SigLIP's classes, another resampling
        images = tr.SiglipImageProcessorPil(size=size, resample=case["resample"])
    selection = dict(patch_size=case["vision"]["patch_size"], vision_feature_select_strategy=case["strategy"])
    return tr.LlavaProcessor(images, tokenizer, num_additional_image_tokens=int(case["clip"]), **selection)


def padded(picture, mean):
    """expand2square of LLaVA."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), tuple(int(x * 255) for x in mean))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def pixels_of(case, processor, pictures):
    if case["aspect"] == "pad":
        pictures = [padded(picture, processor.image_processor.image_mean) for picture in pictures]
    return processor.image_processor(pictures, return_tensors="pt")["pixel_values"].double() if pictures else None


# ------------------------------------------------------------------------------------------- the cases
DEFAULTS = dict(layer=-2, strategy="default", aspect="square", length=None, dtype="float32", shard="1GB", resample=3)


def complete(row, tokenizer, shared):
    """The row of the table with what follows from it."""
    case = DEFAULTS | row
    vision, text = dict(shared["vision"][case["vision"]]), shared["text"] | case["text"] | dict(
        vocab_size=len(tokenizer)
    )
    case["clip"] = case["vision"] == "clip"
    case["vision"] = vision
    of = lambda fields: tr.AutoConfig.for_model(**fields)
    case["configs"] = [of(text), of(vision)]
    case["image_id"] = -200 if "tiny" in case else tokenizer.convert_tokens_to_ids(MARK)
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    case["image_tokens"] = patches + case["clip"] - (case["strategy"] == "default")
    if "tiny" in case:
        case["length"] = case["length"] or 512
    return case


def make_example(case, folder, i, talk, tokenizer, processor):
    """-> (its entry of data.json, what is expected of it, its pixels)"""
    names = [f"images/{i}.{j}.png" for j in range(sum(question.count(MARK) for question, _ in talk))]
    for j, name in enumerate(names):
        draw_image(folder / name, 10 * i + j)
    pictures = [Image.open(folder / name).convert("RGB") for name in names]
    turns = [{"from": role, "value": text} for pair in talk for role, text in zip(("human", "gpt"), pair)]
    entry = dict(id=f"{case['name']}-{i}", conversations=turns) | (
        dict(image=names if len(names) > 1 else names[0]) if names else {}
    )
    template = TEMPLATES[case["template"]]
    prompt = build_prompt(template, talk)
    ids = encode(tokenizer, prompt, case)
    answers = label_positions(tokenizer, prompt, template, case)
    if "tiny" not in case:  # Hugging Face's processor must see the same sequence
        own = processor(text=prompt, images=pictures or None).input_ids
        assert own in (ids, [ids]), entry["id"]
    expected = dict(prompt=prompt, input_ids=ids[: case["length"]], has_image=bool(names), answers=answers)
    expected["bare"] = bare(tokenizer, prompt, template, case, len(answers)) if names else None
    return entry, expected, pixels_of(case, processor, pictures)


def bare(tokenizer, prompt, template, case, count):
    """The prompt without any position of an image, up to the last of as many of the answers' tokens."""
    case = case | dict(image_tokens=0, length=None)
    answers = label_positions(tokenizer, prompt, template, case)[:count]
    return dict(ids=encode(tokenizer, prompt, case)[: answers[-1] + 1], answers=answers)


def make_case(row, shared, out):
    folder = out / row["name"]
    (folder / "images").mkdir(parents=True)
    tokenizer = make_tokenizer(row["tokenizer"])
    case = complete(row, tokenizer, shared)
    processor = make_processor(case, tokenizer)
    made = [make_example(case, folder, i, talk, tokenizer, processor) for i, talk in enumerate(TALKS)]
    data, examples, pixels = map(list, zip(*made))
    blank = lambda: [[] if e["has_image"] else None for e in examples]
    found, losses, bare_losses = {mode: blank() for mode in ("reference", "paper")}, blank(), blank()
    for step in STEPS:
        where = folder / "run" / f"checkpoint-{step}"
        where.mkdir(parents=True)
        model = build(case)
        randomise(model, step, case.get("moving_vision", False))
        save(case, where, model, tokenizer, processor)
        model = load(case, where)
        for i, e in enumerate(examples):
            if pixels[i] is None:
                continue
            ids = e["input_ids"]
            pairs, loss = run(model, ids, pixels[i], e["answers"])
            losses[i].append(loss)
            bare_losses[i].append(run(model, e["bare"]["ids"], None, e["bare"]["answers"])[1])
            positions = np.flatnonzero(np.array(ids) == case["image_id"])
            for mode, values in found.items():
                values[i].append(top5(pairs, positions, len(ids), mode))
    write_json(folder / "data.json", data)
    modes = {mode: dict(top5=values, float64=dict(top5=values)) for mode, values in found.items()}
    facts = dict(template=TEMPLATES[case["template"]], max_length=case["length"], image_tokens=case["image_tokens"])
    losses = dict(losses=losses, bare_losses=bare_losses)
    expected = dict(facts, steps=STEPS, examples=examples, modes=modes, variants={}, **losses)
    write_json(folder / "expected.json", expected)


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    table = json.loads((Path(__file__).parent / "cases.json").read_text())
    for row in table["cases"]:
        make_case(row, table, Path(sys.argv[1]))
