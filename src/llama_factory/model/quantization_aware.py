"""Training that computes with rounded weights, so that packing them afterwards changes nothing.

Weights stay in float32 and are rounded in every forward pass; the gradient passes through the
rounding: Jacob et al. 2018, https://arxiv.org/abs/1712.05877. Done by torchao (an extra): layers
are prepared before the training and converted after it. The output head and the embeddings are left
as they are, as Transformers leaves them when it reads packed weights.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from llama_factory.core.errors import ModelError
from llama_factory.model.layers import linear_layers
from llama_factory.model.packing_libraries import missing, quieten
from llama_factory.model.settings import Rounding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIBRARY = "torchao"
GROUP = 32
"""Neighbours in a row of a weight of 4 bits that share a scale."""


def prepare(network: Any, rounding: Rounding) -> Any:
    """Let linear layers compute with rounded weights from now on.

    Args:
        network: a Transformers model whose own weights train.
        rounding: of which kind; `none` changes nothing.

    Raises:
        ModelError: torchao is not installed, or a layer's rows are not made of whole groups.
    """
    if rounding == "none":
        return network
    _require(network, rounding)
    _step(network, rounding, "prepare")
    return network


def write_packed(
    network: Any, tokenizer: "PreTrainedTokenizerBase", rounding: Rounding, folder: Path
) -> None:
    """Pack what was trained and write it as a model that Transformers reads, torchao installed.

    Args:
        network: prepared, and trained; its layers hold packed weights afterwards.
        tokenizer: written beside it.
        rounding: as it was prepared.
        folder: gets the files.
    """
    from transformers import TorchAoConfig
    from transformers.quantizers.auto import AutoHfQuantizer

    _step(network, rounding, "convert")
    config = TorchAoConfig(quant_type=_base_config(rounding))
    network.config.quantization_config = config
    network.hf_quantizer = AutoHfQuantizer.from_config(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _require(network: Any, rounding: Rounding) -> None:
    if lack := missing(LIBRARY):
        raise ModelError(
            f"model.quantization_aware: {rounding} needs {lack}, which this machine does not have."
        )
    if rounding == "int8_weight":
        return
    for name, layer in linear_layers(network).items():
        width = getattr(layer, "in_features", 0)
        if width % GROUP:
            raise ModelError(
                f"model.quantization_aware: {rounding} rounds {GROUP} neighbours in a row of a "
                f"weight together, and {name} has rows of {width}. Use int8_weight."
            )


def _step(network: Any, rounding: Rounding, step: str) -> None:
    """Prepare layers, or convert those that were."""
    quieten()
    quantization: Any = importlib.import_module("torchao.quantization")
    aware: Any = importlib.import_module("torchao.quantization.qat")
    config = aware.QATConfig(_base_config(rounding), step=step)
    head = network.get_output_embeddings()

    def is_meant(module: nn.Module, _: str) -> bool:
        return isinstance(module, nn.Linear) and module is not head

    quantization.quantize_(network, config, filter_fn=is_meant)


def _base_config(rounding: Rounding) -> Any:
    """How torchao packs."""
    torch: Any = importlib.import_module("torch")  # its stubs do not know 4 bits
    library: Any = importlib.import_module("torchao.quantization")
    grain: Any = importlib.import_module("torchao.quantization.granularity")
    kinds: dict[str, Callable[[], Any]] = {
        "int8_weight": lambda: library.IntxWeightOnlyConfig(
            weight_dtype=torch.int8, granularity=grain.PerAxis(0)
        ),
        "int4_weight": lambda: library.IntxWeightOnlyConfig(
            weight_dtype=torch.int4, granularity=grain.PerGroup(GROUP)
        ),
        "int8_dynamic_int4_weight": lambda: library.Int8DynamicActivationIntxWeightConfig(
            weight_dtype=torch.int4, weight_granularity=grain.PerGroup(GROUP)
        ),
    }
    return kinds[rounding]()
