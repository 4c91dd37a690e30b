"""Decoder layers of the Llama kind in few operations, for inference only.

With few tokens a pass, a layer of Transformers spends as long on its many small operations as on
its products. Here a normalisation is one operation, queries and keys are rotated together, and the
products are called without what modules do around them. Results differ by rounding alone, and where
a network's layers are others they stay as they are: this is tried on random inputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_factory.inference.attention import packed_attention
from llama_factory.inference.linear import can_pack
from llama_factory.model.layers import LINEAR, repeated_blocks
from llama_factory.model.quick.elementwise import inverse_size, normalised

KINDS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
"""Layers whose forward pass is: norm, attention, residual, norm, gated feed-forward, residual."""
JOINED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
)
"""Linear layers that read the same input: one larger product takes less time than several."""
TOLERANCE = 1e-4
"""Largest difference of a normalisation or activation on random inputs, in float32."""
Call = Callable[[Tensor], Tensor]


def widen(network: Any) -> bool:
    """Let a network in bfloat16 keep everything but its products in float32, where that is faster.

    So it is on CPUs with fast bfloat16: what lies between products is computed in float32 in any
    case, and rounding it each time is work. Answers are nearer to those of float32 weights too.

    Args:
        network: its norms are changed, and what its embeddings give.

    Returns:
        whether it does so from now on: its layers are known here, and on such a CPU.
    """
    if network.device.type != "cpu" or not can_pack(torch.bfloat16):
        return False
    if any(weight.dtype != torch.bfloat16 for weight in network.parameters()):
        return False
    if any(type(block).__name__ not in KINDS for block in repeated_blocks(network)[1]):
        return False
    embeddings = network.get_input_embeddings()
    for module in network.modules():
        if type(module) not in LINEAR and module is not embeddings:
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.float()
    embeddings.register_forward_hook(lambda _module, _given, states: states.float())
    return True


def plain_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The decoder layers of a network whose forward pass is known here, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if type(module).__name__ in KINDS and _is_plain(module)
    }


def quicken(block: nn.Module, inputs: Call, gates: Call) -> None:
    """Give one of `plain_blocks` its forward pass in few operations.

    Args:
        block: in eval mode; nobody else uses it.
        inputs: [1, tokens, width] -> queries, keys and values one behind the other.
        gates: [1, tokens, width] -> the gate and what it lets through, one behind the other.
    """
    block.forward = _forward_of(block, inputs, gates)


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


def _norm_of(norm: Any) -> Call:
    weight, epsilon = norm.weight, norm.variance_epsilon
    return lambda x: normalised(x, inverse_size(x, epsilon), weight)


def _forward_of(layer: Any, inputs: Call, gates: Call) -> Callable[..., Tensor]:
    attention, mlp = layer.self_attn, layer.mlp
    first, second = _norm_of(layer.input_layernorm), _norm_of(layer.post_attention_layernorm)
    output, down = _call_of(attention.o_proj), _call_of(mlp.down_proj)
    width, scale = attention.head_dim, attention.scaling
    groups = attention.num_key_value_groups

    def forward(
        hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any
    ) -> Tensor:
        """hidden_states: [1, tokens, width of the model]."""
        num_tokens = hidden_states.shape[1]
        heads = inputs(first(hidden_states)).view(num_tokens, -1, width)
        num_values = heads.shape[1] // (groups + 2)
        num_queries = num_values * groups
        rotated = _rotated(heads[:, :-num_values], *position_embeddings).transpose(0, 1)[None]
        values = heads[:, -num_values:].transpose(0, 1)[None]
        given, _weights = packed_attention(
            attention,
            rotated[:, :num_queries],
            rotated[:, num_queries:],
            values,
            None,
            scaling=scale,
        )
        hidden = output(given.reshape(1, num_tokens, -1)).add_(hidden_states)
        gate, passing = gates(second(hidden)).chunk(2, -1)
        return down(F.silu(gate).mul_(passing)).add_(hidden)

    return forward


def _call_of(module: nn.Module) -> Call:
    """The module's computation without its hooks, of which inference has none."""
    call: Call = module.forward
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
