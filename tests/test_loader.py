"""The loader: the same stream for any number of workers and ranks, resumed anywhere, with every skip accounted for."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from sized_samples import LENGTHS, Source, encode, make, steps, through_json

from mm15.data import loader as loaders
from mm15.errors import UserError
from mm15.sample import Sample
from mm15.text.render import IGNORE, Encoded


@pytest.fixture(scope="module")
def whole() -> list[list[Any]]:
    """60 steps without workers: the stream everything else is compared with. Sources go through several epochs."""
    return steps(make(), 60)


# --------------------------------------------------------------------------------------------------------------- rows


def test_a_row_is_its_documents_one_after_the_other() -> None:
    """Against the documents one by one: ids, labels, restarting positions, tiles in order, spans moved along."""
    tiles = 0
    for step in islice(make(), 10):
        for batch in step:
            alone = [encode(Source(ref.source)[ref.index]) for ref in batch.refs]
            assert batch.input_ids.shape[0] == 1 and batch.input_ids.shape[1] <= 100 and len(batch.tiles) <= 8
            assert torch.equal(batch.input_ids[0], torch.from_numpy(np.concatenate([e.input_ids for e in alone])))
            assert torch.equal(batch.labels[0], torch.from_numpy(np.concatenate([e.labels for e in alone])))
            assert torch.equal(batch.tiles, torch.from_numpy(np.concatenate([e.tiles for e in alone])))
            assert batch.position_ids[0].tolist() == [i for e in alone for i in range(len(e))]
            ends = np.cumsum([len(e) for e in alone])
            assert batch.labels[0, ends - 1].eq(IGNORE).all()
            starts = ends - [len(e) for e in alone]
            assert batch.spans.tolist() == [int(s + a) for e, a in zip(alone, starts, strict=True) for s in e.spans]
            assert [t.dtype for t in (batch.input_ids, batch.labels, batch.position_ids, batch.spans)] == [
                torch.int64
            ] * 4
            assert batch.tiles.dtype == torch.uint8
            tiles += len(batch.tiles)
    assert tiles > 20


def test_every_draw_is_in_a_row_waiting_or_skipped() -> None:
    """Nothing is lost or doubled: rows, waiting and skipped together are the first draws of the mixture."""
    loader = make()
    refs = [ref for step in islice(loader, 40) for batch in step for ref in batch.refs]
    state, mixture = loader.state_dict(), loader._documents.mixture
    skipped = [mixture.draw(one.draw) for one in loader.skipped]
    waiting = [mixture.draw(draw) for draw in state["waiting"]]
    assert skipped and waiting
    assert Counter([*refs, *skipped, *waiting]) == Counter(mixture.draw(k) for k in range(state["next"]))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_do_not_change_the_stream(workers: int, whole: list[list[Any]]) -> None:
    """Bit for bit, skips and counters included."""
    loader, alone = make(workers), make()
    assert steps(loader, 60) == whole == steps(alone, 60)
    assert loader.skipped == alone.skipped and loader.realised == alone.realised
    assert loader.state_dict() == alone.state_dict()


def test_workers_do_not_touch_the_global_random_numbers() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    steps(make(1), 2)
    assert torch.equal(torch.rand(3), wanted)


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 2), (2, 0), (1, 4)])
def test_resume_continues_identically(before: int, after: int, whole: list[list[Any]]) -> None:
    """From after any step, into another number of workers; the state is plain JSON."""
    for stop in (0, 1, 7, 33) if before == after else (7, 33):
        first = make(before)
        assert steps(first, stop) == whole[:stop]
        second = make(after)
        second.load_state_dict(through_json(first.state_dict()))
        assert through_json(second.state_dict()) == through_json(first.state_dict())
        assert steps(second, 50 - stop) == whole[stop:50]


def test_resume_after_every_step(whole: list[list[Any]]) -> None:
    """Killed after each of 50 steps; the accounts at the end are those of the run that was not."""
    state = None
    for stop in range(50):
        loader = make()
        if state is not None:
            loader.load_state_dict(state)
        assert steps(loader, 1) == whole[stop : stop + 1]
        state = through_json(loader.state_dict())
    straight = make()
    steps(straight, 50)
    assert loader.realised == straight.realised and loader.skipped == straight.skipped


def test_the_state_while_iterating_is_that_of_the_step_just_given(whole: list[list[Any]]) -> None:
    """What workers have fetched ahead does not count."""
    for i, _ in enumerate(iterator := iter(loader := make(2))):
        if i == 20:
            state = through_json(loader.state_dict())
            iterator.close()
            break
    later = make()
    later.load_state_dict(state)
    assert steps(later, 10) == whole[21:31]


def test_the_same_loader_goes_on_when_iterated_again(whole: list[list[Any]]) -> None:
    loader = make(1)
    assert steps(loader, 5) + steps(loader, 5) == whole[:10]


def test_a_resumed_loader_that_has_not_begun_keeps_its_state() -> None:
    first = make()
    steps(first, 9)
    second, third = make(), make()
    second.load_state_dict(first.state_dict())
    third.load_state_dict(second.state_dict())
    assert steps(third, 3) == steps(first, 3)


def test_resume_refuses_what_is_not_the_same() -> None:
    state = make().state_dict()
    with pytest.raises(UserError, match=r"source 'text' is not what .* \(text:40:1 then, text:40:2 now\)"):
        make(text_fingerprint="2").load_state_dict(state)
    with pytest.raises(UserError, match="the mixture has changed"):
        make(long=0.3).load_state_dict(state)
    with pytest.raises(UserError, match="the mixture has changed"):
        make(seed=1).load_state_dict(state)
    with pytest.raises(UserError, match="the packing has changed"):
        make(tokens=99).load_state_dict(state)
    make(4, rows=6).load_state_dict(state)


def test_a_waiting_sample_that_has_gone_bad_stops_the_resume() -> None:
    first = make()
    steps(first, 5)
    second = make(encoder=_refuse, measurer=_refuse)
    second.load_state_dict(first.state_dict())
    with pytest.raises(UserError, match=r"was read before this state was saved and cannot be now: I refuse"):
        steps(second, 1)


def _refuse(sample: Sample) -> Encoded:
    raise UserError("I refuse")


# --------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_same_rows(world: int) -> None:
    """Rank r has rows r, r + R, ...; all ranks have the same state, and another number of ranks goes on from it."""
    whole = make(rows=6)
    wanted = steps(whole, 12)
    ranks = [make(rows=6, rank=rank, world_size=world) for rank in range(world)]
    found = [steps(rank, 8) for rank in ranks]
    for step in range(8):
        assert [found[row % world][step][row // world] for row in range(6)] == wanted[step]
    states = [rank.state_dict() for rank in ranks]
    assert all(state == states[0] for state in states)
    assert ranks[0].realised == ranks[-1].realised
    alone = make(1, rows=6)
    alone.load_state_dict(states[0])
    assert steps(alone, 4) == wanted[8:12]


def test_rows_do_not_depend_on_how_many_make_a_step() -> None:
    one = [row for step in steps(make(rows=1), 12) for row in step]
    four = [row for step in steps(make(rows=4), 3) for row in step]
    assert one == four


def test_rows_must_be_shared_evenly() -> None:
    with pytest.raises(UserError, match=r"batch\.rows=4 cannot be shared by 3 processes; make it a multiple of 3"):
        make(rows=4, world_size=3)


# ------------------------------------------------------------------------------------------------------------ accounts


def test_skips_are_counted_logged_and_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Broken rows, samples that cannot be encoded and samples larger than a row, each with its reason in one line."""
    caplog.set_level(logging.WARNING)
    loader = make()
    steps(loader, 60)
    by_id: dict[str, set[str]] = {}
    for one in loader.skipped:
        by_id.setdefault(f"{one.source}[{one.index}]", set()).add(f"{one.id}: {one.reason}")
    too_large = "101 tokens and 9 tiles are more than a row of 100 tokens and 8 tiles holds"
    assert by_id == {
        "text[5]": {"5: row 5 is broken"},
        "text[18]": {"18: row 18 is broken"},
        "text[31]": {"31: row 31 is broken"},
        "text[11]": {"text-11: cannot be encoded"},
        "long[3]": {f"long-3: {too_large}"},
        "long[17]": {f"long-17: {too_large}"},
    }
    assert {name: realised.skipped for name, realised in loader.realised.items()} == {
        "long": sum(one.source == "long" for one in loader.skipped),
        "pictures": 0,
        "text": sum(one.source == "text" for one in loader.skipped),
    }
    first = loader.skipped[0]
    assert caplog.messages[0] == f"skipped draw {first.draw}, long[{first.index}] (id '{first.id}'): {first.reason}"
    assert len(caplog.messages) == len(loader.skipped)


def test_the_ledger_is_bounded_and_the_count_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "_LEDGER", 3)
    loader = make()
    steps(loader, 60)
    assert len(loader.skipped) == 3 < sum(realised.skipped for realised in loader.realised.values())


def test_realised_counts_what_was_given() -> None:
    """Against the batches themselves."""
    loader, wanted = make(), {name: loaders.Realised() for name in LENGTHS}
    for step in islice(loader, 30):
        for batch in step:
            for ref in batch.refs:
                alone, one = encode(Source(ref.source)[ref.index]), wanted[ref.source]
                one.samples += 1
                one.tokens += len(alone)
                one.target_tokens += int((alone.labels != IGNORE).sum())
                one.tiles += len(alone.tiles)
    for name, one in loader.realised.items():
        wanted[name].skipped = one.skipped
    assert loader.realised == wanted and all(one.samples and one.target_tokens for one in wanted.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hopeless_source_stops_the_run(workers: int) -> None:
    with pytest.raises(UserError, match=r"source 'text': none of the first 64 samples can be used; .*: no text today"):
        steps(make(workers, encoder=_no_text), 1000)


def _no_text(sample: Sample) -> Encoded:
    if sample.source == "text":
        raise UserError("no text today")
    return encode(sample)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_the_code_is_not_skipped(workers: int) -> None:
    with pytest.raises(RuntimeError, match=r"sample 'pictures-\d+' \(pictures\[\d+\]\): KeyError: 'nothing'"):
        steps(make(workers, encoder=_mistaken), 10)


def _mistaken(sample: Sample) -> Encoded:
    return sample.meta["nothing"] if sample.source == "pictures" else encode(sample)
