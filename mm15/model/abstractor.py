"""The C-Abstractor (Honeybee, arXiv 2312.06742): patch features of a tile -> a fixed, small number of tokens.

    [N, L, D] + positions -> map [N, D, S, S] -> s1 -> average pool to m x m -> s2 -> readout MLP -> [N, m*m, O]

s1 and s2 are stages of `depth` RegNet bottlenecks (arXiv 2003.13678) as timm's RegStage builds them with stride 1, SiLU
and LayerNorm2d: 1x1 convolution, depthwise 3x3, squeeze-and-excite at a quarter of the block's input width, 1x1
convolution, shortcut. The weights have RegStage's layout; a test holds the two equal to 1e-5.

Any square number of patches goes in; the learned positions are resized with the tile (`resize`). Cost at 1280 -> 1024,
48x48 patches: 27M parameters, 10 GMAC x 2 a tile. Legend: N tiles, L patches, D features, H hidden, S side of the map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

SE_RATIO = 0.25
NORM_EPS = 1e-5


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of [N, C, S, S]."""

    def forward(self, x_NCSS: Tensor) -> Tensor:
        x = F.layer_norm(x_NCSS.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """Convolution without bias, layer norm, and SiLU unless `act` is off; the map keeps its size."""

    def __init__(self, width_in: int, width: int, kernel: int = 1, *, groups: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = LayerNorm2d(width, eps=NORM_EPS)
        self.act = act

    def forward(self, x_NCSS: Tensor) -> Tensor:
        x = self.bn(self.conv(x_NCSS))
        return F.silu(x) if self.act else x


class SqueezeExcite(nn.Module):
    """Channel gates from the map's mean (arXiv 1709.01507)."""

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, width, 1)

    def forward(self, x_NCSS: Tensor) -> Tensor:
        gate = self.fc2(F.silu(self.fc1(x_NCSS.mean((2, 3), keepdim=True))))
        return x_NCSS * gate.sigmoid()


class Bottleneck(nn.Module):
    """One residual block: 1x1, depthwise 3x3, squeeze-and-excite, 1x1, plus the shortcut, then SiLU."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width_in, width)
        self.conv2 = ConvNorm(width, width, 3, groups=width)
        self.se = SqueezeExcite(width, max(round(width_in * SE_RATIO), 1))
        self.conv3 = ConvNorm(width, width, act=False)
        self.downsample = ConvNorm(width_in, width, act=False) if width_in != width else nn.Identity()

    def forward(self, x_NCSS: Tensor) -> Tensor:
        x = self.conv3(self.se(self.conv2(self.conv1(x_NCSS))))
        return F.silu(x + self.downsample(x_NCSS))


def stage(depth: int, width_in: int, width: int) -> nn.Sequential:
    """`depth` bottlenecks named b1, b2, .. as in timm's RegStage."""
    blocks = nn.Sequential()
    for i in range(depth):
        blocks.add_module(f"b{i + 1}", Bottleneck(width_in if i == 0 else width, width))
    return blocks


def readout(depth: int, width: int, out: int) -> nn.Sequential:
    """`depth` linear layers with SiLU between them."""
    layers: list[nn.Module] = [nn.Linear(width, out)]
    for _ in range(1, depth):
        layers += [nn.SiLU(), nn.Linear(out, out)]
    return nn.Sequential(*layers)


def resize_positions(table_LD: Tensor, grid: int) -> Tensor:
    """Position embeddings of a square map, [L, D] -> [grid*grid, D]: bicubic with antialias, in fp32.

    The choice of open_clip (`resize_pos_embed`). Class-token positions must be taken off before. Raises ValueError when
    L is not a square number.
    """
    side = math.isqrt(len(table_LD))
    if side * side != len(table_LD):
        raise ValueError(f"{len(table_LD)} positions are not a square map")
    if side == grid:
        return table_LD
    map_1DSS = table_LD.detach().float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    new = F.interpolate(map_1DSS, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return new.permute(0, 2, 3, 1).reshape(grid * grid, -1).to(table_LD.dtype)


class CAbstractor(nn.Module):
    """Patch features [N, L, `width_in`] -> visual tokens [N, `tokens`, `out`]; L is `grid` squared.

    Raises ValueError when `tokens` is not a square number or the features are not of the grid it was built for.
    """

    def __init__(
        self, width_in: int, hidden: int, out: int, *, grid: int, tokens: int = 144, depth: int = 3, mlp_depth: int = 2
    ) -> None:
        super().__init__()
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise ValueError(f"the C-Abstractor makes a square number of tokens, not {tokens}")
        self.side = side
        self.pos_emb = nn.Parameter(torch.zeros(1, grid * grid, width_in))
        self.s1 = stage(depth, width_in, hidden)
        self.s2 = stage(depth, hidden, hidden)
        self.readout = readout(mlp_depth, hidden, out)

    def forward(self, x_NLD: Tensor) -> Tensor:
        if x_NLD.shape[1] != self.pos_emb.shape[1]:
            raise ValueError(f"{x_NLD.shape[1]} patches a tile, the connector is for {self.pos_emb.shape[1]}")
        grid = math.isqrt(x_NLD.shape[1])
        x_NDSS = (x_NLD + self.pos_emb).transpose(1, 2).unflatten(2, (grid, grid))
        x_NHMM = self.s2(F.adaptive_avg_pool2d(self.s1(x_NDSS), self.side))
        return self.readout(x_NHMM.flatten(2).transpose(1, 2))

    def resize(self, grid: int) -> None:
        """Fit the learned positions to a map of grid x grid patches, once; a new parameter takes their place."""
        self.pos_emb = nn.Parameter(resize_positions(self.pos_emb[0], grid)[None], self.pos_emb.requires_grad)
