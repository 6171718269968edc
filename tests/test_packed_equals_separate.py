"""A pack of documents gives the logits of its documents, for every attention; and how that would break."""

from __future__ import annotations

import pytest
import torch
from tiny_model import PICTURE, make, text, tiles

from mm15.model import MM15ForConditionalGeneration
from mm15.model.attention import document_lengths

ATTENTIONS = ["eager", "sdpa", "packed_sdpa"]

DOCUMENTS = [
    text(9, 1),
    PICTURE + text(6, 2),
    text(3, 3) + PICTURE + PICTURE + text(8, 4) + PICTURE + text(2, 5),
    text(1, 6),
    text(17, 7),
]
TILES = [0, 1, 3, 0, 0]


def pack(documents: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """One row of ids [1, T] and its restarting positions."""
    ids = torch.tensor([[token for document in documents for token in document]])
    positions = torch.cat([torch.arange(len(document)) for document in documents])[None]
    return ids, positions


def separate(model: MM15ForConditionalGeneration, documents: list[list[int]], pixels: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of the documents one by one."""
    logits, used = [], 0
    for document, count in zip(documents, TILES, strict=False):
        own = pixels[used : used + count] if count else None
        logits.append(model(torch.tensor([document]), own).logits[0])
        used += count
    return torch.cat(logits)


@pytest.mark.parametrize("decoder", ["llama", "qwen2", "qwen3", "mistral", "qwen3_moe"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_packed_equals_separate(attention: str, decoder: str) -> None:
    """Logits to 1e-5 in fp32, with pictures in some documents."""
    model, pixels = make(decoder=decoder), tiles(sum(TILES))
    model.set_attn_implementation(attention)
    assert model.decoder.config._attn_implementation == attention
    ids, positions = pack(DOCUMENTS)
    with torch.no_grad():
        packed = model(ids, pixels, position_ids=positions).logits[0]
        model.set_attn_implementation("eager")
        wanted = separate(model, DOCUMENTS, pixels)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(packed, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradients_of_a_pack_are_the_sum_of_its_documents(attention: str) -> None:
    """Backward too: the gradients of one pack equal those of its documents one after the other."""
    model, pixels = make(), tiles(sum(TILES))
    model.set_attn_implementation(attention)
    ids, positions = pack(DOCUMENTS)
    targets = ids.roll(-1, 1)
    model.train()
    model(ids, pixels, position_ids=positions, shift_labels=targets, num_items_in_batch=ids.numel()).loss.backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    used = start = 0
    for document, count in zip(DOCUMENTS, TILES, strict=True):
        model(
            torch.tensor([document]),
            pixels[used : used + count],
            shift_labels=targets[:, start : start + len(document)],
            num_items_in_batch=ids.numel(),
        ).loss.backward()
        used, start = used + count, start + len(document)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, packed[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_decoder_alone_would_join_documents_under_a_mask_of_ones_and_under_a_cache(attention: str) -> None:
    """What `forward` protects from: transformers joins the documents of the same call, without a word."""
    model = make()
    model.set_attn_implementation(attention)
    ids, positions = pack([text(9, 1), text(17, 7)])
    with torch.no_grad():
        right = model.decoder(ids, position_ids=positions, use_cache=False).logits
        if attention != "packed_sdpa":  # which looks at the positions itself
            ones = torch.ones_like(ids)
            masked = model.decoder(ids, position_ids=positions, use_cache=False, attention_mask=ones).logits
            cached = model.decoder(ids, position_ids=positions, use_cache=True).logits
            assert (masked - right).abs().max() > 0.01
            assert (cached - right).abs().max() > 0.01
        ours = model(ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=True)
    torch.testing.assert_close(ours.logits, right, rtol=0, atol=1e-5)
    assert ours.past_key_values is None


def test_padding_inside_a_pack_is_refused() -> None:
    """A mask with zeros over restarting positions cannot be honoured: it is an error with both numbers."""
    model = make()
    ids, positions = pack([text(9, 1), text(8, 2)])
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    with pytest.raises(ValueError, match=r"restart 1 times.*masks 3 tokens"):
        model(ids, position_ids=positions, attention_mask=mask)


def test_a_tail_of_single_tokens_changes_nothing() -> None:
    """Padding behind a pack, each token a document of its own (position 0), leaves the documents' logits alone."""
    model = make()
    ids, positions = pack([text(9, 1), text(8, 2)])
    tail = torch.zeros(1, 5, dtype=torch.long)
    with torch.no_grad():
        short = model(ids, position_ids=positions).logits
        long = model(torch.cat([ids, tail], 1), position_ids=torch.cat([positions, tail], 1)).logits
    torch.testing.assert_close(long[:, :17], short, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_two_packed_rows(attention: str) -> None:
    """Rows of a batch are cut each at its own document starts."""
    model = make()
    model.set_attn_implementation(attention)
    rows = [pack([text(5, 1), text(12, 2)]), pack([text(10, 3), text(3, 4), text(4, 5)])]
    ids, positions = (torch.cat(parts) for parts in zip(*rows, strict=True))
    with torch.no_grad():
        both = model(ids, position_ids=positions).logits
        for row, (one, places) in enumerate(rows):
            torch.testing.assert_close(both[row : row + 1], model(one, position_ids=places).logits, rtol=0, atol=1e-5)


def test_two_packed_rows_under_flash_attention_are_refused() -> None:
    """transformers isolates documents under flash attention in a batch of one row only."""
    model = make()
    ids, positions = pack([text(5, 1), text(12, 2)])
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"one row; this one has 2"):
        model(ids.repeat(2, 1), position_ids=positions)


@pytest.mark.parametrize("window", [3, 8, 64])
def test_sliding_window_inside_packed_documents(window: int) -> None:
    """packed_sdpa honours Mistral's window: equal to eager attention with its mask."""
    model = make(decoder="mistral", decoder_shape={"sliding_window": window})
    ids, positions = pack(DOCUMENTS)
    pixels = tiles(sum(TILES))
    logits = {}
    for attention in ("eager", "packed_sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            logits[attention] = model(ids, pixels, position_ids=positions).logits
    torch.testing.assert_close(logits["packed_sdpa"], logits["eager"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "packed_sdpa"])
def test_bf16_stays_near_fp32(attention: str) -> None:
    """Under bf16 autocast a pack stays within bf16's error of its fp32 logits (and so isolated)."""
    model, pixels = make(), tiles(sum(TILES))
    ids, positions = pack(DOCUMENTS)
    with torch.no_grad():
        wanted = separate(model, DOCUMENTS, pixels)
        model.set_attn_implementation(attention)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            packed = model(ids, pixels, position_ids=positions).logits[0]
    error = (packed.float() - wanted).norm() / wanted.norm()
    assert error < 0.03


def test_the_attention_finds_the_documents_itself() -> None:
    """Called without our model around it, packed_sdpa reads the documents off the position ids."""
    model = make()
    ids, positions = pack([text(9, 1), text(17, 7)])
    with torch.no_grad():
        alone = model.decoder(ids, position_ids=positions, use_cache=False).logits
        ours = model(ids, position_ids=positions).logits
    torch.testing.assert_close(alone, ours, rtol=0, atol=1e-6)


def test_packed_sdpa_equals_sdpa_when_nothing_is_packed() -> None:
    """Left padding, prompt with cache and the steps after it: handed over to plain sdpa."""
    model = make()
    ids = torch.tensor([text(10, 1), [0, 0, 0, *text(7, 2)]])
    mask = (ids != 0).long()
    steps = {}
    for attention in ("sdpa", "packed_sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            first = model(ids, attention_mask=mask, use_cache=True)
            longer = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], 1)
            after = torch.tensor([[5], [6]])
            second = model(after, attention_mask=longer, past_key_values=first.past_key_values, use_cache=True)
        steps[attention] = torch.cat([first.logits, second.logits], 1)
    torch.testing.assert_close(steps["packed_sdpa"][mask_rows(mask)], steps["sdpa"][mask_rows(mask)], rtol=0, atol=1e-6)


def mask_rows(mask: torch.Tensor) -> torch.Tensor:
    """The mask with one more real column."""
    return torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.long)], 1).bool()


def test_document_lengths() -> None:
    """Documents start where positions do not go up by one."""
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0, 0], [4, 5, 6, 7, 0, 1, 2, 3]])
    assert document_lengths(positions) == [[3, 2, 1, 1, 1], [4, 4]]
