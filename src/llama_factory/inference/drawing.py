"""Draws token ids from scores: temperature, top-k, top-p, min-p. No requests and no state.

Of tokens with equal scores the one with the lower id counts as the likelier. What a row comes to
depends on its own scores and numbers alone, bit for bit, however many rows are drawn from at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

HIGHEST_TEMPERATURE = 1e30
"""Beyond it all that is allowed is equally likely in float32, and infinity would make NaN."""
WIDTHS = (128, 1024)
"""So many of the likeliest tokens are sorted first; more only where a row's share needs them."""
SPREAD = 16
"""Tokens in a group of which the highest is known first."""
BLOCK = 256
"""Tokens whose probabilities are added up before the draw looks inside."""


@dataclass(frozen=True)
class Shape:
    """How each row is drawn from; all [rows].

    Attributes:
        temperature: divides the scores; at most `HIGHEST_TEMPERATURE`.
        top_k: so many of the likeliest tokens; 0 for all.
        top_p: the likeliest tokens up to this share of what top-k leaves.
        min_p: tokens at least this fraction as likely as the likeliest.
        uniform: float64 in [0, 1): the place in the cumulative distribution.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor

    def at(self, rows: Tensor) -> "Shape":
        """That of some rows."""
        return Shape(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def draw(scores: Tensor, most: Tensor, shape: Shape) -> Tensor:
    """One token of each row.

    Args:
        scores: [rows, vocab] float32 logits without NaN; overwritten.
        most: [rows] the highest of each row, finite.
        shape: how; top-k, top-p and min-p one after the other.

    Returns:
        [rows] token ids.
    """
    scores -= most[:, None]
    scores /= shape.temperature[:, None]
    is_cut = (shape.top_k > 0) | (shape.top_p < 1)
    if bool(is_cut.all()):
        return _from_likeliest(scores, shape)
    if not bool(is_cut.any()):
        return _from_all(scores, shape)
    ids = torch.empty(len(scores), dtype=torch.long, device=scores.device)
    for rows, draw_from in ((is_cut.nonzero()[:, 0], _from_likeliest), (~is_cut, _from_all)):
        ids[rows] = draw_from(scores[rows], shape.at(rows))
    return ids


def _from_all(scores: Tensor, shape: Shape) -> Tensor:
    """One token of each row in the order of ids; no cut but min-p."""
    weights = scores.exp_()  # multiples of the likeliest token's probability
    if bool(shape.min_p.any()):
        weights *= weights >= shape.min_p[:, None]
    blocks = _blocks(weights)  # [rows, blocks, BLOCK]
    sums = blocks.sum(-1).double().cumsum(-1)
    target = shape.uniform[:, None] * sums[:, -1:]
    block = _first_above(sums, target)
    before = F.pad(sums, (1, 0)).gather(1, block)
    inside = (
        blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].double().cumsum(-1)
    )
    return (block * BLOCK + _first_above(inside, target - before))[:, 0]


def _from_likeliest(scores: Tensor, shape: Shape) -> Tensor:
    """One token of each row in the order of likelihood, after all cuts."""
    num_tokens = scores.shape[-1]
    total = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
    if not bool((shape.top_k > 0).all()):
        total = _blocks(scores.exp()).sum(-1).double().sum(-1)
    ids = torch.empty(len(scores), dtype=torch.long, device=scores.device)
    left = torch.arange(len(scores), device=scores.device)
    for width in (*(width for width in WIDTHS if width * SPREAD < num_tokens), num_tokens):
        likeliest, tokens = _sorted(scores if len(left) == len(scores) else scores[left], width)
        drawn, is_known = _from_sorted(likeliest, total[left], shape.at(left))
        is_known |= width == num_tokens
        ids[left[is_known]] = tokens.gather(1, drawn)[:, 0][is_known]
        left = left[~is_known]
        if not len(left):
            break
    return ids


def _sorted(scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The highest scores of each row and their ids, [rows, width]; of equals the lower id first."""
    if width == scores.shape[-1]:
        return scores.sort(dim=-1, descending=True, stable=True)
    ids = _highest(scores, width).sort(-1).values
    scores = scores.gather(1, ids)
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    return scores, ids.gather(1, order)


def _highest(scores: Tensor, width: int) -> Tensor:
    """Ids of the highest scores, [rows, width], in no order.

    Those that stand in the `width` groups with the highest maxima: no token outside of these has a
    score above the lowest of them, and the search within them is short.
    """
    num_groups = scores.shape[-1] // SPREAD
    grouped = scores[:, : num_groups * SPREAD].reshape(len(scores), SPREAD, num_groups)
    groups = grouped.amax(1).topk(width, dim=-1, sorted=False).indices  # [rows, width]
    steps = torch.arange(SPREAD, device=scores.device) * num_groups
    rest = torch.arange(num_groups * SPREAD, scores.shape[-1], device=scores.device)
    near = (groups[:, None, :] + steps[:, None]).flatten(1)  # [rows, SPREAD * width]
    near = torch.cat((near, rest.expand(len(scores), -1)), dim=1)
    best = scores.gather(1, near).topk(width, dim=-1, sorted=False).indices
    return near.gather(1, best)


def _from_sorted(scores: Tensor, total: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """The place of each row's token among the likeliest, and whether these were enough to know.

    Which of several tokens with the lowest score here would come first is not known, as others
    outside may have it too: only those before them are sure.

    Args:
        scores: [rows, width] logarithms of probabilities relative to the likeliest's, falling.
        total: [rows] the sum of all such probabilities; not needed with a top-k.
        shape: of the draws.
    """
    weights = scores.exp()
    sums = weights.double().cumsum(-1)
    num_sure = (scores > scores[:, -1:]).sum(-1)
    before = F.pad(sums, (1, 0))  # [rows, width + 1]: the sum of all tokens before each
    top_k = torch.where(shape.top_k > 0, shape.top_k, scores.shape[-1])
    is_capped = (shape.top_k > 0) & (shape.top_k <= num_sure)
    least = weights[:, -1]
    is_rest_out = (least == 0) | ((shape.top_k == 0) & (least < shape.min_p))
    mass = torch.where(shape.top_k > 0, before.gather(1, _last(top_k, sums))[:, 0], total)
    share = shape.top_p.double() * mass
    reaches = before.gather(1, num_sure[:, None])[:, 0] >= share
    is_known = is_capped | is_rest_out | ((shape.top_k == 0) & reaches)
    places = torch.arange(scores.shape[-1], device=scores.device)
    is_kept = (places < top_k[:, None]) & (before[:, :-1] < share[:, None])
    is_kept &= weights >= shape.min_p[:, None]
    sums = (weights * is_kept).double().cumsum(-1)
    return _first_above(sums, shape.uniform[:, None] * sums[:, -1:]), is_known


def _last(top_k: Tensor, sums: Tensor) -> Tensor:
    return top_k.clamp(max=sums.shape[-1])[:, None]


def _blocks(weights: Tensor) -> Tensor:
    """[rows, vocab] as [rows, blocks, BLOCK], so that sums are added up alike for any rows."""
    missing = -weights.shape[-1] % BLOCK
    padded = F.pad(weights, (0, missing)) if missing else weights
    return padded.view(len(weights), -1, BLOCK)


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """The first place [rows, 1] whose cumulative sum lies above the target [rows, 1].

    Rounding may put the target at the end: then it is the last place that adds anything.
    """
    above = torch.searchsorted(sums, target, right=True)
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())
    return torch.minimum(above, last)
