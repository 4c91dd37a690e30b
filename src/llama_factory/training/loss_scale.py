"""Number formats as Fabric takes them, and the scaled loss of float16.

Micikevicius et al. 2018, section 3.2, https://arxiv.org/abs/1710.03740
"""

from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins import Precision as FabricPrecision

from llama_factory.model.dtypes import Precision

SMALLEST_SCALE = 1.0
"""A loss scale of 1 scales nothing: gradients that are infinite there are so without float16."""


class ScaledPrecision(MixedPrecision):
    """float16 products with a scaled loss, also where the optimizer is fused.

    Lightning refuses to clip for fused optimizers, because they can divide by the scale themselves;
    torch's scaler sees by itself that the gradients were divided already.
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))
        self._is_unscaled = False

    def unscale_gradients(self, optimizer: Any) -> None:
        """Divide the gradients by the scale, once in an update."""
        if not self._is_unscaled:
            self.scaler.unscale_(optimizer)
        self._is_unscaled = True

    def optimizer_step(self, optimizer: Any, **kwargs: Any) -> Any:
        """Move the weights; from time to time the scale is doubled."""
        self._is_unscaled = False
        return super().optimizer_step(optimizer, **kwargs)

    def lower(self) -> bool:
        """Halve the scale after gradients that were not finite; the update is to be made again.

        Returns:
            Whether it was halved: not where it is 1, nor where all gradients were finite.
        """
        before = self.scaler.get_scale()
        self._is_unscaled = False
        self.scaler.update()
        if before <= SMALLEST_SCALE:
            self.scaler.update(SMALLEST_SCALE)
        return bool(self.scaler.get_scale() < before)


def mixed(precision: Precision, device: str) -> FabricPrecision | None:
    """What makes products in another format than the weights that train; None where none are.

    Args:
        precision: of the model.
        device: `cpu` or `cuda`.
    """
    if not precision.is_mixed:
        return None
    if precision.dtype == torch.float16:
        return ScaledPrecision(device)
    return MixedPrecision("bf16-mixed", device)


def unscale(fabric: Fabric, optimizer: Any) -> None:
    """Gradients in their true size, for whoever looks at them before they are clipped.

    Args:
        fabric: of the run.
        optimizer: as torch made it, not as Fabric wraps it.
    """
    fabric.strategy.precision.unscale_gradients(optimizer)


def lower_scale(fabric: Fabric) -> bool:
    """After gradients that were not finite: whether the same update may succeed at a lower scale.

    Without float16 there is no scale, and so nothing to lower.
    """
    plugin = fabric.strategy.precision
    return isinstance(plugin, ScaledPrecision) and plugin.lower()


def scale_state(fabric: Fabric) -> dict[str, Any]:
    """The loss scale, for a checkpoint; empty where nothing is scaled."""
    return dict(fabric.strategy.precision.state_dict())


def restore_scale(fabric: Fabric, state: dict[str, Any]) -> None:
    """Go on with the loss scale of a checkpoint."""
    if state:
        fabric.strategy.precision.load_state_dict(state)
