"""Whether what an engine computes is the version that it was asked for. Pure; see `prove`."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean

from llama_factory.core.errors import VersionError
from llama_factory.versions.proof import Ids, Proof

TOLERANCE = 0.1
"""Nats a token by which losses may differ from those of the round: number formats and kernels
differ. Beyond a loss of 2 it grows with the loss."""
RELATIVE = 0.05
DISTINCT = 0.5
"""Part of the tolerance from which on a version and its base model are held to be different."""
PROBE = "What is new?"
"""What a version without a proof is asked."""


def pairs_to_measure(proof: Proof, encode: Callable[[str], Sequence[int]]) -> list[tuple[Ids, Ids]]:
    """The prompts and answers whose losses `prove` takes, in its order.

    Args:
        proof: of the version.
        encode: text to token ids, for versions without a proof: any finite loss will do there.
    """
    if proof.rows:
        return [(row.prompt, row.answer) for row in proof.rows]
    ids = tuple(encode(PROBE))
    return [(ids[:1], ids[1:] or ids)]


def prove(losses: Sequence[float], proof: Proof, *, tolerance: float = TOLERANCE) -> None:
    """Refuse a version whose losses are not those that it was made with.

    Args:
        losses: mean negative log-likelihood of each answer of `pairs_to_measure`, in nats a token.
        proof: of the version.
        tolerance: the mean difference that is allowed; more for weights in few bits.

    Raises:
        VersionError: it computes no numbers, other answers, or those of the base model.
    """
    name = proof.version_id
    if not all(map(math.isfinite, losses)):
        raise VersionError(
            f"{name}: it computes values that are no numbers (NaN or infinite), so it does not "
            "answer. Roll back to another version."
        )
    if not proof.rows:
        return
    stored, base = [row.nll for row in proof.rows], [row.base_nll for row in proof.rows]
    off, to_base = _distance(losses, stored), _distance(losses, base)
    allowed = max(tolerance, tolerance / TOLERANCE * RELATIVE * fmean(stored))
    is_like_base = _distance(stored, base) > DISTINCT * allowed and to_base < off
    if is_like_base or not off <= allowed:
        what = "the base model's answers" if is_like_base else "not this version's answers"
        raise VersionError(
            f"{name}: what was loaded gives {what}: its loss on the prompts kept with the version "
            f"is {fmean(losses):.3f} and was {fmean(stored):.3f} when it was made (the base "
            f"model's: {fmean(base):.3f}; {allowed:.2f} apart is allowed). Look for another base "
            "model, another number format or a changed adapter behind this engine."
        )


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return fmean(abs(a - b) for a, b in zip(one, other, strict=True))
