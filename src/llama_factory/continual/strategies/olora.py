"""O-LoRA: every round learns in directions of its own, orthogonal to those of earlier rounds.

Wang et al. 2023, https://arxiv.org/abs/2310.14152. The paper gives each round a fresh LoRA and adds
all of them up. B_1 A_1 + ... + B_t A_t is one LoRA whose A has the rows of all A_s and whose B has
the columns of all B_s, so here one adapter holds them side by side: round t trains the next `rank`
rows of A and columns of B, all others stay bit for bit, and a version remains one plain adapter.

The paper's equation 8 sums the squares of the entries of A_t A_s^T; its code (cmnfriend/O-LoRA,
uie_trainer_lora.py) sums their absolute values, as does this. Not to be taken for OLoRA, a start
for LoRA (`model.adapter.init: olora`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example, Memory
from llama_factory.model.adapters import ADAPTERS, Adapter
from llama_factory.model.adapters.lora import Lora
from llama_factory.training.strategy import STRATEGIES, RunState, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from llama_factory.continual.subspaces import Subspace
    from llama_factory.model.adapted import AdaptedModel

NAME = "olora"
USED = f"{NAME}.used"
"""Number in memory: ranks of the adapter that belong to earlier rounds."""
CONSOLIDATED = f"{NAME}.consolidated."
"""Tensors in memory, by name of the weight A: of rounds whose updates are in the base."""


OLORA_OR_MERGE = kind_of_sentence(
    "settings.olora_or_merge",
    "olora and merge exclude each other: olora keeps each round in a part of the adapter of its"
    " own, and merge mixes the rounds in all of it. Leave one of them out.",
)
NOT_DIVIDED = kind_of_sentence(
    "settings.not_divided",
    "olora and model.adapter.{name} exclude each other: what it trains cannot be divided into "
    "parts for rounds. Leave one of them out.",
)
NO_ROUND_FITS = kind_of_sentence(
    "settings.no_round_fits",
    "olora.rank is {rank} and model.adapter.rank is {whole}, so not even one round fits. Lower the "
    "first, or raise the second.",
)
NO_LORA_FOR_PARTS = kind_of_sentence(
    "settings.no_lora_for_parts",
    "olora gives each round a part of a LoRA adapter, and model.adapter is {adapter}. Use lora,"
    " or leave olora out.",
)


@dataclass(eq=False, kw_only=True)
class Parts(RunState):
    """What a run trains of the adapter, layer by layer."""

    parts: "tuple[Subspace, ...]"


@STRATEGIES.register(NAME)
class OLora(Strategy):
    """Learns each round in a part of the adapter of its own, orthogonal to earlier ones."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    lambda_: float = Field(0.5, ge=0, alias="lambda")
    """Strength of the penalty on learning in the directions of earlier rounds. Higher forgets less,
    learns less."""
    rank: int = Field(4, ge=1)
    """Ranks of the adapter that a round takes for itself; `model.adapter.rank` divided by it is the
    number of rounds that fit. Higher learns more in a round."""

    def conflicts(self, others: Mapping[str, Strategy], adapter: Adapter | None) -> Iterator[str]:
        """It needs an adapter of its own, with parts for rounds."""
        if "merge" in others:
            yield OLORA_OR_MERGE()
        if isinstance(adapter, Lora):
            yield from self._misfits(adapter)
        elif adapter is not None:
            yield NO_LORA_FOR_PARTS(adapter=ADAPTERS.name_of(adapter))

    def _misfits(self, adapter: Lora) -> Iterator[str]:
        indivisible = {
            "init": adapter.is_principal,
            "use_dora": adapter.use_dora,
            "modules_to_save": bool(adapter.modules_to_save),
        }
        for name in (name for name, is_set in indivisible.items() if is_set):
            yield NOT_DIVIDED(name=name)
        if self.rank > adapter.rank:
            yield NO_ROUND_FITS(rank=self.rank, whole=adapter.rank)

    def prepare(self, model: "AdaptedModel", memory: Memory) -> Parts:
        """Find room in the adapter for this round, and begin it orthogonal to the others.

        Raises:
            ConfigError: there is no room left, or the adapter is not of a kind that has parts.
        """
        from llama_factory.continual import subspaces
        from llama_factory.continual.low_rank import project_out

        used = int(memory.numbers.get(USED, 0))
        own = slice(used, used + self.rank)
        weights, parts = model.trainable(), []
        for layer in subspaces.plain_layers(model):
            a, b = weights[layer.a], weights[layer.b]
            held = memory.tensors.get(f"{NAME}.{layer.a}")
            if held is not None:
                subspaces.require_kept(layer.a, a, held.to(a.device, a.dtype))
            subspaces.require_room(b, own)
            known = _directions(memory, layer.a)
            earlier = known.to(a.device, a.dtype) if len(known) else None
            if earlier is not None:
                project_out(a[own], earlier)
            starts = (a.detach().clone(), b.detach().clone())
            parts.append(subspaces.Subspace(layer.a, a, b, own, earlier, *starts))
            model.parts.update({layer.a: parts[-1].of(a, 0), layer.b: parts[-1].of(b, 1)})
        return Parts(parts=tuple(parts))

    def penalty(self, model: "AdaptedModel", state: Parts) -> "Mapping[str, Tensor]":
        """What this round's directions share with earlier ones, summed over layers."""
        overlaps = [each for part in state.parts if (each := part.overlap()) is not None]
        return {"olora_penalty": self.lambda_ * sum(overlaps[1:], overlaps[0])} if overlaps else {}

    def adjust_gradients(self, model: "AdaptedModel", state: Parts) -> None:
        """Only this round's part of the adapter is trained."""
        for part in state.parts:
            part.mask_gradients()

    def after_step(self, model: "AdaptedModel", state: Parts) -> None:
        """Undo what weight decay did to the other parts."""
        for part in state.parts:
            part.hold_others()

    def after_round(
        self,
        model: "AdaptedModel",
        rows: Sequence[Example],
        memory: Memory,
        state: Parts,
        *,
        seed: int,
    ) -> Memory:
        """Keep the directions of all rounds so far."""
        used = int(memory.numbers.get(USED, 0)) + self.rank
        kept = {f"{NAME}.{part.name}": part.a.detach()[:used].cpu().clone() for part in state.parts}
        model.parts.clear()
        return replace(
            memory,
            tensors={**memory.tensors, **kept},
            numbers={**memory.numbers, USED: used},
        )

    @classmethod
    def consolidated(cls, memory: Memory) -> Memory:
        """The directions of all rounds stay taken; the fresh adapter has all its ranks free."""
        keys = [key for key in memory.tensors if key.startswith(f"{NAME}.")]
        names = {key.removeprefix(CONSOLIDATED).removeprefix(f"{NAME}.") for key in keys}
        kept = {CONSOLIDATED + name: _directions(memory, name) for name in sorted(names)}
        rest = memory.without(f"{NAME}.")
        return replace(rest, tensors={**rest.tensors, **kept})


def _directions(memory: Memory, name: str) -> "Tensor":
    """[ranks, in] the rows of a weight A in which earlier rounds learned; there may be none."""
    import torch

    keys = (CONSOLIDATED + name, f"{NAME}.{name}")
    known = [memory.tensors[key] for key in keys if key in memory.tensors]
    return torch.cat(known) if known else torch.empty(0)
