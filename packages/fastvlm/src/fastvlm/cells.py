"""Words in cells: what image tokens would tell a language model, did the encoder see every word.

A page is cut into cells, one to a token; a token is the sum of its words' embeddings, each sent through the linear map
of the place (4 x 4 to a cell) where the word stands. Language models small enough for a CPU do not learn within minutes
to look into tokens that hold several words; they learn it before they see any page, from words in cells, in every
layout that an arm has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

PLACES = 4  # a side, in a cell


@dataclass(frozen=True)
class Layout:
    """How the image tokens of a page lie on it.

    Args:
        side: Cells a side of each view.
        tiles: Tiles a side; above 1 an overview goes before them.
        keep: Tokens that are left, those with words first; 0 for all.
    """

    side: int
    tiles: int = 1
    keep: int = 0


def locate(centres: Float[Tensor, "*words 2"], side: int) -> tuple[Tensor, Tensor]:
    """Return the cell (row by row) of each word [*words], and the weights of the places in it [*words, 16]."""
    middles = centres * side
    cells = middles.floor().clamp(0, side - 1)
    return (cells[..., 1] * side + cells[..., 0]).long(), _nearness(middles - cells)


def _nearness(offsets: Tensor) -> Tensor:
    """Weights of the places of a cell [..., 16] at an (x, y) offset in [0, 1]: the nearest ones count, in all 1."""
    middles = (torch.arange(PLACES, device=offsets.device) + 0.5) / PLACES
    squares = (offsets[..., None] - middles) ** 2
    distance = squares[..., 1, :, None] + squares[..., 0, None, :]
    return (-distance.flatten(-2) * PLACES**2 / 0.5).softmax(-1)


class WordCells(nn.Module):
    """Tokens of words in cells.

    Args:
        dim: Of embeddings and tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.places = nn.Linear(dim, PLACES**2 * dim, bias=False)

    def forward(
        self,
        table: Float[Tensor, "vocab dim"],
        words: Int[Tensor, "batch words"],
        centres: Float[Tensor, "batch words 2"],
        layout: Layout,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens of pages.

        Args:
            table: Embeddings of words.
            words: Word ids, below 0 where there is none.
            centres: Their middles, in [0, 1] of the page.
            layout: Where tokens lie; of equals, those that stay are drawn from torch's generator.
        """
        placed = self.places(table).unflatten(1, (PLACES**2, -1))
        views = [self._view(placed, words, centres, layout.side)]
        if layout.tiles > 1:
            views += [
                self._view(placed, *_tile(words, centres, layout.tiles, row, column), layout.side)
                for row in range(layout.tiles)
                for column in range(layout.tiles)
            ]
        tokens = torch.cat(views, 1)
        return _keep(tokens, words, centres, layout) if layout.keep else tokens

    def _view(self, placed: Tensor, words: Tensor, centres: Tensor, side: int) -> Tensor:
        row, column = (words >= 0).nonzero(as_tuple=True)
        cells, weights = locate(centres[row, column], side)
        parts = torch.einsum("wp,wpd->wd", weights, placed[words[row, column]])
        tokens = parts.new_zeros(len(words) * side**2, parts.shape[1])
        return tokens.index_add(0, row * side**2 + cells, parts).unflatten(0, (len(words), -1))


def _tile(words: Tensor, centres: Tensor, count: int, row: int, column: int) -> tuple[Tensor, Tensor]:
    """Return the words of a tile, and their middles in it."""
    middles = centres * count - torch.tensor([column, row])
    inside = ((middles >= 0) & (middles < 1)).all(-1)
    return torch.where(inside, words, -1), middles


def _keep(tokens: Tensor, words: Tensor, centres: Tensor, layout: Layout) -> Tensor:
    score = torch.rand(tokens.shape[:2])
    cells, _ = locate(centres, layout.side)
    score.scatter_add_(1, cells, 2.0 * (words >= 0))
    chosen = score.topk(layout.keep, dim=1).indices.sort(dim=1).values
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
