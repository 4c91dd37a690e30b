"""The lowest layers, where nothing trains them, are computed once for each row and kept on disk.

What leaves them depends on the row alone, so rows of later epochs, replayed and general rows of
later rounds skip them. Rows go through them one by one, whether they are kept or not: losses are
the same to the last bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from llama_factory.core.progress import Progress
from llama_factory.model.layers import has_dropout
from llama_factory.model.quick.trunk import Trunk, num_frozen, obstacle
from llama_factory.training.items import Rows
from llama_factory.training.kept_states import KeptStates
from llama_factory.training.memory import shown_bytes
from llama_factory.training.monitor import TrainingFolders
from llama_factory.training.plan import Plan
from llama_factory.training.setup import Run
from llama_factory.training.state_store import StateStore

SETTING = "training.trunk_cache"
LEAST_VISITS = 1.5
"""How often a row must be read on average that keeping its states is worth it: short rows are
computed slower one by one than together."""


@contextmanager
def keeping(
    run: Run, plan: Plan, rows: Rows, folders: TrainingFolders, progress: Progress
) -> Iterator[None]:
    """Take the lowest layers' states from where they are kept, where that is possible and pays.

    Args:
        run: in progress.
        plan: the rows of every update.
        rows: of the run.
        folders: where states are kept.
        progress: is told what was decided, and at the end how often it helped.
    """
    wanted = run.settings.trunk_cache
    if wanted is False or folders.states is None:
        yield
        return
    num_layers = num_frozen(run.model.network)
    if reason := _reason(run, num_layers, plan, rows):
        if num_layers or wanted is True:
            progress.say(f"{SETTING}: states of frozen layers are not kept: {reason}.")
        yield
        return
    trunk = Trunk(run.model.network, num_layers)
    kept = KeptStates(trunk, StateStore(folders.states, _most_bytes(run)))
    progress.say(
        f"{SETTING}: the lowest {num_layers} layers are frozen and computed once for each row; "
        f"their states are kept in {folders.states}, at most {shown_bytes(_most_bytes(run))}."
    )
    run.row_states = run.quick.trunk = kept
    try:
        yield
    finally:
        run.row_states = run.quick.trunk = None
        kept.close()
        progress.say(
            f"{SETTING}: {kept.num_read - kept.num_computed} of {kept.num_read} times a row's "
            "states were there already."
        )


def _most_bytes(run: Run) -> int:
    return int(run.settings.trunk_cache_gb * 10**9)


def _reason(run: Run, num_layers: int, plan: Plan, rows: Rows) -> str:
    """Why states are not kept; empty where they are.

    It depends on nothing that may differ when an interrupted run goes on, as the room on the disk.
    """
    network = run.model.network
    if num_layers == 0:
        return "the first layer trains"
    if not run.quick.is_possible:
        dropout = ["dropout"] if has_dropout(network) else []
        return " and ".join([*run.settings.trunk_obstacles(), *dropout]) or (
            "the layers of this network are not read as training.quick_layers reads them"
        )
    if why := obstacle(network, num_layers):
        return why
    return "" if run.settings.trunk_cache is True else _does_not_pay(run, plan, rows)


def _does_not_pay(run: Run, plan: Plan, rows: Rows) -> str:
    visits = [ref for refs in plan for ref in refs]
    distinct = set(visits)
    if len(visits) < LEAST_VISITS * len(distinct):
        return (
            f"{len(distinct)} rows are read {len(visits)} times, so hardly any is read again "
            f"({SETTING}: true keeps them for later runs)"
        )
    table = run.model.network.get_input_embeddings().weight
    size = table.shape[1] * table.element_size() * sum(map(rows.num_tokens, distinct))
    if size > _most_bytes(run):
        return (
            f"they need {shown_bytes(size)}, and training.trunk_cache_gb is "
            f"{run.settings.trunk_cache_gb:g}"
        )
    return ""
