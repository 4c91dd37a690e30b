"""NEFTune: noise on the embeddings while training, against learning rows by heart.

Jain et al. 2023, algorithm 1, https://arxiv.org/abs/2310.05914: uniform noise in [-1, 1] times
alpha / sqrt(L d). Here L is the length of the row itself, not of the padded micro-batch, so the
strength does not depend on which rows happen to share a pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.padding import IGNORED


class EmbeddingNoise:
    """Adds the noise to the forward passes made under `on`; does nothing without an alpha.

    It is drawn from torch's generator, which the loop seeds at every step: a resumed run draws
    the same.
    """

    def __init__(self, alpha: float | None) -> None:
        self._alpha = alpha

    @contextmanager
    def on(self, model: AdaptedModel, targets: Tensor) -> Iterator[None]:
        """Disturb the embeddings of the forward passes inside that record a gradient.

        Args:
            model: its input embeddings are disturbed.
            targets: [rows, seq] of the micro-batch: a row ends after its last trained token.
        """
        if self._alpha is None:
            yield
            return
        scale = self._alpha * _row_lengths(targets).rsqrt()  # [rows]

        def disturb(_module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                return embedded
            noise = torch.empty_like(embedded).uniform_(-1, 1)  # [rows, seq, width]
            bound = scale * embedded.shape[-1] ** -0.5
            return embedded + noise * bound[:, None, None].to(embedded.dtype)

        hook = model.network.get_input_embeddings().register_forward_hook(disturb)
        try:
            yield
        finally:
            hook.remove()


def _row_lengths(targets: Tensor) -> Tensor:
    """[rows] tokens of each row: the last trained token is its last one."""
    places = torch.arange(targets.shape[1], device=targets.device)
    last = torch.where(targets != IGNORED, places, 0).amax(1)
    return (last + 2).float()
