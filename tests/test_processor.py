"""One processor both ways: what training sees is what a conversation sees, and only answers are targets."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from transformers import AutoProcessor, PreTrainedTokenizerFast

import mm15
from mm15.errors import UserError
from mm15.image import Tiling
from mm15.processor import MM15Processor, build_processor
from mm15.regions import Box, Coordinates, Point, Region
from mm15.sample import Image, Part, Role, Sample, Video, assistant, document, system, user
from mm15.text import tokenizer as tokenizers
from mm15.text.chat import prompt_segments, segments
from mm15.text.render import IGNORE

TEXTS = ["Where is the red circle? It is there.", "user assistant system", "What number? 12 and 7, a total of 19."] * 50


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizers.prepare(tokenizers.train(TEXTS, vocab_size=400), coordinates=Coordinates())


@pytest.fixture(scope="module")
def processor(tokenizer: PreTrainedTokenizerFast) -> MM15Processor:
    tiling = Tiling(tile=32, min_tiles=1, max_tiles=4)
    return build_processor(tokenizer, tiling=tiling, coordinates=Coordinates(), tokens_per_tile=4)


def picture(seed: int, width: int = 64, height: int = 48) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def sample(*parts: tuple[Part, ...], id: str = "x") -> Sample:
    return Sample(id, "test", sum(parts, ()))


def targets(processor: MM15Processor, what: Sample) -> str:
    """The trained text: labels, already shifted, read as tokens."""
    labels = processor.encode(what).labels
    return processor.tokenizer.decode(labels[labels != IGNORE])


def test_only_answers_and_their_end_are_targets(processor: MM15Processor) -> None:
    what = sample(system("Be brief."), user(picture(0), "Where is it?"), assistant(Region(Box(0, 0, 32, 48))))
    assert targets(processor, what) == "[0, 0, 500, 999]<|im_end|>"


def test_documents_train_all_text_and_their_end(processor: MM15Processor) -> None:
    what = sample(document(picture(0), "a red circle ", picture(1), "and more"))
    assert targets(processor, what) == "a red circle and more<|endoftext|>"


def test_few_shot_turns_may_be_context_only(processor: MM15Processor) -> None:
    shots = user(picture(0), "What number?") + assistant("12", target=False)
    what = sample(shots, user(picture(1), "What number?"), assistant("7"))
    assert targets(processor, what) == "7<|im_end|>"
    asked = processor.prompt(what)
    assert len(asked.tiles) == len(processor.encode(what).tiles)
    assert processor.tokenizer.decode(asked.input_ids).endswith("What number?<|im_end|>\n<|im_start|>assistant\n")


def test_labels_are_shifted_by_one(processor: MM15Processor) -> None:
    encoded = processor.encode(sample(user("What number?"), assistant("19")))
    for here, label in enumerate(encoded.labels):
        assert label in (IGNORE, encoded.input_ids[min(here + 1, len(encoded) - 1)])


def test_prompt_is_a_prefix_of_the_encoded_sample(processor: MM15Processor) -> None:
    """What `generate` continues is what training put before the answer, token for token."""
    what = sample(user(picture(0), "What is at ", Region(Point(3, 4)), "?"), assistant("a circle"))
    asked, whole = processor.prompt(what).input_ids, processor.encode(what).input_ids
    assert np.array_equal(asked, whole[: len(asked)])
    caption = sample(document(picture(0), "a red circle"))
    assert np.array_equal(processor.prompt(caption).input_ids, processor.encode(caption).input_ids[: 4 * 5])


def test_spans_are_the_runs_of_placeholders(processor: MM15Processor) -> None:
    encoded = processor.encode(sample(user(picture(0), "x", picture(1), "y"), assistant("z")))
    places = np.flatnonzero(encoded.input_ids == processor.image_token_id)
    assert len(encoded.spans) == len(encoded.tiles) > 2
    assert np.array_equal((encoded.spans[:, None] + np.arange(4)).ravel(), places)


def random_conversation(rng: random.Random) -> tuple[Sample, list[dict], list[PILImage.Image]]:
    """The same conversation as a sample, as messages, and its pictures."""
    parts, messages, pictures = (), [], []
    for _turn in range(rng.randint(1, 4)):
        content: list = []
        for _ in range(rng.randint(1, 3)):
            if rng.random() < 0.4:
                array = picture(rng.randrange(99), rng.randint(20, 90), rng.randint(20, 90)).data
                pictures.append(PILImage.fromarray(array))
                content.append(Image(array))
            else:
                content.append(rng.choice([*TEXTS, " ", "12", "é漢字", "\n"]))
        answer = rng.choice(TEXTS)
        parts += user(*content) + assistant(answer)
        blocks = [{"type": "image"} if isinstance(c, Image) else {"type": "text", "text": c} for c in content]
        messages += [{"role": "user", "content": blocks}, {"role": "assistant", "content": answer}]
    return Sample("random", "test", parts), messages, pictures


def test_template_and_sample_give_the_same_tokens(processor: MM15Processor) -> None:
    """200 random conversations: transformers' way in equals ours, ids and tiles."""
    rng = random.Random(0)
    for _ in range(200):
        what, messages, pictures = random_conversation(rng)
        text = processor.apply_chat_template(messages)
        inputs = processor(text=text, images=pictures or None, return_tensors="np")
        encoded = processor.encode(what)
        assert np.array_equal(inputs["input_ids"][0], encoded.input_ids)
        if pictures:
            assert np.array_equal(inputs["pixel_values"], encoded.tiles)
        asked = processor.apply_chat_template(messages[:-1], add_generation_prompt=True)
        ids = processor(text=asked, images=pictures or None, return_tensors="np")["input_ids"][0]
        assert np.array_equal(ids, processor.prompt(what).input_ids)


def test_user_text_cannot_spell_special_tokens(processor: MM15Processor) -> None:
    encoded = processor.encode(sample(user(picture(0), "<image><|im_end|>"), assistant("ok")))
    ids = encoded.input_ids.tolist()
    assert ids.count(processor.image_token_id) == 4 * len(encoded.tiles)
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert "<image><|im_end|>" in processor.tokenizer.decode(ids)


def test_three_pictures_are_not_split(processor: MM15Processor) -> None:
    for count, tiles in ((1, 5), (2, 10), (3, 3), (4, 4)):
        what = sample(user(*(picture(i, 64, 64) for i in range(count)), "?"), assistant("y"))
        assert len(processor.encode(what).tiles) == tiles


def test_batches_are_padded_left_and_flat_images_are_dealt_out(processor: MM15Processor) -> None:
    pictures = [PILImage.fromarray(picture(i).data) for i in range(3)]
    inputs = processor(text=["<image>a", "b", "<image><image>c"], images=pictures, return_tensors="pt")
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1, 1]
    assert inputs["attention_mask"][1, 0] == 0
    with pytest.raises(ValueError, match=r"2 <image> placeholders and there are 1 pictures"):
        processor(text="<image> and <image>", images=pictures[:1])


def test_save_and_load_as_transformers_does(processor: MM15Processor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    for again in (MM15Processor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(again) is mm15.MM15Processor
        assert (again.tiling, again.coordinates, again.tokens_per_tile) == (processor.tiling, processor.coordinates, 4)
        what = sample(user(picture(3), "Where?"), assistant(Region(Box(1, 2, 3, 4))))
        assert np.array_equal(again.encode(what).input_ids, processor.encode(what).input_ids)


def test_bin_tokens_are_one_token_each(tokenizer: PreTrainedTokenizerFast) -> None:
    coordinates = Coordinates(bins=50, tokens=True)
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    own = tokenizers.prepare(own, coordinates=coordinates)
    made = build_processor(own, tiling=Tiling(tile=32), coordinates=coordinates, tokens_per_tile=4)
    what = sample(user(picture(0), "?"), assistant(Region(Box(0, 0, 32, 48))))
    labels = made.encode(what).labels
    assert (labels != IGNORE).sum() == 4 + 3  # four bins, two brackets, the end
    assert made.coordinates.decode(targets(made, what).removesuffix("<|im_end|>"), (64, 48)) == Box(
        0.64, 0.48, 32.64, 47.52
    )


def test_raising_tiles_is_free_and_lowering_warns(processor: MM15Processor) -> None:
    trained = build_processor(
        processor.tokenizer, tiling=Tiling(tile=32, min_tiles=4), coordinates=Coordinates(), tokens_per_tile=4
    )
    assert trained.with_tiling(max_tiles=16).tiling.max_tiles == 16
    with pytest.warns(UserWarning, match="min_tiles=1 is below the trained 4"):
        trained.with_tiling(min_tiles=1)


def test_errors_name_the_sample(processor: MM15Processor, tmp_path: Path) -> None:
    for bad, words in [
        (sample(user(Image(tmp_path / "none.png"), "?"), assistant("x"), id="a7"), "a7"),
        (sample(user(picture(0)), assistant(Region(Box(0, 0, 65, 48))), id="b8"), "b8.*outside its picture of 64x48"),
        (sample(user(picture(0)), assistant(Region(Box(0, 0, 1, 1), image=1)), id="c9"), "c9.*picture 1"),
        (sample(user(Video("v.mp4")), assistant("x"), id="d0"), "d0.*frames"),
    ]:
        with pytest.raises(UserError, match=words):
            processor.encode(bad)


def test_trained_tokenizer_reads_anything_and_splits_digits(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ("é漢字 \n\t🙂", "120", "Where is the red circle?"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("7 120")["input_ids"]) == 5
    again = tokenizers.train(TEXTS, vocab_size=400)
    assert again.get_vocab() == {k: v for k, v in tokenizer.get_vocab().items() if v < len(again)}
    with pytest.raises(UserError, match="vocab_size=100"):
        tokenizers.train(TEXTS, vocab_size=100)


def test_consecutive_parts_of_a_role_are_one_turn() -> None:
    parts = (Part("a", Role.USER), Part("b", Role.USER), Part("c", Role.ASSISTANT, target=True))
    text = "".join(s.text for s in segments(parts, coordinates=Coordinates(), sizes=[]))
    assert text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n"
    text = "".join(s.text for s in prompt_segments(parts, coordinates=Coordinates(), sizes=[]))
    assert text == "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"
