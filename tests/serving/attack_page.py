"""Prints docs/serving_attacks.md: `python -m tests.serving.attack_page`."""

import sys
import tempfile
from pathlib import Path

from tests.serving import attacks_by_request, attacks_on_files  # noqa: F401  # they list attacks
from tests.serving.attacked import attacked
from tests.serving.attacks import ATTACKS

HEAD = """# What attacks on the server got

Each is done to a real server in a process of its own, through sockets, with a tiny model;
afterwards the server answers others as before. `make attacks` writes the page, and
`tests/serving/test_attacks.py` does everything again and holds what it got against it. Time limits
are a second there ([the real ones](serving.md#limits)).
"""


def page(results: dict[str, str]) -> str:
    """The page, from what each attack got."""
    lines = [HEAD.rstrip()]
    groups = dict.fromkeys(each.group for each in ATTACKS)
    for group in groups:
        lines += ["", f"## {group}", "", "| what is done | what it got |", "|---|---|"]
        rows = [each for each in ATTACKS if each.group == group]
        lines += [f"| {each.title} | {results[each.title]} |" for each in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do all attacks and print the page."""
    from tests.serving.running import make_released_workspace
    from tests.tiny import make_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "tiny")
        workspace = make_released_workspace(Path(folder) / "my-bot", model)
        with attacked(workspace, model) as server:
            sys.stdout.write(page({each.title: each.run(server) for each in ATTACKS}))


if __name__ == "__main__":
    main()
