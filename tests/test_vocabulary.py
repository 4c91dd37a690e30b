"""One idea, one word: the second words of docs/glossary.md name nothing in the package."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src" / "llama_factory").rglob("*.py"))
GLOSSARY = ROOT / "docs" / "glossary.md"

IN_NAMES = {"tell", "tells", "told", "say", "says", "said", "found", "made", "apart", "there"}
"""Verbs and adverbs of everyday speech: what a name does is said by a verb of the field."""
ALLOWED = {"say", "connection_made"}
"""The one method by which work reports a line (`Progress.say`), and one of asyncio's."""
IN_TEXTS = ("surprise", "surprisal", "at right angles")
PAGE_NAME = re.compile(r"(?<![\w/-])(?:docs/)?[\w-]+\.md\b")


def names_in(file: Path) -> Iterator[str]:
    """The names that a file defines: its own, its functions', classes' and their attributes'."""
    yield file.parent.name if file.name == "__init__.py" else file.stem
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield node.name
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    yield f"{node.name}.{part.name}"
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    yield f"{node.name}.{part.target.id}"


def words_of(name: str) -> set[str]:
    parts = re.split(r"[._]", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    return {part.lower() for part in parts}


def test_names_are_words_of_the_field():
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in FILES
        for name in names_in(file)
        if words_of(name) & IN_NAMES and name.rpartition(".")[2] not in ALLOWED
    ]
    assert not wrong, "\n".join(wrong)


def test_texts_use_the_words_of_the_glossary():
    wrong = [
        f"{file.relative_to(ROOT)}: {word}"
        for file in FILES
        for word in IN_TEXTS
        if re.search(rf"\b{word}", file.read_text(encoding="utf-8"), flags=re.IGNORECASE)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_glossary_names_them():
    text = GLOSSARY.read_text(encoding="utf-8").lower()
    assert [word for word in (*IN_TEXTS, *IN_NAMES) if word not in text] == []


def test_two_classes_never_share_a_name():
    counts = Counter(
        node.name
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in counts.items() if count > 1] == []


def test_files_that_code_names_are_there():
    known = {path.name for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in FILES
        for name in PAGE_NAME.findall(file.read_text(encoding="utf-8"))
        if Path(name).name not in known
    ]
    assert not wrong, "\n".join(wrong)
