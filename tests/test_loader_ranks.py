"""Rows from measured sizes: each rank encodes its own documents only; what cannot be encoded leaves its row alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
from lives import Life
from sized_samples import (
    Size,
    Source,
    damaged,
    encode,
    exchanges,
    make,
    measure,
    plain,
    states,
    steps,
    through_json,
)

from mm15.data.loader import PackedLoader, make_batch
from mm15.data.packing import Skipped
from mm15.errors import UserError
from mm15.sample import Sample
from mm15.text.render import Encoded, Ref
from mm15.train import parallel


def ranks_of(world: int, workers: int = 0, **more: Any) -> list[PackedLoader]:
    """The loaders of all ranks; the first has the workers, and the list of skips if there is one."""
    on_skip = more.pop("on_skip", None)
    return [
        make(
            workers * (rank == 0),
            rows=8,
            rank=rank,
            world_size=world,
            gather=gather,
            on_skip=on_skip if rank == 0 else None,
            **more,
        )
        for rank, gather in enumerate(exchanges(world))
    ]


def refs_of(loader: PackedLoader, count: int) -> list[list[list[Ref]]]:
    return [[batch[0] for batch in step] for step in steps(loader, count)]


def is_damaged(ref: Ref) -> bool:
    return ref.source == "pictures" and ref.index % 5 == 2


# ---------------------------------------------------------------------------------------------------------- who encodes


def test_a_rank_encodes_only_what_is_in_its_rows() -> None:
    """Pictures are encoded once over all ranks, and measured by all; text is encoded by all."""
    encoded, measured = Counter[tuple[int, str]](), Counter[tuple[int, str]]()

    def of(rank: int) -> dict[str, Any]:
        def encoder(sample: Sample) -> Encoded:
            encoded[rank, sample.id] += 1
            return encode(sample)

        def measurer(sample: Sample) -> Size:
            measured[rank, sample.id] += 1
            return measure(sample)

        return {"encoder": encoder, "measurer": measurer, "rank": rank, "world_size": 4, "rows": 8}

    whole = refs_of(make(rows=8), 6)
    for rank in range(4):
        found = refs_of(make(**of(rank)), 6)
        own = Counter(f"pictures-{ref.index}" for ref in chain(*chain(*found)) if ref.source == "pictures")
        assert own == {name: n for (of_rank, name), n in encoded.items() if of_rank == rank and "pictures" in name}
        assert len(own) > 10 and {name for _, name in measured if "text" in name} == {"text-11"}
        everyone = Counter(f"pictures-{ref.index}" for ref in chain(*chain(*whole)) if ref.source == "pictures")
        assert not everyone - Counter({name: n for (of_rank, name), n in measured.items() if of_rank == rank})
    texts = [
        Counter({name: n for (rank, name), n in encoded.items() if rank == r and "text" in name}) for r in range(4)
    ]
    assert texts[0] == texts[3]


def test_one_process_alone_measures_only_what_it_cannot_encode() -> None:
    measured = []

    def measurer(sample: Sample) -> Size:
        measured.append(sample.id)
        return measure(sample)

    steps(make(encoder=damaged, measurer=measurer), 20)
    assert measured and {name for name in measured if name != "text-11"} <= {f"pictures-{i}" for i in range(2, 60, 5)}


def test_an_encoding_of_another_size_than_measured_is_an_error() -> None:
    def longer(sample: Sample) -> Size:
        return replace(measure(sample), tokens=measure(sample).tokens + 1)

    with pytest.raises(
        RuntimeError, match=r"sample 'pictures-\d+' .* measured as \d+ tokens and \d tiles, and encoded"
    ):
        steps(make(world_size=2, rows=2, measurer=longer), 5)


# ----------------------------------------------------------------------------------------------- what cannot be encoded


def test_a_document_that_cannot_be_encoded_leaves_its_row_and_nothing_else_changes() -> None:
    """Against the stream in which all can be: the same rows without these documents."""
    whole, found, lost = refs_of(make(rows=8), 20), [], 0
    for step in range(20):
        lost += sum(map(is_damaged, chain(*whole[step])))
        found.append([[ref for ref in row if not is_damaged(ref)] for row in whole[step]])
    loader = make(rows=8, encoder=damaged)
    stepped = steps(loader, 20)
    assert [[batch[0] for batch in step] for step in stepped] == found and lost > 20
    for step in stepped[:5]:
        for refs, ids, *_ in step:
            alone = [encode(Source(ref.source)[ref.index]).input_ids for ref in refs]
            assert ids[2] == np.concatenate(alone).tobytes()
    state = loader.state_dict()
    late = [one for one in state["skipped"] if one["reason"].endswith("is cut off")]
    assert len(late) == lost == state["realised"]["pictures"]["skipped"]
    assert state["realised"]["pictures"]["samples"] == sum(r.source == "pictures" for r in chain(*chain(*found)))
    tiles = sum(int(batch[4][1][0]) for step in stepped for batch in step)
    tokens = sum(int(batch[1][1][1]) for step in stepped for batch in step)
    assert tiles == sum(one["tiles"] for one in state["realised"].values())
    assert tokens == sum(one["tokens"] for one in state["realised"].values())
    targets = sum(
        int((torch.frombuffer(bytearray(b[3][2]), dtype=torch.int64) != -100).sum()) for s in stepped for b in s
    )
    assert targets == sum(one["target_tokens"] for one in state["realised"].values())


def test_ranks_and_workers_agree_on_what_cannot_be_encoded() -> None:
    """Each combination resumed from the state of another: rows, accounts and the list of skips are those of one."""
    alone_list: list[Skipped] = []
    alone = make(rows=8, encoder=damaged, on_skip=alone_list.append)
    found_list: list[Skipped] = []
    state, late = None, 0
    for world, workers in [(1, 0), (2, 1), (4, 2), (8, 0), (1, 3), (2, 3), (8, 1), (4, 0)]:
        ranks = ranks_of(world, workers, encoder=damaged, on_skip=found_list.append)
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(state)
        found = [steps(rank, 2) for rank in ranks]
        for step, wanted in enumerate(steps(alone, 2)):
            assert [found[row % world][step][row // world] for row in range(8)] == wanted, (world, workers)
        told = states(ranks)
        state = through_json(alone.state_dict())
        assert all(one == state for one in told)
        assert [asdict(rank.realised["pictures"]) for rank in ranks] == [state["realised"]["pictures"]] * world
        assert found_list == alone_list
        late += any(draw in state["waiting"] for draw in range(state["next"]) if is_damaged(_ref(alone, draw)))
    assert len(alone_list) > 20 and late, "some waited while the state was saved"


def test_processes_tell_each_other_what_they_could_not_encode(tmp_path: Path) -> None:
    """By torch.distributed, as a run does; state for state that of one process."""

    def work() -> None:
        world = parallel.start()
        loader = make(rows=8, rank=world.rank, world_size=world.size, gather=world.gather, encoder=damaged)
        for count in (2, 3):
            steps(loader, count)
            (tmp_path / f"{world.rank}.{count}").write_text(json.dumps(loader.state_dict()))
        parallel.stop()

    Life(work, tmp_path / "log", ranks=2).succeed()
    alone = make(rows=8, encoder=damaged)
    for count in (2, 3):
        steps(alone, count)
        wanted = through_json(alone.state_dict())
        assert [json.loads((tmp_path / f"{rank}.{count}").read_text()) for rank in range(2)] == [wanted] * 2
    assert any("cut off" in one["reason"] for one in wanted["skipped"])


def test_what_was_lost_before_another_state_was_loaded_does_not_count() -> None:
    loader = make(encoder=damaged)
    steps(loader, 5)
    state = through_json(loader.state_dict())
    steps(loader, 20)
    loader.load_state_dict(state)
    assert through_json(loader.state_dict()) == state


def _ref(loader: PackedLoader, draw: int) -> Ref:
    return loader._documents.mixture.draw(draw)


@pytest.mark.parametrize("world", [1, 2])
def test_a_row_of_which_nothing_is_left_is_padding(world: int) -> None:
    """It stands where the row was; its documents are skipped, and the rows around it are what they were."""
    whole = steps(make(rows=2), 6)
    gone = {(ref.source, ref.index) for ref in whole[3][1][0]}

    def encoder(sample: Sample) -> Encoded:
        if (sample.source, sample.meta["index"]) in gone:
            raise UserError("gone")
        return encode(sample)

    ranks = [make(rows=2, rank=rank, world_size=world, encoder=encoder) for rank in range(world)]
    found = [steps(rank, 4) for rank in ranks]
    assert found[1 % world][3][1 // world] == plain(make_batch([]))
    for step in range(4):
        for row in range(2):
            refs = [ref for ref in whole[step][row][0] if (ref.source, ref.index) not in gone]
            assert found[row % world][step][row // world][0] == refs


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_nothing_is_learnt_from_padding(family: str) -> None:
    """Neither by the decoder nor by its routers, though the model runs forward and backward."""
    model, row = tiny_model.make(decoder=family).train(), make_batch([])
    out = model(
        input_ids=row.input_ids,
        position_ids=row.position_ids,
        tile_spans=row.spans,
        shift_labels=row.labels,
        num_items_in_batch=1,
        num_tokens_in_batch=2,
        use_cache=False,
    )
    out.loss.backward()
    assert out.loss.item() == 0 and out.loss_count == 0
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and not any(grad.any() for grad in grads)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_of_which_nothing_can_be_encoded_stops_the_run(workers: int) -> None:
    with pytest.raises(UserError, match=r"source 'pictures': none of the first 64 samples can be used; .*: no pixels"):
        steps(make(workers, rows=2, world_size=2, encoder=_no_pixels), 1000)


def _no_pixels(sample: Sample) -> Encoded:
    if sample.source == "pictures":
        raise UserError("no pixels")
    return encode(sample)


def test_ranks_that_read_different_data_say_so() -> None:
    """As when a file can be read on one machine only: they would train on some samples twice, and on others never."""
    ranks = ranks_of(2)
    ranks[1]._documents.measure = _refuse
    for rank in ranks:
        steps(rank, 3)
    with pytest.raises(UserError, match=r"processes \d and \d have not read the same data: they are at draws \d+ and"):
        states(ranks)


def _refuse(sample: Sample) -> Size:
    if sample.meta["index"] < 30:
        raise UserError("not on this machine")
    return measure(sample)
