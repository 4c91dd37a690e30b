"""A decoder layer of the Llama kind as one function of autograd.

Norm, attention, residual, norm, gated feed-forward, residual: what torch records for that is some
hundred small operations a layer, each with a node of its own. Here a layer is one node, whose
forward and backward passes are written by hand and keep only what is dear to compute again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llama_factory.model.quick import elementwise
from llama_factory.model.quick.attention import Heads, attend, attend_back
from llama_factory.model.quick.layout import Stretch
from llama_factory.model.quick.linear import Gradients, Products, is_readable, size_of

PARTS = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class PassContext:
    """What all layers of a pass have in common.

    Attributes:
        stretches: rows, end to end.
        cosine: [tokens, 1, head width / 2] of the positions.
        sine: the same.
    """

    stretches: tuple[Stretch, ...]
    cosine: Tensor
    sine: Tensor

    @classmethod
    def of(
        cls, rotary: Any, hidden: Tensor, positions: Tensor, stretches: tuple[Stretch, ...]
    ) -> "PassContext":
        """Out of a network's rotary embedding.

        Args:
            rotary: the module, whose tables have two equal halves.
            hidden: [tokens, width] states, for their format.
            positions: [tokens] the place of each token in its row.
            stretches: cover the tokens.
        """
        cosine, sine = rotary(hidden[None], positions[None])
        half = cosine.shape[-1] // 2
        return cls(stretches, cosine[0, :, None, :half], sine[0, :, None, :half])


@dataclass(frozen=True)
class Norm:
    """A normalisation: its weight [width] and what keeps it finite."""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True)
class DecoderBlock:
    """A decoder layer as it is at the moment."""

    heads: Heads
    first: Norm
    second: Norm
    attention: Products
    output: Products
    gates: Products
    down: Products

    def trained(self) -> list[Tensor]:
        """The weights that get a gradient."""
        products = (self.attention, self.output, self.gates, self.down)
        every = [self.first.weight, self.second.weight]
        every += [weight for some in products for weight in some.weights()]
        return [weight for weight in every if weight.requires_grad]


def is_known(layer: Any) -> bool:
    """Whether a layer has the parts of this kind and no others; what it computes is to be tried."""
    if tuple(sorted(name for name, _ in layer.named_children())) != tuple(sorted(PARTS)):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    own = {name for name, _ in attention.named_children()}
    inner = {name for name, _ in mlp.named_children()}
    return (
        own == set(ATTENTION)
        and inner - {"act_fn"} == set(FEED_FORWARD)
        and isinstance(getattr(attention, "scaling", None), float)
        and all(hasattr(getattr(layer, name), "variance_epsilon") for name in PARTS[2:])
        and all(is_readable(each) for each in linear_modules(layer))
    )


def linear_modules(layer: Any) -> Iterator[nn.Module]:
    """The linear layers of a layer of this kind."""
    for name in ATTENTION:
        yield getattr(layer.self_attn, name)
    for name in FEED_FORWARD:
        yield getattr(layer.mlp, name)


def block_of(layer: Any, *, is_bare: bool = False) -> DecoderBlock:
    """What a layer computes at the moment, with the adapters that are switched on.

    Args:
        layer: of this kind.
        is_bare: leave its adapters out.
    """
    query, key, value, output, gate, up, down = linear_modules(layer)
    attention = layer.self_attn
    projected = Products.of(query, key, value, is_bare=is_bare)
    num_queries, num_keys = (len(part.weight) for part in projected.parts[:2])
    width = attention.head_dim
    return DecoderBlock(
        Heads(num_queries // width, num_keys // width, width, attention.scaling),
        _norm_of(layer.input_layernorm),
        _norm_of(layer.post_attention_layernorm),
        projected,
        Products.of(output, is_bare=is_bare),
        Products.of(gate, up, is_bare=is_bare),
        Products.of(down, is_bare=is_bare),
    )


def _norm_of(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)


def kept_bytes(layer: Any) -> int:
    """Bytes of a token that `run` keeps for the backward pass of a layer of this kind."""
    query, key, value, output, gate, up, down = map(size_of, linear_modules(layer))
    # what goes in, its middle, queries with keys and values, what attention took, gate and up
    width = 2 * output.num_outputs + query.num_outputs + key.num_outputs + value.num_outputs
    width += output.num_inputs + gate.num_outputs + up.num_outputs
    width += sum(each.rank for each in (query, key, value, output, gate, up, down))
    return width * output.num_bytes + 2 * 4  # the sizes of both norms are in float32


def run(hidden: Tensor, block: DecoderBlock, reading: PassContext) -> Tensor:
    """[tokens, width] -> [tokens, width] through a layer."""
    out: Tensor = _Layer.apply(hidden, block, reading, *block.trained())  # type: ignore[no-untyped-call]
    return out


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, block: DecoderBlock, reading: PassContext, *_: Tensor
    ) -> Tensor:
        heads = block.heads
        inverse = elementwise.inverse_size(hidden, block.first.epsilon)
        x = elementwise.normalised(hidden, inverse, block.first.weight)
        joined = x.new_empty(len(x), sum(heads.sizes))
        low_in = block.attention.forward(x, torch.split(joined, heads.sizes, 1))[1]
        _rotate(joined, heads, reading.cosine, reading.sine)
        taken = attend(joined, reading.stretches, heads)
        (middle,), low_out = block.output.forward(taken, [None], residual=hidden)
        inverse_middle = elementwise.inverse_size(middle, block.second.epsilon)
        x = elementwise.normalised(middle, inverse_middle, block.second.weight)
        (gate, up), low_gates = block.gates.forward(x, [None, None])
        product = elementwise.gated(gate, up)
        (out,), low_down = block.down.forward(product, [None], residual=middle)
        ctx.block, ctx.reading = block, reading
        ctx.save_for_backward(
            *(hidden, inverse, joined, taken, middle, inverse_middle, gate, up),
            *(low_in, low_out, low_gates, low_down),
        )
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found: Gradients = {}
        kept = ctx.saved_tensors  # once: what is computed again is there only once
        middle_grad = _feed_forward_back(ctx.block, kept, grad, found)
        hidden_grad = _attention_back(ctx, kept, middle_grad, found)
        weights = [found.get(id(weight)) for weight in ctx.block.trained()]
        return hidden_grad, None, None, *weights


def _feed_forward_back(
    block: DecoderBlock, kept: tuple[Tensor, ...], grad: Tensor, found: Gradients
) -> Tensor:
    """The gradient of what the feed-forward part reads, with that of the stream beside it."""
    middle, inverse, gate, up = kept[4:8]
    low_gates, low_down = kept[10:12]
    silu = torch.nn.functional.silu(gate)
    pulled = block.down.backward(silu * up, low_down, [grad], found, needs_input=True)
    assert pulled is not None
    pulls = elementwise.gated_back(pulled, gate, up, silu)
    x = elementwise.normalised(middle, inverse, block.second.weight)
    pulled = block.gates.backward(x, low_gates, pulls, found, needs_input=True)
    return _norm_back(block.second, pulled, (middle, inverse), grad, found)


def _attention_back(
    ctx: Any, kept: tuple[Tensor, ...], grad: Tensor, found: Gradients
) -> Tensor | None:
    """The gradient of what the layer reads, where it is wanted."""
    hidden, inverse, joined, taken = kept[:4]
    low_in, low_out = kept[8:10]
    block: DecoderBlock = ctx.block
    reading: PassContext = ctx.reading
    pulled = block.output.backward(taken, low_out, [grad], found, needs_input=True)
    assert pulled is not None
    pulls = attend_back(joined, pulled, reading.stretches, block.heads)
    _rotate(pulls, block.heads, reading.cosine, -reading.sine)
    x = elementwise.normalised(hidden, inverse, block.first.weight)
    wanted = ctx.needs_input_grad[0] or block.first.weight.requires_grad
    parts = torch.split(pulls, block.heads.sizes, 1)
    pulled = block.attention.backward(x, low_in, parts, found, needs_input=wanted)
    return _norm_back(block.first, pulled, (hidden, inverse), grad, found) if wanted else None


def _norm_back(
    norm: Norm,
    grad: Tensor | None,
    kept: tuple[Tensor, Tensor],
    residual: Tensor,
    found: Gradients,
) -> Tensor:
    assert grad is not None
    if norm.weight.requires_grad:
        found[id(norm.weight)] = elementwise.norm_weight_back(grad, *kept)
    return elementwise.normalised_back(grad, *kept, norm.weight, residual)


def _rotate(joined: Tensor, heads: Heads, cosine: Tensor, sine: Tensor) -> None:
    """Give queries and keys their positions, in place."""
    both = joined[:, : sum(heads.sizes[:2])]
    elementwise.rotate_(both.view(len(both), -1, heads.width), cosine, sine)
