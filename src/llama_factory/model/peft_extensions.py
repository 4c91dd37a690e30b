"""What PEFT lacks: bottlenecks, LoRA that starts at principal parts, prompts for the backbone."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModelForCausalLM, get_peft_model_state_dict
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.activations import ACT2FN

from llama_factory.core.errors import ModelError
from llama_factory.model.layers import adapted_layers, num_inputs_outputs

BOTTLENECK = "BOTTLENECK"
"""PEFT's name for the method."""
TRAINED, START = "default", "start"
"""The two adapters of a `PrincipalModel`, by PEFT's names."""


@dataclass
class BottleneckConfig(PeftConfig):
    """What adapter_config.json holds.

    Attributes:
        size: width of the bottleneck.
        activation: between its two layers, by Transformers' name.
        target_modules: linear layers that a bottleneck follows.
        exclude_modules: pattern of the full names of layers that none follows.
    """

    size: int = 64
    activation: str = "gelu"
    target_modules: Any = None
    exclude_modules: Any = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """y = W x, followed by y + up(act(down(y))), before anything is added to y.

    Houlsby et al. 2019, section 2.1 and figure 2, https://arxiv.org/abs/1902.00751. They add norms
    that train and start near zero; here the norms stay frozen and the start is exactly zero.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module, name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = num_inputs_outputs(base_layer)
        self.activation = ACT2FN[config.activation]
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self.update_layer(name, config)

    def update_layer(self, name: str, config: BottleneckConfig) -> None:
        """Add one more adapter, which changes nothing until it is trained."""
        self.bottleneck_down[name] = nn.Linear(self.out_features, config.size)
        self.bottleneck_up[name] = nn.Linear(config.size, self.out_features)
        for weight in self.bottleneck_up[name].parameters():
            nn.init.zeros_(weight)  # one that is fresh changes nothing
        layer: Any = self  # PEFT's part of the class has no types
        layer._move_adapter_to_device_of_base_layer(name)
        layer.set_adapter(layer.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: Tensor) -> Tensor:
        """See the class; what is active follows one after the other."""
        layer: Any = self
        y: Tensor = self.base_layer(x)
        names = [] if layer.disable_adapters else layer.active_adapters
        for name in [each for each in names if each in self.bottleneck_down]:
            down, up = layer.bottleneck_down[name], layer.bottleneck_up[name]
            hidden = layer.activation(down(layer._cast_input_dtype(y, down.weight.dtype)))
            y = y + up(hidden).to(y.dtype)
        return y

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: no weight of the base model could do what comes after it."""
        raise NotImplementedError("a bottleneck is a layer of its own")


class BottleneckModel(BaseTuner):
    """Puts bottlenecks after layers."""

    prefix: str = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        **_: Any,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        new = BottleneckLayer(target, adapter_name, peft_config)
        self._replace_module(parent, target_name, new, target)


def register_bottleneck() -> None:
    """Make PEFT know the method, so that it reads saved folders of it."""
    PEFT_TYPE_TO_CONFIG_MAPPING[BOTTLENECK] = BottleneckConfig
    PEFT_TYPE_TO_TUNER_MAPPING[BOTTLENECK] = BottleneckModel
    PEFT_TYPE_TO_PREFIX_MAPPING[BOTTLENECK] = BottleneckModel.prefix


class PrincipalModel(PeftModelForCausalLM):
    """LoRA that starts at a part of the base weights (PiSSA, OLoRA): W + s (B A - B0 A0).

    Meng et al. 2024, equation 4, https://arxiv.org/abs/2404.02948; Bueyuekakyuez 2024,
    https://arxiv.org/abs/2406.01775. They subtract the start from the base weights; here a second,
    frozen adapter subtracts it, so the base model stays unchanged (without the adapter it answers
    as before, other adapters fit it) and nothing is rounded to the base's number format. Saved as
    the plain LoRA adapter of that difference, at twice the rank.
    """

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Write a PEFT folder that fits the unchanged base model."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        metadata = {"format": "pt"}
        save_file(self._difference(), folder / "adapter_model.safetensors", metadata=metadata)
        config = copy.deepcopy(self.peft_config[TRAINED])
        assert isinstance(config, LoraConfig)
        config.inference_mode = True
        config.base_model_name_or_path = self.get_base_model().name_or_path
        config.r *= 2
        # The scale of the product must stay the same at twice the rank.
        config.lora_alpha *= 2**0.5 if config.use_rslora else 2
        config.save_pretrained(str(folder))

    def _difference(self) -> dict[str, Tensor]:
        trained = get_peft_model_state_dict(self, adapter_name=TRAINED, save_embedding_layers=False)
        every = self.state_dict()
        whole = {}
        for name, weight in trained.items():
            start = every.get(name.replace(".weight", f".{START}.weight"))
            dim = 0 if "lora_A" in name else 1
            # Rows of new tokens have no start.
            whole[name] = weight if start is None else torch.cat([weight, start], dim=dim)
        return {name: weight.detach().cpu().contiguous() for name, weight in whole.items()}


def principal_model(model: nn.Module, config: LoraConfig) -> PrincipalModel:
    """The model with an adapter that starts at a part of its weights, and the same outputs.

    Args:
        model: the base model, in float32, float16 or bfloat16.
        config: names the start in `init_lora_weights`.
    """
    names, excluded = list(config.target_modules or []), config.exclude_modules
    layers: list[Any] = list(adapted_layers(model, names, excluded).values())
    before = [layer.weight.detach().clone() for layer in layers]
    network = PrincipalModel(model, config)
    for layer, weight in zip(layers, before, strict=True):
        layer.weight.data = weight
    # From here on a plain LoRA adapter, beside which others may stand.
    network.peft_config[TRAINED].init_lora_weights = True
    frozen = copy.deepcopy(config)
    frozen.init_lora_weights, frozen.lora_dropout = True, 0.0
    network.add_adapter(START, frozen)
    _subtract_start(network)
    return network


@torch.no_grad()
def _subtract_start(network: PrincipalModel) -> None:
    """Activate both adapters, of which only the trained one has gradients."""
    for module in network.modules():
        if START in getattr(module, "lora_A", {}):
            layer: Any = module
            layer.lora_A[START].weight.copy_(layer.lora_A[TRAINED].weight)
            layer.lora_B[START].weight.copy_(-layer.lora_B[TRAINED].weight)
    network.base_model.set_adapter([TRAINED, START])
    for name, weight in network.named_parameters():
        if f".{START}." in name:
            weight.requires_grad_(False)


def prepend_prompt(network: Any) -> Any:
    """Let the vectors of prompt tuning reach callers that use the backbone itself, not PEFT.

    They are put before every row of tokens that is read without a cache. PEFT does so only in its
    own forward, which computes logits of all positions. Hidden states come back without the places
    of the vectors: callers get as many as they gave tokens.

    Args:
        network: a PEFT model with prompt tuning.

    Returns:
        The same network.
    """
    base = network.get_base_model()
    backbone = getattr(base, base.base_model_prefix)
    plain = backbone.forward

    def forward(input_ids: Tensor | None = None, **options: Any) -> Any:
        has_cache = options.get("use_cache") is not False  # generation goes through PEFT
        if input_ids is None or has_cache or network._adapters_disabled:
            return plain(input_ids=input_ids, **options)
        embedded = base.get_input_embeddings()(input_ids)  # [rows, seq, width]
        vectors = network.get_prompt(batch_size=len(embedded)).to(embedded.dtype)
        joined = torch.cat([vectors, embedded], dim=1)  # [rows, vectors + seq, width]
        out = plain(**_shifted(options, vectors.shape[1]) | {"inputs_embeds": joined})
        out.last_hidden_state = out.last_hidden_state[:, vectors.shape[1] :]
        return out

    backbone.forward = forward
    return network


def _shifted(options: dict[str, Any], num_vectors: int) -> dict[str, Any]:
    """The caller's options with room for the vectors."""
    if options.get("position_ids") is not None:
        raise ModelError(
            "adapter.type prompt cannot be trained on packed rows: each row needs the trained "
            "vectors before it. Turn packing off, or use lora."
        )
    mask = options.get("attention_mask")
    if mask is None:
        return options
    return options | {"attention_mask": torch.nn.functional.pad(mask, (num_vectors, 0), value=1)}
