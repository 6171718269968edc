"""Conversations: what the model is shown, where its places land, and that a refused question changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from scripted import COORDINATES, Scripted, processor, tiny

from mm15.errors import UserError
from mm15.generate import Conversation, continue_prompts, read_reply
from mm15.generate.greedy import pad_left
from mm15.processor import MM15Processor
from mm15.regions import Box, Point, Region
from mm15.sample import Image, Sample, assistant, system, user

WIDE, HIGH = (200, 50), (30, 90)


def picture(size: tuple[int, int]) -> PILImage.Image:
    return PILImage.new("RGB", size, "white")


@pytest.fixture(scope="module")
def small() -> MM15Processor:
    return processor()


def scripted(small: MM15Processor, *replies: str) -> Scripted:
    waiting = list(replies)
    return Scripted(small, lambda prompt, tiles: waiting.pop(0))


def test_turn_is_written_as_training_writes_it(small: MM15Processor) -> None:
    model = scripted(small, "red", "blue")
    chat = Conversation(model, small, instruction="Be short.")
    assert chat.ask("What color?", images=[picture(WIDE)]).text == "red"
    assert chat.ask("And this?", images=[picture(HIGH)]).text == "blue"
    whole = Sample(
        "x",
        "x",
        system("Be short.")
        + user(Image(picture(WIDE)), "What color?")
        + assistant("red", target=False)
        + user(Image(picture(HIGH)), "And this?")
        + assistant("blue"),
    )
    encoded, shown = small.prompt(whole), model.batches[1]["input_ids"][0]
    assert shown.tolist() == encoded.input_ids.tolist()
    assert model.prompts[1].count("<image>") == 2 and model.prompts[1].endswith("<|im_start|>assistant\n")


def test_reply_places_are_in_pixels_of_the_last_picture(small: MM15Processor) -> None:
    chat = Conversation(scripted(small, "It is at [10, 20, 50, 60].", "[10, 20]", "[10, 20]", "no"), small)
    reply = chat.ask("Where?", images=[picture(HIGH), picture(WIDE)])
    assert reply.regions == [Region(Box(21, 10.25, 101, 30.25), 1, "It is at")], "bin centres of 200 x 50 pixels"
    assert chat.ask("And there?").regions == [Region(Point(21, 10.25), 1)], "pictures stay"
    assert chat.ask("In the first?", about=0).regions == [Region(Point(3.15, 18.45), 0)]
    assert chat.ask("Sure?").regions == []


def test_asked_places_go_into_the_text(small: MM15Processor) -> None:
    model = scripted(small, "a", "b", "c", "d", "e")
    chat = Conversation(model, small)
    chat.ask("What is <region> beside <region>?", images=[picture(WIDE)], regions=[Box(20, 5, 60, 25), Point(100, 25)])
    assert "What is [10, 10, 30, 50] beside [50, 50]?" in model.prompts[-1]
    chat.ask("What is at", regions=[Point(0, 0), Point(199, 49)])
    assert "What is at [0, 0] [99, 98]<|im_end|>" in model.prompts[-1]
    chat.ask("Is <region> left of", regions=[Point(0, 0), Point(100, 25)])
    assert "Is [0, 0] left of [50, 50]<|im_end|>" in model.prompts[-1], "what has no mark follows"
    chat.ask("And <region>?", images=[picture(HIGH)], regions=[Point(15, 45)])
    assert "And [50, 50]?" in model.prompts[-1], "the newest picture is meant"
    chat.ask("And <region> there?", regions=[Region(Point(20, 45), 0)])
    assert "And [10, 90] there?" in model.prompts[-1], "a Region names its picture"


def test_coordinates_survive_the_way_in_and_out(small: MM15Processor) -> None:
    """A box that is asked about and echoed comes back within half a bin on each side."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        width, height = (int(v) for v in rng.integers(5, 3000, 2))
        (x1, x2), (y1, y2) = np.sort(rng.random(2)) * width, np.sort(rng.random(2)) * height
        echo = Scripted(small, lambda prompt, tiles: prompt[prompt.rindex("[") : prompt.rindex("]") + 1])
        box = Box(x1, y1, x2, y2)
        reply = Conversation(echo, small).ask("Where?", images=[np.zeros((height, width, 3), np.uint8)], regions=[box])
        for got, true, side in zip(reply.regions[0].shape, box, (width, height) * 2, strict=True):
            assert abs(got - true) <= side / COORDINATES.bins / 2 + 1e-9


def test_malformed_coordinates_are_reported(small: MM15Processor) -> None:
    reply = Conversation(scripted(small, "at [1, 2, 3] or [5, 200]"), small).ask("Where?", images=[picture(WIDE)])
    assert reply.regions == [] and [bad.text for bad in reply.malformed] == ["[1, 2, 3]", "[5, 200]"]


def test_text_only_replies_have_no_places(small: MM15Processor) -> None:
    reply = Conversation(scripted(small, "[1, 2]"), small).ask("Say a list.")
    assert (reply.text, reply.regions, reply.malformed) == ("[1, 2]", [], [])
    assert read_reply("[1, 2]", size=None, coordinates=COORDINATES).regions == []


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("Where?", {"regions": [Box(0, 0, 300, 10)]}, "outside its picture of 200x50"),
        ("Where is <region> and <region>?", {"regions": [Point(0, 0)]}, "2 <region> marks and there are 1 regions"),
        ("Where?", {"about": 5}, "about=5, but 1 pictures"),
        ("Where?", {"about": 5, "images": [picture(HIGH)]}, "about=5, but 2 pictures"),
        ("Where?", {"regions": [Region(Point(0, 0), 3)]}, "in picture 3, but 1 are shown"),
        ("  ", {}, "nothing to ask"),
        ("Where?", {"images": ["no/such.png"]}, r"no/such\.png"),
    ],
)
def test_refused_questions_change_nothing(small: MM15Processor, text: str, options: dict, message: str) -> None:
    model = scripted(small, "first", "second")
    chat = Conversation(model, small)
    chat.ask("Hello", images=[picture(WIDE)])
    before = (chat.parts, list(chat.sizes))
    with pytest.raises(UserError, match=message):
        chat.ask(text, **options)
    assert (chat.parts, chat.sizes) == before
    assert chat.ask("Still there?").text == "second"


def test_places_need_a_picture(small: MM15Processor) -> None:
    with pytest.raises(UserError, match="needs a picture"):
        Conversation(scripted(small), small).ask("What is", regions=[Point(1, 1)])


def test_pictures_may_come_in_any_form(small: MM15Processor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(WIDE).save(path)
    forms = [path, str(path), path.read_bytes(), np.zeros((50, 200, 3), np.uint8), picture(WIDE), Image(path)]
    chat = Conversation(scripted(small, "ok", "fine"), small)
    chat.ask("Same?", images=forms)
    path.unlink()
    assert chat.ask("And now?").text == "fine", "pictures are kept, not read again"
    assert chat.sizes == [WIDE] * 6


# ------------------------------------------------------------------------------------------------- batches, real model


def prompts(small: MM15Processor) -> list:
    questions = [
        user("Hi"),
        user(Image(picture(WIDE)), "Where is the red circle?"),
        user(Image(picture(HIGH)), "What color?", Image(np.full((40, 40, 3), 9, np.uint8)), "And this one here, then?"),
    ]
    return [small.prompt(Sample(str(i), "x", parts)) for i, parts in enumerate(questions)]


def test_padding_stands_left(small: MM15Processor) -> None:
    made = prompts(small)
    ids, mask = pad_left(made, pad_id=7)
    for row, prompt in enumerate(made):
        n = len(prompt)
        assert ids[row, -n:].tolist() == prompt.input_ids.tolist() and mask[row, -n:].all()
        assert (ids[row, : ids.shape[1] - n] == 7).all() and not mask[row, : ids.shape[1] - n].any()


def test_batched_replies_equal_single_ones(small: MM15Processor) -> None:
    model, made = tiny(small), prompts(small)
    single = [continue_prompts(model, small, [prompt], max_new_tokens=12)[0] for prompt in made]
    assert continue_prompts(model, small, made, max_new_tokens=12) == single
    assert len(set(single)) == 3, "the prompts are told apart, so the comparison means something"


def test_replies_equal_greedy_steps_by_hand(small: MM15Processor) -> None:
    """The cache, the padding and the stopping of generate, against whole forward passes and argmax."""
    model, prompt = tiny(small), prompts(small)[1]
    ids = prompt.input_ids.tolist()
    tiles = torch.from_numpy(prompt.tiles)
    written: list[int] = []
    with torch.inference_mode():
        for _ in range(8):
            # later placeholders that the model itself writes are ordinary tokens to it, so stop before one
            logits = model(input_ids=torch.tensor([ids + written]), pixel_values=tiles).logits
            token = int(logits[0, -1].argmax())
            if token in (small.tokenizer.eos_token_id, small.tokenizer.pad_token_id, small.image_token_id):
                break
            written.append(token)
    assert written
    said = continue_prompts(model, small, [prompt], max_new_tokens=len(written))
    assert said == [small.answer_text(written)]


def test_a_prompt_that_leaves_no_room_is_refused(small: MM15Processor) -> None:
    model = Scripted(small, lambda prompt, tiles: "x", room=30)
    with pytest.raises(UserError, match=r"the prompt has \d+ tokens and 20 may follow, but the model has 30 positions"):
        continue_prompts(model, small, prompts(small), max_new_tokens=20)
    assert continue_prompts(model, small, [], max_new_tokens=20) == []


def test_conversation_with_a_real_model(small: MM15Processor) -> None:
    chat = Conversation(tiny(small), small, max_new_tokens=6)
    first = chat.ask("Where is the red circle?", images=[picture(WIDE)])
    second = chat.ask("And <region>?", regions=[Point(10, 10)])
    assert isinstance(first.text, str) and isinstance(second.text, str)
    again = Conversation(chat.model, small, max_new_tokens=6)
    assert again.ask("Where is the red circle?", images=[picture(WIDE)]) == first, "greedy is the same every time"
