"""Fabric for one process and for several, in a model's number format."""

from typing import Any

import torch
from lightning_fabric import Fabric

from llama_factory.model.adapted import AdaptedModel
from llama_factory.training.loss_scale import mixed
from llama_factory.training.processes import current, num_local


def alone(model: AdaptedModel) -> Fabric:
    """For one process."""
    kind = model.device.type
    return Fabric(accelerator=kind, devices=1, plugins=_plugins(model, kind))


def together(model: AdaptedModel, strategy: Any, *, in_place: bool = False) -> Fabric:
    """For all processes that were joined.

    Args:
        model: tells device and number format.
        strategy: Lightning's.
        in_place: the model still lies in its files; it trains where the GPUs are.
    """
    num_here = num_local()
    kind = "cuda" if in_place and torch.cuda.is_available() else model.device.type
    fabric = Fabric(
        accelerator=kind,
        devices=num_here,
        num_nodes=current().count // num_here,
        strategy=strategy,
        plugins=_plugins(model, kind),
    )
    fabric.launch()
    return fabric


def _plugins(model: AdaptedModel, device: str) -> list[Any]:
    plugin = mixed(model.precision, device)
    return [plugin] if plugin else []
