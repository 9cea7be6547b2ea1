"""From one layout to the other: weights, configuration, tokenizer and processor files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from fastvlm.checkpoint import find_folder, read_config
from fastvlm.config import STRIDE
from fastvlm.layouts import IMAGE_TOKEN_ID, Layout, check_layout, find_layout
from fastvlm.model import FastVLM
from fastvlm.processor import IMAGE, SYSTEM, FastVLMProcessor

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "generation_config.json",
)  # fmt: skip
# The template `qwen_2` for transformers' `apply_chat_template`; content is text, or a list of text and images.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" + SYSTEM + "<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def convert(source: str | Path, out: Path, layout: Layout) -> dict[str, Any]:
    """Write a model in a layout and load it again to see that nothing changed.

    Args:
        source: A folder in either layout, or owner/name on the hub.
        out: Folder to write.
        layout: "llava_qwen2" or "fast_vlm"; the latter gets transformers' processor too.

    Returns:
        What was written: layout, tensors, parameters.

    Raises:
        InputError: The source is not a whole FastVLM.
        RuntimeError: The written model is not the one that was read.
    """
    check_layout(layout)
    folder = find_folder(source)
    model, processor = FastVLM.from_pretrained(folder), FastVLMProcessor.from_pretrained(folder)
    image_token_id = _image_token_id(processor, read_config(folder))
    model.save_pretrained(out, layout, image_token_id)
    copy_tokenizer(folder, out)
    if layout == "fast_vlm":
        write_hf_processor(processor, out)
    num_tensors = _check_equal(model, FastVLM.from_pretrained(out))
    return {
        "out": str(out),
        "layout": layout,
        "tensors": num_tensors,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the files of a tokenizer from one model folder to another."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def _image_token_id(processor: FastVLMProcessor, config: dict[str, Any]) -> int:
    """Return the id that `<image>` has, or gets when it is added to the tokenizer."""
    if find_layout(config) == "fast_vlm":
        return config.get("image_token_index", IMAGE_TOKEN_ID)
    return processor.tokenizer.get_vocab().get(IMAGE, len(processor.tokenizer))


def write_hf_processor(processor: FastVLMProcessor, out: Path) -> None:
    """Write tokenizer and image processor such that transformers' `AutoProcessor` gives our pixels and prompts."""
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    tokenizer, size = processor.tokenizer, processor.image_size
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]}, replace_extra_special_tokens=False)
    images = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
    )
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(out)


def _check_equal(one: FastVLM, other: FastVLM) -> int:
    """Return the number of tensors that agree; all of them must, up to the fusing of the encoder."""
    fused = any("reparam" in key for key in other.encoder.state_dict())
    parts, again = one.to_parts(fused=fused), other.to_parts(fused=fused)
    count = 0
    for name in ("encoder", "projector", "language"):
        expected, actual = getattr(parts, name), getattr(again, name)
        wrong = [key for key in actual if not torch.equal(actual[key], expected[key])]
        if wrong or expected.keys() - actual.keys() - {"head.proj"}:
            raise RuntimeError(f"the {name} was written otherwise than read: {wrong[:4]}.")
        count += len(actual)
    return count
