"""A saved model is transformers' own: auto classes, pipeline, generate, PEFT."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline

import mm15

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where is the circle?"}]}]


@pytest.fixture(scope="module")
def picture() -> PILImage.Image:
    return PILImage.new("RGB", (64, 48), (200, 30, 30))


def test_auto_classes_know_mm15_in_a_fresh_process(tiny_run: Path) -> None:
    """In both orders of import; nothing of the folder needs trust_remote_code."""
    for first, second in (("mm15", "transformers"), ("transformers", "mm15")):
        code = (
            f"import {first}, {second}\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n"
            f"m = AutoModelForImageTextToText.from_pretrained({str(tiny_run / 'model')!r})\n"
            f"p = AutoProcessor.from_pretrained({str(tiny_run / 'model')!r})\n"
            "assert type(m).__name__ == 'MM15ForConditionalGeneration' and type(p).__name__ == 'MM15Processor'"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]


def test_generate_equals_our_own_continuation(tiny_run: Path, picture: PILImage.Image) -> None:
    from mm15.generate import Conversation

    model, processor = mm15.load(tiny_run)
    reply = Conversation(model, processor, max_new_tokens=6).ask("Where is the circle?", images=[picture])
    auto = AutoModelForImageTextToText.from_pretrained(tiny_run / "model")
    inputs = AutoProcessor.from_pretrained(tiny_run / "model")
    text = inputs.apply_chat_template(MESSAGES, add_generation_prompt=True)
    encoded = inputs(text=text, images=[picture], return_tensors="pt")
    output = auto.generate(**encoded, max_new_tokens=6, do_sample=False)
    assert inputs.answer_text(output[0, encoded["input_ids"].shape[1] :]) == reply.text


def test_pipeline_image_text_to_text(tiny_run: Path, picture: PILImage.Image) -> None:
    pipe = pipeline("image-text-to-text", model=str(tiny_run / "model"))
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Where is the circle?"}]
    told = pipe(text=[{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)
    assert isinstance(told[0]["generated_text"], str)


def test_config_round_trip(tiny_run: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_run / "model")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert {**again.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}


def test_a_lora_step_trains_only_the_adapters(tiny_run: Path, picture: PILImage.Image) -> None:
    from peft import LoraConfig, get_peft_model

    model = AutoModelForImageTextToText.from_pretrained(tiny_run / "model")
    processor = AutoProcessor.from_pretrained(tiny_run / "model")
    lora = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    text = processor.apply_chat_template([*MESSAGES, {"role": "assistant", "content": "[1, 2, 3, 4]"}])
    inputs = processor(text=text, images=[picture], return_tensors="pt")
    before = {name: p.detach().clone() for name, p in lora.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # the first step moves B only, since A's gradient is zero while B is
        lora(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in lora.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert any("lora_A" in name for name in moved) and any("lora_B" in name for name in moved)
