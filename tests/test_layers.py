"""The rooms of the package import only downwards, without circles, and heavy libraries stay in one.

The rooms are those of the table in docs/architecture.md.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "llama_factory"
ROOMS = (
    "core",
    "text",
    "data",
    "model",
    "versions",
    "inference",
    "training",
    "evaluation",
    "knowledge",
    "monitoring",
    "continual",
    "rounds",
    "jobs",
    "serving",
    "reports",
    "config",
    "run",
    "use",
    "upkeep",
    "operate",
    "oversee",
    "curate",
    "experiment",
    "web",
    "cli",
)
"""Low to high: a room imports from itself and from those before it."""
DOORS = {"__init__": "cli", "__main__": "cli", "data_utils": "data"}
"""Single files beside the rooms: how high the room is that they belong to."""
HOMES = {
    "lightning_fabric": {"training"},
    "peft": {"model"},
    "fastapi": {"serving", "web"},
    "uvicorn": {"serving"},
    "matplotlib": {"reports"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path, package: Path = PACKAGE) -> str:
    parts = [package.name, *file.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    room = [*module.split("."), "__init__"][1]
    return DOORS.get(room, room)


@cache
def imports_of(file: Path) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Modules that a file imports wherever in it, each with the names taken from it."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.extend((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.append((node.module or "", tuple(alias.name for alias in node.names)))
    return tuple(found)


def imported(file: Path) -> list[str]:
    """Modules that a file imports; of `from x import y` both x and x.y."""
    return [
        name
        for module, names in imports_of(file)
        for name in (module, *(f"{module}.{each}" for each in names))
    ]


def graph_of(package: Path) -> dict[str, set[str]]:
    """Which modules of a package each of them imports; a package stands for its `__init__`."""
    files = {module_of(file, package): file for file in package.rglob("*.py")}
    graph = {}
    for importer, file in files.items():
        found = set()
        for module, names in imports_of(file):
            submodules = {f"{module}.{name}" for name in names} & set(files)
            found |= submodules
            if len(submodules) < len(names) or not names:
                found.add(module)
        graph[importer] = found & set(files) - {importer}
    return graph


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Groups of modules that reach each other, each once."""
    reached = {module: _reachable(graph, module) for module in graph}
    known: set[str] = set()
    for module in sorted(graph):
        if module in reached[module] and module not in known:
            group = [other for other in reached[module] if module in reached[other]]
            known |= set(group)
            yield sorted(group)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = list(graph[start])
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += graph[module]
    return found


def test_every_file_lies_in_a_room_that_the_architecture_names():
    strangers = [file.name for file in FILES if room_of(module_of(file)) not in ROOMS]
    assert not strangers, f"{strangers}: no room of docs/architecture.md"


def test_the_rooms_are_those_that_the_architecture_names():
    text = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text, flags=re.MULTILINE)
    assert tuple(named[: len(ROOMS)]) == ROOMS


def test_imports_go_only_towards_the_core():
    height = {room: number for number, room in enumerate(ROOMS)}
    wrong = [
        f"{module_of(file)} imports {name}"
        for file in FILES
        for name in imported(file)
        if name.startswith("llama_factory.")
        and name.split(".")[1] in {*ROOMS, "data_utils"}
        and height[room_of(name)] > height[room_of(module_of(file))]
        and room_of(module_of(file)) != "__main__"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    found = list(circles(graph_of(PACKAGE)))
    assert not found, "\n".join(" <-> ".join(group) for group in found)


def test_heavy_libraries_stay_in_one_room():
    wrong = [
        f"{module_of(file)} imports {name}, which belongs in {HOMES[name.split('.')[0]]}"
        for file in FILES
        for name in imported(file)
        if name.split(".")[0] in HOMES and room_of(module_of(file)) not in HOMES[name.split(".")[0]]
    ]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_import_and_a_circle_would_be_seen(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from package import two\n")
    (package / "two.py").write_text("def late():\n    from package.one import x\n")
    (package / "three.py").write_text("import package.one\n")
    assert imported(package / "one.py") == ["package", "package.two"]
    assert list(circles(graph_of(package))) == [["package.one", "package.two"]]


@pytest.mark.parametrize("name", ["pickle", "dill", "shelve", "joblib"])
def test_nothing_is_ever_unpickled(name):
    for file in FILES:
        assert name not in imported(file), file


def test_no_weights_are_loaded_in_a_way_that_runs_code():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, file
        assert "torch.load(" not in text, file
