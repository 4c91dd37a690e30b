"""`llama-factory consolidate`."""

import json

from llama_factory.cli.options import Changes, Folder, Json


def consolidate(folder: Folder, changes: Changes = None, as_json: Json = False) -> None:
    """Put the updates of all rounds into the weights and begin a fresh adapter; tested as a round.

    Do so now and then, such as monthly: an adapter has room for a few rounds. The updates are kept,
    and `rollback` undoes it.
    """
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress

    done = run.consolidate(folder, changes or [], TerminalProgress())
    if as_json:
        print(json.dumps({"version": done.version.id, "verdict": done.verdict.to_json()}))
        return
    from llama_factory.cli.tables import print_verdict

    print_verdict(done.verdict)
    if done.is_released:
        print(f"{done.version.id} is promoted: rounds go on from it with a fresh adapter.")
    elif done.verdict.is_promoted:
        print(f"{done.version.id} is held as candidate: another version was released meanwhile.")
    else:
        print(f"{done.version.id} is refused and kept as candidate; nothing else changed.")
