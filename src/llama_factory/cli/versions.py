"""`llama-factory versions`."""

import json
from dataclasses import asdict

from llama_factory.cli.options import Folder, Json


def versions(folder: Folder, as_json: Json = False) -> None:
    """All versions of a workspace: parent, time, rows, mean scores over tasks, aliases."""
    from llama_factory import run

    rows = run.versions(folder)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    from llama_factory.cli.tables import print_versions

    print_versions(rows)
