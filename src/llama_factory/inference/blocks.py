"""Decoder layers of the Llama kind in few operations, for inference only.

With few tokens a pass, a layer of Transformers spends as long on its many small operations as on
its products. Here a normalisation is one operation, queries and keys are rotated together, and the
products are called without what modules do around them. Results differ by rounding alone, and where
a network's layers are others they stay as they are: this is tried on random inputs.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_factory.inference.attention import packed_attention

KINDS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
"""Layers whose forward pass is: norm, attention, residual, norm, gated feed-forward, residual."""
TOLERANCE = 1e-4
"""Largest difference of a normalisation or activation on random inputs, in float32."""


def quicken(layers: Iterable[nn.Module]) -> int:
    """Give layers of the known kinds their forward pass in few operations; how many got it.

    Args:
        layers: modules of a network in eval mode that nobody else uses.
    """
    num_changed = 0
    for layer in layers:
        if type(layer).__name__ in KINDS and _is_plain(layer):
            layer.forward = _forward_of(layer)
            num_changed += 1
    return num_changed


def _is_plain(layer: Any) -> bool:
    """Whether the parts of a layer compute what is computed here in their place."""
    attention, mlp = layer.self_attn, layer.mlp
    if hasattr(attention, "q_norm"):
        return False
    weight = layer.input_layernorm.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, len(weight), generator=generator)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    with torch.inference_mode():
        pairs = [(norm(x), _norm_of(norm)(x)) for norm in norms] + [(mlp.act_fn(x), F.silu(x))]
    return all(bool((one - other).abs().max() < TOLERANCE) for one, other in pairs)


def _norm_of(norm: Any) -> Callable[[Tensor], Tensor]:
    weight, epsilon = norm.weight, norm.variance_epsilon
    shape = tuple(weight.shape)
    return lambda x: F.rms_norm(x, shape, weight, epsilon)


def _forward_of(layer: Any) -> Callable[..., Tensor]:
    attention, mlp = layer.self_attn, layer.mlp
    first, second = _norm_of(layer.input_layernorm), _norm_of(layer.post_attention_layernorm)
    query, key, value = (_call_of(getattr(attention, f"{n}_proj")) for n in "qkv")
    output = _call_of(attention.o_proj)
    gate, up, down = (_call_of(getattr(mlp, f"{n}_proj")) for n in ("gate", "up", "down"))
    width, scale = attention.head_dim, attention.scaling

    def forward(
        hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any
    ) -> Tensor:
        """hidden_states: [1, tokens, width of the model]."""
        num_tokens = hidden_states.shape[1]
        x = first(hidden_states)
        queries = query(x)
        num_heads = queries.shape[-1] // width
        both = torch.cat((queries, key(x)), -1).view(num_tokens, -1, width)
        both = _rotated(both, *position_embeddings).transpose(0, 1)[None]
        values = value(x).view(1, num_tokens, -1, width).transpose(1, 2)
        given, _weights = packed_attention(
            attention, both[:, :num_heads], both[:, num_heads:], values, None, scaling=scale
        )
        hidden = output(given.reshape(1, num_tokens, -1)).add_(hidden_states)
        x = second(hidden)
        return down(F.silu(gate(x), inplace=True).mul_(up(x))).add_(hidden)

    return forward


def _call_of(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The module's computation without its hooks, of which inference has none."""
    call: Callable[[Tensor], Tensor] = module.forward
    return call


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding of queries and keys.

    Args:
        x: [tokens, heads, width].
        cosine: [1, tokens, width], both halves of which are the same.
        sine: the same.
    """
    half = x.shape[-1] // 2
    c, s = cosine[0, :, None, :half], sine[0, :, None, :half]
    one, other = x[..., :half], x[..., half:]
    return torch.cat(((one * c).addcmul_(other, s, value=-1), (other * c).addcmul_(one, s)), -1)
