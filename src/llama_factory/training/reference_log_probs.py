"""Log-probabilities of the rows under the model at the start of a run, the reference.

Computed once for the rows of the plan and kept beside the checkpoints, so that a run that goes on
compares with the same model.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llama_factory.core import files
from llama_factory.core.progress import Progress
from llama_factory.model.chat.encoding import EncodedRow
from llama_factory.model.padding import IGNORED, by_length, pad
from llama_factory.training.items import Items, RowRef
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.setup import Run

FILE = "reference.json"
ROWS_A_TIME = 256
"""Rows that are sorted by length together."""


def with_reference(
    run: Run,
    items: Mapping[str, Items],
    refs: Iterable[RowRef],
    *,
    folder: Path,
    plan: str,
    progress: Progress,
) -> dict[str, Items]:
    """The items with what the model makes of those that a run uses; a no-op where none needs it.

    Args:
        run: about to start: its weights are the reference.
        items: by source.
        refs: rows that the run uses.
        folder: of the checkpoints.
        plan: identifies the run; what another one computed is not taken.
        progress: shows how far it is.
    """
    needed = {name for name, each in items.items() if each.objective.needs_reference}
    used = sorted({ref for ref in refs if ref.source in needed}, key=lambda r: (r.source, r.index))
    if not used:
        return dict(items)
    values = _read(folder / FILE, plan)
    if values is None:
        values = _compute(run, items, used, progress)
        if run.processes.is_first:
            files.write_json(folder / FILE, {"plan": plan, "values": values})
    by_source = {
        name: {int(index): tuple(each) for index, each in sums.items()}
        for name, sums in values.items()
    }
    return {name: replace(each, reference=by_source.get(name, {})) for name, each in items.items()}


def _read(path: Path, plan: str) -> dict[str, Any] | None:
    try:
        saved = files.read_json(path)
        values: dict[str, Any] = saved["values"]
        return values if saved["plan"] == plan else None
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return None


@torch.no_grad()
def _compute(
    run: Run, items: Mapping[str, Items], used: Sequence[RowRef], progress: Progress
) -> dict[str, dict[str, list[float]]]:
    values: dict[str, dict[str, list[float]]] = {name: {} for name in items}
    run.model.network.eval()
    with progress.bar("reference", len(used)) as bar:
        for start in range(0, len(used), ROWS_A_TIME):
            some = used[start : start + ROWS_A_TIME]
            for ref, sums in _sums(run, items, some):
                values[ref.source][str(ref.index)] = sums
            bar.advance(len(some))
    run.settings.parallel.let_go(run.module)
    run.model.network.train()
    return values


def _sums(
    run: Run, items: Mapping[str, Items], refs: Sequence[RowRef]
) -> list[tuple[RowRef, list[float]]]:
    """Log-probability of the trained tokens of every sequence of some rows."""
    rows = [(ref, row) for ref in refs for row in items[ref.source][ref.index]]
    sums = torch.zeros(len(rows))
    for chosen in by_length([row for _, row in rows], run.max_tokens):
        source = rows[chosen[0]][0].source
        sums[chosen] = _sequence_sums(run, [rows[n][1] for n in chosen], items[source])
    by_ref: dict[RowRef, list[float]] = {}
    for (ref, _), value in zip(rows, sums.tolist(), strict=True):
        by_ref.setdefault(ref, []).append(value)
    return list(by_ref.items())


def _sequence_sums(run: Run, rows: Sequence[EncodedRow], items: Items) -> torch.Tensor:
    ids, targets = (run.fabric.to_device(each) for each in pad(rows))
    outputs = run.module(OBJECTIVES.name_of(items.objective), ids, targets)
    sequence_of = (targets != IGNORED).nonzero()[:, 0]
    zeros = torch.zeros(len(rows), device=outputs.device)
    sums: torch.Tensor = zeros.index_add(0, sequence_of, items.objective.log_probs(outputs))
    return sums.cpu()
