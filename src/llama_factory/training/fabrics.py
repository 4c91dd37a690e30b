"""Fabric for one process and for several, in a model's number format."""

from typing import Any

from lightning_fabric import Fabric

from llama_factory.model.adapted import AdaptedModel
from llama_factory.training.loss_scale import mixed
from llama_factory.training.processes import current, num_local


def alone(model: AdaptedModel) -> Fabric:
    """For one process."""
    return Fabric(accelerator=model.device.type, devices=1, plugins=_plugins(model))


def together(model: AdaptedModel, strategy: Any) -> Fabric:
    """For all processes that were joined.

    Args:
        model: tells device and number format.
        strategy: Lightning's.
    """
    num_here = num_local()
    fabric = Fabric(
        accelerator=model.device.type,
        devices=num_here,
        num_nodes=current().count // num_here,
        strategy=strategy,
        plugins=_plugins(model),
    )
    fabric.launch()
    return fabric


def _plugins(model: AdaptedModel) -> list[Any]:
    plugin = mixed(model.precision, model.device.type)
    return [plugin] if plugin else []
