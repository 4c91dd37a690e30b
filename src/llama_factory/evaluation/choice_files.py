"""Multiple-choice questions by subject, in CSV files as MMLU, CMMLU and C-Eval are given out."""

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, DataError

LETTERS = ("A", "B", "C", "D")
SPLITS = {"train": ("dev", "train"), "validation": ("val", "validation"), "test": ("test",)}
"""Split -> what folders and ends of file names call it."""
ENCODINGS = ("utf-8-sig", "gb18030")


@dataclass(frozen=True)
class LetteredQuestion:
    """One question.

    Attributes:
        text: what is asked.
        options: what each letter stands for.
        answer: the right letter.
        file: where it comes from.
        line: where it ends in that file.
    """

    text: str
    options: dict[str, str]
    answer: str
    file: str
    line: int


@dataclass(frozen=True)
class Subject:
    """The questions of one subject.

    Attributes:
        name: in its files' names.
        title: for people.
        category: that it counts to; empty where none is told.
        asked: of the split that is wanted.
        shown: solved ones, which may stand before a question.
    """

    name: str
    title: str
    category: str
    asked: tuple[LetteredQuestion, ...]
    shown: tuple[LetteredQuestion, ...]


def read_subjects(folder: Path, split: str) -> list[Subject]:
    """All subjects in a folder that have questions of a split, by name.

    Files lie as `test/NAME_test.csv`, `dev/NAME.csv` or the like, in the folder or in a ZIP file
    in it; those without a first line of names hold question, A, B, C, D, answer. A `mapping.json`
    tells the `name` and the `category` of subjects.

    Args:
        folder: with the files.
        split: one of SPLITS.

    Raises:
        ConfigError: there is no such folder, or no question of that split in it.
        DataError: a question cannot be read; with its file and line.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder of multiple-choice questions.")
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    for path, text in _texts(folder):
        if place := _place(path):
            texts.setdefault(place, (str(path), text))
    names = sorted({name for known, name in texts if known == split})
    if not names:
        words = " or ".join(f"{word}/NAME.csv" for word in SPLITS[split])
        raise ConfigError(f"{folder}: holds no questions of the split '{split}' ({words}).")
    about = _about(folder)
    return [_subject(name, split, texts, about.get(name, {})) for name in names]


def _subject(
    name: str, split: str, texts: dict[tuple[str, str], tuple[str, str]], about: dict[str, str]
) -> Subject:
    def read(kind: str) -> tuple[LetteredQuestion, ...]:
        return tuple(_questions(*texts[kind, name])) if (kind, name) in texts else ()

    title = about.get("name", name.replace("_", " "))
    shown = read("train") if split != "train" else ()
    return Subject(name, title, about.get("category", ""), read(split), shown)


def _texts(folder: Path) -> Iterator[tuple[PurePosixPath, str]]:
    """Path in the folder and text of every CSV file; those of ZIP files last."""
    for path in sorted(folder.rglob("*.csv")):
        yield PurePosixPath(path.relative_to(folder)), _text(path.read_bytes(), str(path))
    for path in sorted(folder.glob("*.zip")):
        try:
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if name.endswith(".csv") and not name.startswith("__MACOSX"):
                        yield PurePosixPath(name), _text(archive.read(name), f"{path}: {name}")
        except zipfile.BadZipFile as error:
            raise DataError(f"{path}: this ZIP file cannot be read: {error}") from error


def _text(content: bytes, where: str) -> str:
    for encoding in ENCODINGS:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{where}: this is no text in UTF-8 or GB18030.")


def _place(path: PurePosixPath) -> tuple[str, str] | None:
    """Split and subject of a file."""
    begin, _, end = path.stem.rpartition("_")
    for split, words in SPLITS.items():
        if end in words and begin:
            return split, begin
        if path.parent.name in words:
            return split, path.stem
    return None


def _questions(file: str, text: str) -> Iterator[LetteredQuestion]:
    reader = csv.reader(io.StringIO(text))
    places: dict[str, int] = {}
    for row in reader:
        if not places:
            places = _places(row)
            if _is_header(row):
                continue
        if any(cell.strip() for cell in row):
            yield _question(row, places, file, reader.line_num)


def _is_header(row: list[str]) -> bool:
    return "question" in {cell.strip().lower() for cell in row}


def _places(row: list[str]) -> dict[str, int]:
    """Column of the question, of each option and of the answer."""
    names = ("question", *map(str.lower, LETTERS), "answer")
    if not _is_header(row):
        return {name: number for number, name in enumerate(names)}
    header = [cell.strip().lower() for cell in row]
    return {name: header.index(name) for name in names if name in header}


def _question(row: list[str], places: dict[str, int], file: str, line: int) -> LetteredQuestion:
    cells = {name: row[at].strip() for name, at in places.items() if at < len(row)}
    if len(cells) < len(LETTERS) + 2:
        raise DataError(f"{file}:{line}: a row needs a question, A, B, C, D and the answer.")
    answer = cells["answer"].upper()
    if answer not in LETTERS:
        told = f"the answer must be one of {', '.join(LETTERS)}; it is '{cells['answer']}'."
        raise DataError(f"{file}:{line}: {told}")
    options = {letter: cells[letter.lower()] for letter in LETTERS}
    return LetteredQuestion(cells["question"], options, answer, file, line)


def _about(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / "mapping.json"
    if not path.is_file():
        return {}
    try:
        found = files.read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: no JSON can be read here: {error}") from error
    if not (isinstance(found, dict) and all(isinstance(each, dict) for each in found.values())):
        raise DataError(f'{path}: must hold {{"subject": {{"name": ..., "category": ...}}}}.')
    return found
