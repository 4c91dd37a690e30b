"""Random models of a known shape through the engine's own step: speed, memory, FLOP utilisation."""

import gc
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llama_factory.core.errors import FactoryError
from llama_factory.model.acceleration import (
    attention_implementation,
    compile_layers,
    recompute,
    require_liger,
    use_liger,
)
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.adapters.lora import Lora
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.dtypes import Precision, settle
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.training.fabrics import alone
from llama_factory.training.loss_scale import lower_scale

RANK = 16
PEAKS = {
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
"""Dense bfloat16 FLOP/s by part of a GPU's name, from NVIDIA's data sheets; the first that fits."""


@dataclass(frozen=True)
class Shape:
    """A Llama model and the rows that go through it.

    Attributes:
        width: of the hidden states; each head has 128 of it, or a quarter.
        inner: width inside the gated layers.
        num_layers: decoder layers.
        vocabulary: tokens.
        num_rows: in a step.
        length: tokens of a row; all of them are trained, as in packed rows.
    """

    width: int
    inner: int
    num_layers: int
    vocabulary: int
    num_rows: int
    length: int

    @property
    def num_tokens(self) -> int:
        """In a step."""
        return self.num_rows * self.length

    def config(self) -> Any:
        """For Transformers. The 7B shape is that of Llama 2 (Touvron et al. 2023, table 1)."""
        heads = self.width // min(128, self.width // 4)
        return AutoConfig.for_model(
            "llama",
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=self.length,
            tie_word_embeddings=False,
        )


SEVEN_B = Shape(4096, 11008, 32, 32000, num_rows=1, length=4096)
EIGHT_LAYERS = replace(SEVEN_B, num_layers=8, length=2048)
"""What also fits in float32."""
TINY = Shape(64, 128, 2, 320, num_rows=2, length=32)


@dataclass(frozen=True)
class Case:
    """One way to train.

    Attributes:
        name: in the table.
        dtype: a value of `model.dtype` but `auto`.
        attention: a value of `model.attention`.
        compiles: each layer compiled.
        recomputes: activations computed again.
        uses_liger: Liger's programs.
    """

    name: str
    dtype: str = "bfloat16"
    attention: str = "auto"
    compiles: bool = False
    recomputes: bool = False
    uses_liger: bool = False

    @property
    def precision(self) -> Precision:
        """As set, also where the engine would refuse it."""
        dtype = getattr(torch, self.dtype.removeprefix("pure_"))
        return Precision(dtype, "as set", is_pure=self.dtype.startswith("pure_"))


@dataclass(frozen=True)
class Measured:
    """What a case came to.

    Attributes:
        name: of the case.
        tokens_per_second: median over the steps after the first third.
        first_step_seconds: of the first step, with all compiling.
        peak_gib: most GPU memory in use; None on a CPU.
        losses: of every step.
        flops_per_token: that the model needs, whatever was computed twice.
    """

    name: str
    tokens_per_second: float
    first_step_seconds: float
    peak_gib: float | None
    losses: list[float]
    flops_per_token: float


def measure(case: Case, shape: Shape, device: torch.device, steps: int) -> Measured | str:
    """Train a random model for some steps; a reason in words where that cannot be done here."""
    release(device)
    try:
        model = random_model(case, shape, device)
        seconds, losses = _train(model, case, shape, steps)
    except torch.OutOfMemoryError:
        return "does not fit into memory"
    except (FactoryError, ImportError, RuntimeError) as error:
        return " ".join(str(error).split())[:300]
    late = sorted(seconds[steps // 3 :])
    is_gpu = device.type == "cuda"
    return Measured(
        case.name,
        shape.num_tokens / late[len(late) // 2],
        seconds[0],
        torch.cuda.max_memory_allocated(device) / 2**30 if is_gpu else None,
        losses,
        flops_per_token(model.network, shape),
    )


def release(device: torch.device) -> None:
    """Give back what the case before held."""
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def random_model(case: Case, shape: Shape, device: torch.device) -> AdaptedModel:
    """The shape with a LoRA adapter on all linear layers, its base in the format of the case."""
    torch.manual_seed(0)
    if case.uses_liger:
        require_liger()
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(
            shape.config(),
            dtype=case.precision.dtype,
            attn_implementation=attention_implementation(case.attention, case.precision.dtype),
        )
    if case.uses_liger:
        use_liger(network)
    network = Lora(rank=RANK).apply(network, freeze_layers=0, seed=0)
    settle(network, case.precision)
    if case.recomputes:
        recompute(network)
    tokenizer: Any = None  # rows are tokens already
    return AdaptedModel(network, tokenizer, "", EncodeOptions(shape.length), case.precision)


def _train(
    model: AdaptedModel, case: Case, shape: Shape, steps: int
) -> tuple[list[float], list[float]]:
    """Seconds and loss of each step, on the same random tokens every time."""
    fabric = alone(model)
    kernel = TokenLogProbs(model.network)
    if case.compiles:
        compile_layers(model.network)
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-4, fused=True)
    module, wrapped = fabric.setup(kernel, optimizer)
    model.network.train()
    generator = torch.Generator().manual_seed(0)
    size = (shape.num_rows, shape.length + 1)
    tokens = torch.randint(shape.vocabulary, size, generator=generator).to(model.device)
    seconds, losses = [], []
    for _ in range(steps):
        started = time.perf_counter()
        loss = -module(tokens[:, :-1], tokens[:, 1:]).mean()
        fabric.backward(loss)
        norm = fabric.clip_gradients(module, wrapped, max_norm=1.0, error_if_nonfinite=False)
        if math.isfinite(float(norm)):
            wrapped.step()
        else:
            lower_scale(fabric)
        wrapped.zero_grad()
        losses.append(loss.item())  # waits for the GPU
        seconds.append(time.perf_counter() - started)
    return seconds, losses


def flops_per_token(network: Any, shape: Shape) -> float:
    """FLOPs of a training step for each token, none of them counted twice.

    Chowdhery et al. 2022 (PaLM), appendix B, https://arxiv.org/abs/2204.02311: 2 for a weight in
    the forward pass and 4 in the backward pass. Here a frozen weight has no gradient of its own,
    which leaves 4 in all, and attention is causal: half of its products are needed.
    """
    causal = network.get_base_model()
    frozen = sum(
        weight.numel()
        for name, weight in causal.named_parameters()
        if weight.ndim == 2 and not weight.requires_grad and "embed" not in name
    )
    trained = sum(weight.numel() for weight in causal.parameters() if weight.requires_grad)
    attention = 6 * shape.length * shape.width * shape.num_layers
    return 4.0 * frozen + 6.0 * trained + attention


def peak_flops(device: torch.device) -> tuple[float, str]:
    """The FLOP/s that a share is told of, and where they come from."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, flops in PEAKS.items():
            if all(word in name for word in part.split()):
                return flops, f"data sheet of the {part}, dense bfloat16"
    return product_flops(device), "measured products"


def product_flops(device: torch.device) -> float:
    """FLOP/s of square bfloat16 products on a GPU, of float32 ones on a CPU."""
    is_gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if is_gpu else (512, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(10):
            product = left @ right
        product[0, 0].item()  # waits for the GPU
        best = min(best, time.perf_counter() - started)
    return 10 * 2 * size**3 / best
