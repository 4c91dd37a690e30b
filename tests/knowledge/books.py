"""Small libraries of documents, and files of kinds that are not written by hand."""

import io
import tempfile
import zipfile
from pathlib import Path

from llama_factory.knowledge.documents import OpenedDocument
from llama_factory.knowledge.readers import read_blocks
from llama_factory.knowledge.refresh import Library
from llama_factory.knowledge.retrieval import Retriever
from llama_factory.knowledge.settings import KnowledgeLimits, KnowledgeSettings

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'

SHEET = """\
# Lamp L7

## Warranty

The warranty of the lamp L7 is 31 months.

## Delivery

Parcels arrive within 5 days. Returns are free within 14 days.
"""
SHEET_ZH = """\
# 台灯 L7

## 保修

台灯 L7 的保修期为三十一个月。

## 退货

收到商品后十四天内可以退货。
"""


def blocks(data: bytes, name: str, **limits):
    """The blocks of a file with these bytes."""
    return list(opened(data, name, **limits)[1])


def opened(data: bytes, name: str, **limits):
    file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the blocks are read
    file.write(data)
    file.seek(0)
    document = OpenedDocument(name, file, KnowledgeLimits(**limits))
    return document, read_blocks(document, len(data))


def texts(data: bytes, name: str, **limits):
    return [each.text for each in blocks(data, name, **limits)]


def library(folder: Path, **settings) -> Library:
    """An empty library whose files are old: no clock of the machine matters."""
    (folder / "knowledge").mkdir(parents=True, exist_ok=True)
    chosen = KnowledgeSettings(**settings)
    return Library(folder / "knowledge", folder / "index.db", chosen, now=lambda: 1e12)


def filled(folder: Path, **settings) -> Retriever:
    """A library with two product sheets."""
    books = library(folder, **settings)
    (books.folder / "lamp.md").write_text(SHEET, encoding="utf-8")
    (books.folder / "台灯.md").write_text(SHEET_ZH, encoding="utf-8")
    books.refresh()
    return Retriever(books)


def docx(body: str, styles: str = "", head: str = "") -> bytes:
    """A Word document with this body."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        text = f"<?xml version='1.0'?>{head}<w:document {W}><w:body>{body}</w:body></w:document>"
        file.writestr("word/document.xml", text)
        if styles:
            file.writestr("word/styles.xml", f"<w:styles {W}>{styles}</w:styles>")
    return packed.getvalue()


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    data, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{each}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size, start = len(objects) + 1, len(data)
    data += f"xref\n0 {size}\n0000000000 65535 f \n{table}".encode()
    return data + f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode()
