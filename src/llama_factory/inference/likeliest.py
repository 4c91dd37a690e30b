"""Which token is the likeliest, where the number format is too coarse to tell.

Numbers near 35 are 0.25 apart in bfloat16: the first of several tokens with the same rounded value
would be taken for the likeliest one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CANDIDATES = 64
"""Tokens whose values are computed anew; more than these are never rounded to the same value."""


@contextmanager
def in_float32(network: Any) -> Iterator[None]:
    """Let a network compute the values of the likeliest next tokens in float32 for a while.

    Output heads that carry an adapter or packed weights of their own stay as they are.

    Args:
        network: a Transformers model, or one with an adapter.
    """
    head = network.get_output_embeddings()
    is_coarse = type(head) is nn.Linear and head.weight.dtype in (torch.bfloat16, torch.float16)
    if not is_coarse:
        yield
        return
    hook = head.register_forward_hook(_sharpened)
    try:
        yield
    finally:
        hook.remove()


def _sharpened(head: nn.Linear, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The output [batch, seq, vocab] in float32, with exact values of the likeliest tokens."""
    output = output.float()
    ids = output.topk(min(CANDIDATES, output.shape[-1]), dim=-1).indices
    hidden = given[0].float()  # [batch, seq, hidden]
    values = torch.einsum("bsch,bsh->bsc", head.weight[ids].float(), hidden)
    if head.bias is not None:
        values += head.bias[ids].float()
    return output.scatter(-1, ids, values)
