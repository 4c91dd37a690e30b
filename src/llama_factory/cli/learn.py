"""`llama-factory learn`."""

import json

from llama_factory.cli.options import Changes, Folder, Json


def learn(folder: Folder, changes: Changes = None, as_json: Json = False) -> None:
    """One round on what is in the inbox: train, test, and release the result if it is better."""
    from llama_factory import run
    from llama_factory.cli.progress import TerminalProgress

    done = run.learn(folder, changes or [], TerminalProgress())
    if as_json:
        shown = {"version": done.version.id, "verdict": done.verdict.to_json()} if done else None
        print(json.dumps({"round": shown}))
        return
    if done is None:
        print(f"Nothing new to learn: {folder}/inbox holds no row that was not taught before.")
        return
    from llama_factory.cli.tables import print_verdict

    print_verdict(done.verdict)
    if done.verdict.is_promoted:
        print(f"{done.version.id} is promoted: it answers from now on.")
        return
    print(f"{done.version.id} is refused and kept as candidate; its files stay in the inbox.")
    print(f"  look:    llama-factory show {folder} {done.version.id}")
    print(f"  accept:  llama-factory promote {folder} {done.version.id}")
    if done.verdict.has_forgotten:
        print(f"  again, forgetting less:  llama-factory learn {folder} --set strategies=safe")
    else:
        print(f"  again, learning more:  llama-factory learn {folder} --set training.epochs=NUMBER")
