"""Loads exports with the trainers' own code: `load_exports.py FOLDER` prints what each trainer made of them.

FOLDER holds what export-form.ts wrote: llava.json, subset.json with dataset_info.json, swift.jsonl, trl.jsonl,
subset.parquet. Output: one JSON object, by trainer a list of [role, content][] and image paths.
"""
import json
import os
import sys
from types import SimpleNamespace

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", DISABLE_VERSION_CHECK="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
folder = sys.argv[1]
os.environ["HF_HOME"] = os.environ["MODELSCOPE_CACHE"] = os.path.join(folder, "cache")


def path(name):
    return os.path.join(folder, name)


def llava():
    # LLaVA is on no registry. Its LazySupervisedDataset reads the file so, and these fields of each entry.
    with open(path("llava.json")) as file:
        entries = json.load(file)
    speakers = {"human": "user", "gpt": "assistant"}
    for entry in entries:
        images = entry.get("image", [])
        turns = [(speakers.get(turn["from"], turn["from"]), turn["value"]) for turn in entry["conversations"]]
        yield turns, [images] if isinstance(images, str) else images


def llama_factory():
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list

    attributes = get_dataset_list(["subset"], folder)[0]
    data = SimpleNamespace(
        dataset_dir=folder, streaming=False, preprocessing_num_workers=None, overwrite_cache=True, max_samples=None,
        media_dir=folder,
    )
    model = SimpleNamespace(cache_dir=None, hf_hub_token=None, ms_hub_token=None, om_hub_token=None)
    training = SimpleNamespace(local_process_index=0, should_save=False)
    for row in _load_single_dataset(attributes, model, data, training):
        system = [("system", row["_system"])] if row["_system"] else []
        turns = [(turn["role"], turn["content"]) for turn in [*row["_prompt"], *row["_response"]]]
        yield system + turns, row["_images"] or []


def ms_swift():
    from swift.dataset import load_dataset

    rows, _ = load_dataset([path("swift.jsonl")], num_proc=1, shuffle=False)
    for row in rows:
        images = [one["path"] if isinstance(one, dict) else one for one in row.get("images") or []]
        yield [(turn["role"], turn["content"]) for turn in row["messages"]], images


def trl():
    from datasets import Image, Sequence, load_dataset
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    # As in docs/training.md.
    data = load_dataset("json", data_files=path("trl.jsonl"), split="train")
    names = data["images"]
    data = data.map(lambda row: {"images": [os.path.join(folder, one) for one in row["images"]]})
    data = data.cast_column("images", Sequence(Image()))
    for row, images in zip(data, names):
        assert is_conversational(row), row
        turns = []
        shown = []
        for message in prepare_multimodal_messages(row["messages"], row["images"]):
            parts = message["content"]
            shown += [part["image"].size for part in parts if part["type"] == "image"]
            turns.append((message["role"], "".join("<image>" if p["type"] == "image" else p["text"] for p in parts)))
        assert shown == [(24, 24)] * len(images), shown
        yield turns, images


def parquet():
    from datasets import load_dataset

    for row in load_dataset("parquet", data_files=path("subset.parquet"), split="train"):
        yield [(turn["role"], turn["content"]) for turn in row["messages"]], row["images"]


found = {}
for trainer in (llava, trl, parquet, llama_factory, ms_swift):
    try:
        found[trainer.__name__] = [{"turns": turns, "images": images} for turns, images in trainer()]
    except Exception as error:
        found[trainer.__name__] = f"{type(error).__name__}: {error}"
with open(path("loaded.json"), "w") as file:
    json.dump(found, file)
