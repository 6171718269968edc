"""What the loader promises at length: the same stream however it is made, far out, with limits, with nothing kept."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sized_samples import LENGTHS, Source, damaged, encode, make, steps, through_json

from mm15 import recipe as recipes
from mm15.data import loader as loaders
from mm15.data import open as opening
from mm15.data.loader import PackedLoader, Realised
from mm15.data.mixture import Mixture
from mm15.data.packing import Skipped
from mm15.data.skips import SkipLedger
from mm15.errors import UserError
from mm15.recipe import Category, Group
from mm15.sample import Sample
from mm15.text.render import IGNORE, Encoded, Ref
from mm15.train import run as runs
from mm15.train import stage as stages
from mm15.train.parallel import World

HERE = Path(__file__).parent
MEANS = {"pictures": Fraction(7, 2), "text": Fraction(3), "long": Fraction(40, 3)}
DEEP: dict[str, dict[str, Any]] = {
    "plain": {},
    "limited": {"epochs": {"text": 1.5, "long": 2}},
    "tokens": {"means": MEANS},
    "both": {"epochs": {"text": 2, "pictures": 1}, "means": MEANS},
}


# -------------------------------------------------------------------------------------------------------- one stream


@pytest.mark.parametrize("kind", DEEP)
def test_ranks_and_workers_give_one_stream(kind: str) -> None:
    """1, 2, 4 and 8 ranks with 0 to 4 workers, each resumed from the state of another: the rows of one loader."""
    whole = steps(make(rows=8, **DEEP[kind]), 12)
    state = None
    for stop, (world, workers) in enumerate([(1, 0), (2, 1), (4, 2), (8, 0), (1, 4), (2, 3), (8, 1), (4, 0)]):
        ranks = [make(workers * (r == 0), rows=8, rank=r, world_size=world, **DEEP[kind]) for r in range(world)]
        for rank in ranks:
            if state is not None:
                rank.load_state_dict(through_json(state))
        found = [steps(rank, 1)[0] for rank in ranks]
        assert [found[row % world][row // world] for row in range(8)] == whole[stop], (world, workers)
        state = ranks[0].state_dict()
        assert all(rank.state_dict() == state for rank in ranks)


@pytest.mark.parametrize("kind", DEEP)
def test_draw_a_thousand_million_is_resumed_at_once(kind: str) -> None:
    """The next draws are those of the mixture there, read and packed; nothing before is read."""
    loader = make(rows=1, **DEEP[kind])
    state = {**loader.state_dict(), "next": 10**9}
    loader.load_state_dict(through_json(state))
    given = [ref for step in islice(loader, 6) for batch in step for ref in batch.refs]
    mixture = make(**DEEP[kind])._documents.mixture
    after = loader.state_dict()
    places = Counter([*given, *(mixture.draw(k) for k in after["waiting"]), *map(_ref, loader.skipped)])
    assert places == Counter(mixture.draw(k) for k in range(10**9, after["next"])) and len(given) > 6


def _ref(skipped: Skipped) -> Ref:
    return Ref(skipped.source, skipped.index, skipped.epoch)


# ---------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("workers", [0, 2])
def test_limited_data_is_used_to_the_last_sample(workers: int) -> None:
    """All samples of all passes, then one clear line; the same when resumed shortly before the end."""
    epochs = {"pictures": 1, "text": 2, "long": 1}
    loader, given = make(workers, rows=1, epochs=epochs), list[Ref]()
    states = []
    with pytest.raises(UserError, match=r"the data ends at draw 165, where every source has had its epochs \(0 of 1"):
        for step in loader:
            given += step[0].refs
            states.append(through_json(loader.state_dict()))
    assert Counter([*given, *map(_ref, loader.skipped)]) == Counter(
        Ref(name, i, epoch) for name, times in epochs.items() for epoch in range(times) for i in range(LENGTHS[name])
    )
    for state in (states[-2], states[-8]):
        again = make(0, rows=1, epochs=epochs)
        again.load_state_dict(state)
        rest = list[Ref]()
        with pytest.raises(UserError, match="ends at draw 165"):
            for step in again:
                rest += step[0].refs
        assert rest == given[-len(rest) :] and rest


def test_a_run_that_its_data_cannot_serve_does_not_start(tmp_path: Path) -> None:
    epochs = [f"stages.continual.epochs.{name}=1" for name in ("read_digit", "read_word", "screen_read", "ocr_page")]
    short = [f"sources.{name}.samples=2" for name in ("read_digit", "read_word", "screen_read", "ocr_page")]
    settings = recipes.load(HERE / "tiny.yaml", [*epochs, *short])
    with pytest.raises(UserError, match=r"stage 'continual' needs 12 rows .* allow 8 samples; raise stages\.contin"):
        runs.run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------------- accounts


@pytest.mark.parametrize("kind", DEEP)
def test_realised_counts_by_brute_force(kind: str) -> None:
    """Every draw read and encoded alone: what is in no row yet and what is skipped apart, the sums are the loader's."""
    loader = make(rows=2, **DEEP[kind])
    for _ in islice(loader, 25):
        pass
    state, mixture = loader.state_dict(), loader._documents.mixture
    wanted = {name: Realised() for name in LENGTHS}
    for k in sorted(set(range(state["next"])) - set(state["waiting"])):
        ref = mixture.draw(k)
        one = wanted[ref.source]
        try:
            alone = encode(Source(ref.source)[ref.index])
        except ValueError:
            one.skipped += 1
            continue
        if len(alone) > 100 or len(alone.tiles) > 8:
            one.skipped += 1
            continue
        one.samples += 1
        one.tokens += len(alone.input_ids)
        one.target_tokens += sum(label != IGNORE for label in alone.labels.tolist())
        one.tiles += alone.tiles.shape[0]
    assert loader.realised == wanted and wanted["text"].skipped and wanted["pictures"].tiles > 50


@pytest.mark.parametrize("encoder", [encode, damaged])
def test_every_skip_is_in_the_ledger(encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what is kept in memory; and killed and resumed twice, the file is that of a run that was not."""
    monkeypatch.setattr(loaders, "_LEDGER", 3)
    whole = SkipLedger(tmp_path / "whole.jsonl")
    straight = make(on_skip=whole.add, encoder=encoder)
    for count in (20, 25, 15):
        steps(straight, count)
        straight.state_dict()
    whole.close()
    lines = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert len(lines) == sum(one.skipped for one in straight.realised.values()) > 10
    assert lines[:3] == [asdict(one) for one in straight.skipped]
    draws = [line["draw"] for line in lines if line["source"] != "pictures"]
    assert draws == sorted(set(draws)) and (len(draws) == len(lines)) == (encoder is encode)
    path, state = tmp_path / "stage" / "skipped.jsonl", None
    for stop, beyond in ((20, 15), (25, 4), (15, 0)):
        ledger = SkipLedger(path)
        ledger.rewind(*((state["next"], state["waiting"]) if state else (0,)))
        loader = make(on_skip=ledger.add, encoder=encoder)
        if state:
            loader.load_state_dict(state)
        steps(loader, stop)
        state = through_json(loader.state_dict())
        ledger.save()
        steps(loader, beyond)
        loader.state_dict()  # lines after the checkpoint, then a crash in the middle of one
        ledger.close()
        with open(path, "a", encoding="utf-8") as file:
            file.write('{"draw": ' if beyond else "")
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_the_ledger_is_rewound_to_a_draw(tmp_path: Path) -> None:
    """Lines of earlier draws stay, byte for byte; a line that was cut off goes, and one of a draw that waited then."""
    ledger = SkipLedger(tmp_path / "skipped.jsonl")
    for draw in (3, 5, 9):
        ledger.add(Skipped(draw, "s", draw, 0, "é", "why"))
    ledger.close()
    lines = (tmp_path / "skipped.jsonl").read_bytes().splitlines(keepends=True)
    for draw, kept, waiting in ((10, 3, []), (9, 2, []), (6, 2, [4]), (5, 1, []), (3, 0, []), (10, 1, [4, 5])):
        (tmp_path / "skipped.jsonl").write_bytes(b"".join(lines) + lines[0][:7])
        ledger = SkipLedger(tmp_path / "skipped.jsonl")
        ledger.rewind(draw, waiting)
        ledger.add(Skipped(20, "s", 1, 0, "id", "why"))
        ledger.close()
        found = (tmp_path / "skipped.jsonl").read_bytes().splitlines(keepends=True)
        assert found[:-1] == lines[:kept] and json.loads(found[-1])["draw"] == 20


def test_a_run_lists_all_it_skips_and_keeps_what_it_measured(tmp_path: Path) -> None:
    """Rows too small for most pages; mixed by target tokens, measured once."""
    change = ["stages.pretrain.batch.tokens=60", "stages.pretrain.unit=target_tokens", "stages.pretrain.steps=4"]
    settings = recipes.load(HERE / "tiny.yaml", change)
    runs.run(settings, tmp_path / "run", only="pretrain")
    folder = tmp_path / "run" / "stages" / "pretrain"
    counted = json.loads((folder / "mixture.json").read_text())
    lines = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert len(lines) == sum(one["skipped"] for one in counted["realised"].values()) > 0
    assert all("more than a row of 60 tokens" in line["reason"] for line in lines)
    kept = {name: Fraction(mean) for name, mean in json.loads((folder / "target_tokens.json").read_text()).items()}
    opened = opening.open_recipe(settings)
    assert kept == opened.means_of("pretrain") and counted["asked"] == opened.mixture_of("pretrain").shares
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "mean_targets", _refuse)
        run = stages.Run(settings, tmp_path / "run", opened.sources, World())
        again = stages.means(run, "pretrain", opened.processor_of("pretrain"))
    assert again == kept


def _refuse(*_: Any) -> dict[str, Fraction]:
    raise AssertionError("measured again")


# --------------------------------------------------------------------------------------------------------------- memory


class Short:
    """Texts of a few tokens, every hundredth of them broken."""

    name, fingerprint = "short", "short"

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> Sample:
        if index % 100 == 7:
            raise UserError("broken")
        return Sample(str(index), "short", (), {"tokens": 5 + index % 30})


def _encode_short(sample: Sample) -> Encoded:
    ids = np.full(sample.meta["tokens"], int(sample.id))
    return Encoded(ids, ids, np.zeros((0, 3, 1, 1), np.uint8), np.zeros(0, np.int64))


def _unmeasured(sample: Sample) -> Any:
    raise AssertionError("one process alone measures only what it cannot encode")


def _memory(loader: Iterator[Any], samples: int) -> int:
    """Bytes that Python holds after so many more samples."""
    while samples > 0:
        samples -= sum(len(batch.refs) for batch in next(loader))
    return tracemalloc.get_traced_memory()[0]


def test_nothing_is_kept_of_a_sample_that_has_been_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two thirds of 20,000 samples later memory is the same to a few bytes a sample; the list of skips is full then."""
    monkeypatch.setattr(loaders, "_LEDGER", 20)
    mixture = Mixture({"g": Group(categories={"c": Category(sources={"short": 1})})}, {"short": 10**6})
    ledger = SkipLedger(tmp_path / "skipped.jsonl")
    sizes = {"tokens": 128, "tiles": 0, "lookahead": 8, "rows": 1, "workers": 0}
    loader = PackedLoader(mixture, {"short": Short()}, _encode_short, _unmeasured, on_skip=ledger.add, **sizes)
    stream = iter(loader)
    tracemalloc.start()
    try:
        before = _memory(stream, 7_000)
        after = _memory(stream, 13_000)
    finally:
        tracemalloc.stop()
    ledger.close()
    assert after - before < 13_000 * 3, (after - before) / 13_000
    assert loader.realised["short"].skipped > 150 and len(loader.skipped) == 20
