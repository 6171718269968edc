"""The C-Abstractor against timm's RegStage, and the interpolation of position embeddings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mm15.model.abstractor import CAbstractor, resize_positions

TIMM_REFERENCE = '''
"""Computes the reference with timm's RegStage."""
import sys
from functools import partial

import timm_stub
import torch

from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import nn

source, target = sys.argv[1:]
given = torch.load(source)
depth, width_in, hidden, out, grid, side = given["numbers"]
stage = partial(RegStage, depth=depth, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
parts = nn.ModuleDict({
    "s1": stage(in_chs=width_in, out_chs=hidden),
    "s2": stage(in_chs=hidden, out_chs=hidden),
    "readout": nn.Sequential(nn.Linear(hidden, out), nn.SiLU(), nn.Linear(out, out)),
})
state = dict(given["state"])
positions = state.pop("pos_emb")
print(parts.load_state_dict(state, strict=True))
x = given["x"] + positions
x = x.transpose(1, 2).reshape(len(x), width_in, grid, grid)
x = nn.functional.adaptive_avg_pool2d(parts["s1"](x), side)
x = parts["s2"](x).flatten(2).transpose(1, 2)
y = parts["readout"](x)
y.square().sum().backward()
torch.save({"y": y.detach(), "grads": {n: p.grad for n, p in parts.named_parameters()}}, target)
'''


@pytest.mark.parametrize(("width_in", "hidden", "grid", "tokens"), [(24, 32, 6, 9), (32, 32, 7, 16)])
def test_equals_timm_regstage(tmp_path: Path, width_in: int, hidden: int, grid: int, tokens: int) -> None:
    """Outputs and gradients equal a reference built from timm's own blocks with the same weights, to 1e-5."""
    torch.manual_seed(0)
    out, depth = 40, 3
    ours = CAbstractor(width_in, hidden, out, grid=grid, tokens=tokens, depth=depth)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, grid * grid, width_in)
    given = {"state": ours.state_dict(), "x": x, "numbers": (depth, width_in, hidden, out, grid, ours.side)}
    torch.save(given, tmp_path / "given.pt")
    done = subprocess.run(
        [sys.executable, "-c", TIMM_REFERENCE, str(tmp_path / "given.pt"), str(tmp_path / "reference.pt")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, f"the reference needs timm (pip install --no-deps timm):\n{done.stderr}"
    reference = torch.load(tmp_path / "reference.pt")

    y = ours(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, reference["y"], rtol=1e-5, atol=1e-5 * reference["y"].abs().max().item())
    for name, parameter in ours.named_parameters():
        if name != "pos_emb":
            wanted = reference["grads"][name]
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())
    assert ours.pos_emb.grad is not None


@pytest.mark.parametrize("grid", [4, 5, 12, 16])
def test_any_square_grid_gives_the_same_number_of_tokens(grid: int) -> None:
    """144 tokens in, 4 x 4 .. 16 x 16 patches in: the output's shape depends on `tokens` alone."""
    connector = CAbstractor(8, 8, 16, grid=grid, tokens=144, depth=1)
    assert connector(torch.randn(3, grid * grid, 8)).shape == (3, 144, 16)


def test_numbers_that_do_not_fit_are_named() -> None:
    """A token count without a root, and features of another grid, say both numbers."""
    with pytest.raises(ValueError, match="not 143"):
        CAbstractor(8, 8, 8, grid=4, tokens=143)
    with pytest.raises(ValueError, match=r"25 patches.*16"):
        CAbstractor(8, 8, 8, grid=4, tokens=4)(torch.randn(1, 25, 8))


def _bicubic(line: torch.Tensor, size: int) -> torch.Tensor:
    """Bicubic resize of [S, D] with antialias written out: Keys' kernel (a = -0.5), widened when shrinking."""
    old = len(line)
    scale = old / size
    support = max(scale, 1.0)
    rows = []
    for i in range(size):
        centre = (i + 0.5) * scale
        weights = torch.zeros(old)
        for j in range(old):
            t = abs((j + 0.5 - centre) / support)
            if t < 1:
                weights[j] = 1.5 * t**3 - 2.5 * t**2 + 1
            elif t < 2:
                weights[j] = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        rows.append((weights / weights.sum()) @ line)
    return torch.stack(rows)


@pytest.mark.parametrize(("old", "new"), [(27, 48), (8, 5), (6, 6)])
def test_positions_are_interpolated_bicubically_with_antialias(old: int, new: int) -> None:
    """Both up and down, against the kernel written out one axis after the other."""
    torch.manual_seed(0)
    table = torch.randn(old * old, 3)
    square = table.view(old, old, 3)
    rows = torch.stack([_bicubic(square[:, i], new) for i in range(old)], dim=1)
    wanted = torch.stack([_bicubic(rows[i], new) for i in range(new)])
    torch.testing.assert_close(resize_positions(table, new), wanted.reshape(new * new, 3), rtol=1e-4, atol=1e-4)


def test_half_precision_positions_are_interpolated_in_fp32() -> None:
    """bf16 weights come back in bf16, computed in fp32 and rounded once."""
    table = torch.randn(64, 4).bfloat16()
    wanted = resize_positions(table.float(), 11).bfloat16()
    assert resize_positions(table, 11).dtype == torch.bfloat16
    assert torch.equal(resize_positions(table, 11), wanted)


def test_resizing_the_connector_keeps_smooth_positions() -> None:
    """A smooth field stays that field on a finer grid, and the resized connector takes the new number of patches."""
    connector = CAbstractor(2, 8, 8, grid=8, tokens=4, depth=1)
    centres = (torch.arange(8) + 0.5) / 8
    field = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1)
    connector.pos_emb = torch.nn.Parameter(field.reshape(1, 64, 2))
    connector.resize(16)
    finer = (torch.arange(16) + 0.5) / 16
    wanted = torch.stack(torch.meshgrid(finer, finer, indexing="ij"), dim=-1)
    inner = connector.pos_emb.detach().view(16, 16, 2)[3:-3, 3:-3]
    torch.testing.assert_close(inner, wanted[3:-3, 3:-3], rtol=0, atol=1e-3)
    assert connector.pos_emb.requires_grad
    assert connector(torch.randn(1, 256, 2)).shape == (1, 4, 8)


def test_silu_between_readout_layers() -> None:
    """`mlp_depth` linear layers with SiLU between them; depth 1 is one linear layer."""
    torch.manual_seed(0)
    connector = CAbstractor(4, 4, 4, grid=2, tokens=4, depth=1, mlp_depth=3)
    first, _, second, _, third = connector.readout
    x = torch.randn(5, 4)
    torch.testing.assert_close(connector.readout(x), third(F.silu(second(F.silu(first(x))))))
    assert len(CAbstractor(4, 4, 4, grid=2, tokens=4, depth=1, mlp_depth=1).readout) == 1
