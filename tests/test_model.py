"""The whole model: splicing, placeholder checks, losses, micro-batches, zero tiles, tile sizes and generation."""

from __future__ import annotations

import pytest
import torch
from tiny_model import EACH, IMAGE, PICTURE, TILE, VOCAB, make, text, tiles
from torch.nn import functional as F  # noqa: N812

from mm15.model import MM15ForConditionalGeneration, loss

IGNORE = -100


def example() -> tuple[torch.Tensor, torch.Tensor]:
    """One row with two pictures, and targets at some places that are not pictures."""
    ids = torch.tensor([text(4, 1) + PICTURE + text(7, 2) + PICTURE + text(9, 3)])
    targets = ids.roll(-1, 1)
    keep = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    keep[:, -1] = False
    return ids, torch.where(keep & (targets != IMAGE), targets, IGNORE)


# ----------------------------------------------------------------------------------------------------------- splicing


@pytest.mark.parametrize("training", [False, True])
def test_visual_tokens_replace_the_placeholders_in_order(training: bool) -> None:
    """Logits equal the bare decoder's on embeddings put together by hand."""
    model = make(decoder_shape={"attention_dropout": 0.0}).train(training)
    ids, _ = example()
    pixels = tiles(2)
    features = model.connector(model.vision((pixels.float() / 255 - 0.5) / 0.5))
    embeds = model.get_input_embeddings()(ids).detach().clone()
    embeds[0, 4 : 4 + EACH] = features[0]
    embeds[0, 11 + EACH : 11 + 2 * EACH] = features[1]
    wanted = model.decoder(inputs_embeds=embeds, use_cache=False).logits
    torch.testing.assert_close(model(ids, pixels).logits, wanted, rtol=0, atol=1e-5)


def test_the_placeholders_own_embedding_does_not_matter() -> None:
    """Features replace it, they are not added."""
    model = make()
    ids, _ = example()
    with torch.no_grad():
        before = model(ids, tiles(2)).logits
        model.get_input_embeddings().weight[IMAGE] += 5.0
        assert torch.equal(model(ids, tiles(2)).logits, before)


def test_tiles_are_normalised_inside() -> None:
    """uint8 tiles equal floats that were normalised outside, with each family's own statistics."""
    ids = torch.tensor([text(3) + PICTURE])
    for family, mean in {"siglip": 0.5, "clip": 0.48145466, "dinov2": 0.485}.items():
        model, pixels = make(family), tiles(1)
        config = model.config
        assert config.image_mean[0] == mean
        mean_3, std_3 = torch.tensor(config.image_mean), torch.tensor(config.image_std)
        by_hand = (pixels / 255 - mean_3[:, None, None]) / std_3[:, None, None]
        torch.testing.assert_close(model(ids, pixels).logits, model(ids, by_hand).logits)


def test_tiles_go_to_the_rows_in_reading_order() -> None:
    """A batch of two rows with 2 and 1 tiles equals the rows alone; spans that say so are accepted."""
    model, pixels = make(), tiles(3)
    rows = [torch.tensor([PICTURE + text(3) + PICTURE]), torch.tensor([text(7) + PICTURE])]
    both = model(torch.cat(rows), pixels, tile_spans=torch.tensor([0, EACH + 3, 2 * EACH + 3 + 7])).logits
    torch.testing.assert_close(both[:1], model(rows[0], pixels[:2]).logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1:], model(rows[1], pixels[2:]).logits, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("row", "count", "message"),
    [
        (text(3) + PICTURE, 2, r"4 placeholder tokens in 1 rows, but 2 tiles of 4 tokens need 8"),
        (text(3) + PICTURE, 0, r"4 placeholder tokens in 1 rows, but 0 tiles of 4 tokens need 0"),
        (text(3), 1, r"0 placeholder tokens in 1 rows, but 1 tiles of 4 tokens need 4"),
        ([IMAGE] * 3 + text(2) + [IMAGE] * 5, 2, r"row 0 has a run of 3 placeholders at token 0; a tile needs 4"),
        (PICTURE + text(2) + [IMAGE] * 6, 2, r"row 0 has a run of 6 placeholders at token 6; a tile needs 4"),
    ],
)
def test_placeholders_that_do_not_fit_are_loud(row: list[int], count: int, message: str) -> None:
    """Both numbers and the row, in training and in use."""
    model = make()
    for training in (True, False):
        with pytest.raises(ValueError, match=message):
            model.train(training)(torch.tensor([row]), tiles(count) if count else None)


def test_other_inputs_that_do_not_fit_are_loud() -> None:
    """Spans elsewhere, tiles of another size, two kinds of labels, tiles without ids."""
    model = make()
    ids = torch.tensor([text(3) + PICTURE])
    with pytest.raises(ValueError, match=r"spans start at \[2\], runs of placeholders at \[3\]"):
        model(ids, tiles(1), tile_spans=torch.tensor([2]))
    with pytest.raises(ValueError, match=r"\(1, 3, 40, 40\).*\[N, 3, 32, 32\]"):
        model(ids, tiles(1, side=40))
    with pytest.raises(ValueError, match="not both"):
        model(ids, tiles(1), labels=ids, shift_labels=ids)
    with pytest.raises(ValueError, match="need input_ids"):
        model(inputs_embeds=torch.zeros(1, 4, 32), pixel_values=tiles(1))
    with pytest.raises(ValueError, match="one of them"):
        model()


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("rows", [4096, 5])
def test_target_loss_equals_labels_and_cross_entropy_by_hand(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """shift_labels (in one chunk and in several) == labels == by hand; gradients too."""
    monkeypatch.setattr(loss, "LOGIT_ROWS", rows)
    model = make().train()
    ids, targets = example()
    count = int((targets != IGNORE).sum())
    assert count > 5

    def gradients() -> dict[str, torch.Tensor]:
        found = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        return found

    out = model(ids, tiles(2), shift_labels=targets)
    assert out.logits is None
    out.loss.backward()
    ours = gradients()

    logits = model(ids, tiles(2)).logits[0]
    chosen = [(t, int(v)) for t, v in enumerate(targets[0]) if v != IGNORE]
    by_hand = -sum(logits[t].log_softmax(-1)[v] for t, v in chosen) / len(chosen)
    by_hand.backward()
    wanted = gradients()

    unshifted = F.pad(targets, (1, 0), value=IGNORE)[:, :-1]
    usual = model(ids, tiles(2), labels=unshifted)
    usual.loss.backward()
    assert usual.logits.shape == (1, ids.shape[1], VOCAB)

    assert out.loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert usual.loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert out.loss_sum.item() == pytest.approx(by_hand.item() * count, rel=1e-6)
    assert int(out.loss_count) == int(usual.loss_count) == count
    for name, gradient in gradients().items():
        torch.testing.assert_close(
            gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        torch.testing.assert_close(
            ours[name], wanted[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_unshifted_labels_of_a_pack_have_no_target_across_documents() -> None:
    """The first token of a document is not predicted from the document before it."""
    model = make()
    parts = [text(6, 1), text(5, 2)]
    ids = torch.tensor([parts[0] + parts[1]])
    positions = torch.tensor([[*range(6), *range(5)]])
    packed = model(ids, position_ids=positions, labels=ids)
    alone = [model(torch.tensor([part]), labels=torch.tensor([part])) for part in parts]
    assert int(packed.loss_count) == 5 + 4
    assert packed.loss_sum.item() == pytest.approx(sum(o.loss_sum.item() for o in alone), rel=1e-6)


def test_gradients_do_not_change_with_the_micro_batch_split() -> None:
    """Two rows at once, or one by one with the step's count of targets: the same gradients."""
    model = make().train()
    ids, targets = example()
    rows = [(ids, targets, tiles(2, 1)), (ids.flip(1), targets.roll(3, 1), tiles(2, 2))]
    total = sum(int((t != IGNORE).sum()) for _, t, _ in rows)
    whole = model(*(torch.cat([r[i] for r in rows]) for i in (0, 2)), shift_labels=torch.cat([r[1] for r in rows]))
    whole.loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    parts = [model(i, p, shift_labels=t, num_items_in_batch=total).loss for i, t, p in rows]
    sum(parts).backward()
    assert sum(parts).item() == pytest.approx(whole.loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, wanted[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_no_targets_is_a_loss_of_zero() -> None:
    """A micro-batch without targets contributes nothing, and its backward works."""
    model = make().train()
    ids, targets = example()
    out = model(ids, tiles(2), shift_labels=torch.full_like(targets, IGNORE), num_items_in_batch=7)
    out.loss.backward()
    assert (out.loss.item(), int(out.loss_count)) == (0.0, 0)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_every_parameter_gets_a_gradient() -> None:
    """For every encoder family: nothing in the tower is left out of training."""
    for family in ("siglip", "clip", "dinov2"):
        model = make(family).train()
        ids, targets = example()
        model(ids, tiles(2), shift_labels=targets).loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] in (
            [],
            [name for name, _ in model.named_parameters() if name.endswith("k_proj.bias") or name.endswith("key.bias")],
        ), family


def test_a_batch_without_tiles_runs_a_blank_one_in_training() -> None:
    """Encoder and connector get gradients of exactly zero (not None), and the loss does not change."""
    model = make()
    ids = torch.tensor([text(12)])
    with torch.no_grad():
        wanted = model(ids, shift_labels=ids.roll(-1, 1)).loss
    calls = []
    model.vision.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(ids)
    assert not calls
    model.train()
    for pixels in (None, tiles(1)[:0]):
        model.zero_grad()
        loss = model(ids, pixels, shift_labels=ids.roll(-1, 1)).loss
        loss.backward()
        assert loss.item() == wanted.item()
        for part in (model.vision, model.connector):
            assert all(p.grad is not None and not p.grad.any() for p in part.parameters())
        assert all(p.grad is not None for p in model.decoder.parameters())
    assert len(calls) == 2


def test_bf16_autocast_is_near_fp32() -> None:
    """fp32 parameters under autocast: loss within 1 %, gradients in fp32."""
    model = make(vision_shape={"stem": [8, 16]}).train()
    ids, targets = example()
    wanted = model(ids, tiles(2), shift_labels=targets).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, tiles(2), shift_labels=targets).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted, rel=1e-2)
    assert loss.item() != wanted
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_activation_checkpointing_changes_nothing() -> None:
    """Same loss and gradients with the encoder's and the decoder's layers checkpointed."""
    model = make().train()
    ids, targets = example()
    packed = {"position_ids": torch.arange(ids.shape[1])[None] % 15, "shift_labels": targets}
    model(ids, tiles(2), **packed).loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(ids, tiles(2), **packed).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, wanted[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


# --------------------------------------------------------------------------------------------------------- tile sizes


@pytest.mark.parametrize("family", ["siglip", "clip", "dinov2"])
def test_set_tile(family: str) -> None:
    """Another tile size: positions interpolated once, class position kept, the same number of tokens a tile."""
    model = make(family)
    table = model.vision.tower.embeddings.position_embedding.weight if family == "clip" else None
    kept = None if table is None else table[0].clone()
    model.set_tile(48)
    assert (model.config.tile, model.config.vision_config.image_size, model.config.grid) == (48, 48, 6)
    assert model.get_image_features(tiles(2, side=48)).shape == (2, EACH, 32)
    if kept is not None:
        assert torch.equal(model.vision.tower.embeddings.position_embedding.weight[0], kept)
    with pytest.raises(ValueError, match="48, 48"):
        model(torch.tensor([PICTURE]), tiles(1))
    model.train()
    ids, targets = example()
    model(ids, tiles(2, side=48), shift_labels=targets).loss.backward()
    assert model.connector.pos_emb.grad.any()


def test_set_tile_to_the_same_size_changes_nothing() -> None:
    """No interpolation, bit for bit."""
    model = make("clip")
    ids, _ = example()
    before = model(ids, tiles(2)).logits
    model.set_tile(TILE)
    assert torch.equal(model(ids, tiles(2)).logits, before)


# --------------------------------------------------------------------------------------------------------- generation


def greedy(model: MM15ForConditionalGeneration, ids: torch.Tensor, pixels: torch.Tensor | None) -> list[int]:
    """Six greedy tokens by whole forwards without a cache; the placeholder is never chosen."""
    for _ in range(6):
        logits = model(ids, pixels).logits[:, -1]
        logits[:, IMAGE] = float("-inf")
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids[0, -6:].tolist()


@pytest.mark.parametrize("attention", ["eager", "sdpa", "packed_sdpa"])
def test_generate_with_cache_equals_whole_forwards(attention: str) -> None:
    """Greedy generation, with and without the cache; tiles are encoded once."""
    model = make()
    model.set_attn_implementation(attention)
    ids, _ = example()
    pixels = tiles(2)
    calls: list[int] = []
    with torch.no_grad():
        wanted = greedy(model, ids, pixels)
        model.vision.register_forward_hook(lambda *_: calls.append(1))
        for cache in (True, False):
            calls.clear()
            out = model.generate(
                input_ids=ids, pixel_values=pixels, max_new_tokens=6, do_sample=False, use_cache=cache, eos_token_id=[]
            )
            assert out[0, ids.shape[1] :].tolist() == wanted
            assert len(calls) == (1 if cache else 6)


def test_generate_in_a_left_padded_batch() -> None:
    """Rows with pictures, many pictures and none, each as if it were alone; text-only needs no tiles."""
    model = make()
    rows = [text(5) + PICTURE + text(3), PICTURE * 5 + text(4), text(6)]
    counts = [1, 5, 0]
    pixels = tiles(6)
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": []}
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, pixel_values=pixels, **options)
        used = 0
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            own = pixels[used : used + count] if count else None
            used += count
            assert out[i, longest:].tolist() == greedy(model, torch.tensor([row]), own)


def test_beams_and_samples_repeat_a_rows_tiles_as_a_block() -> None:
    """Two rows with different numbers of tiles under beam search: each as if it were alone."""
    model = make(options={"eos_token_id": None})
    rows = [PICTURE + PICTURE + text(4, 1), PICTURE + text(8, 2)]
    pixels = tiles(3)
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3}
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor(rows), attention_mask=torch.ones(2, 12), pixel_values=pixels, **options
        )
        one = model.generate(input_ids=torch.tensor(rows[:1]), pixel_values=pixels[:2], **options)
        two = model.generate(input_ids=torch.tensor(rows[1:]), pixel_values=pixels[2:], **options)
    assert torch.equal(out, torch.cat([one, two]))


def test_the_placeholder_is_never_generated() -> None:
    """However much the model would like to."""
    model = make()
    with torch.no_grad():
        model.decoder.lm_head.weight.zero_()
        model.decoder.lm_head.weight[IMAGE] = 1.0
        hidden = model.decoder.model.norm.weight
        hidden.fill_(1.0)
        out = model.generate(input_ids=torch.tensor([text(4)]), max_new_tokens=8, do_sample=False, eos_token_id=[])
    assert IMAGE not in out[0].tolist()


def test_logits_to_keep() -> None:
    """Only the last positions' logits, and they are the same."""
    model = make()
    ids, _ = example()
    torch.testing.assert_close(model(ids, tiles(2), logits_to_keep=2).logits, model(ids, tiles(2)).logits[:, -2:])
