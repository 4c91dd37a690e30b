"""Files -> bytes to read: decompressed, and text as UTF-8 whatever it was written in."""

import codecs
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llama_factory.core.errors import ConfigError, DataError, suggest
from llama_factory.data import file_sentences as texts

HEAD_BYTES = 64 * 1024
"""Of a file, this much is looked at to find what it is."""
CHUNK_BYTES = 256 * 1024
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PACKED_SUFFIXES = (".gz", ".zst", ".zstd")
BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
"""Longer marks first: that of UTF-32 begins as that of UTF-16."""


@dataclass
class Opened:
    """A file about to be read.

    Attributes:
        path: where it is.
        head: its first bytes, decompressed.
        packing: gzip, zstd or nothing.
        encoding: of its text.
        damage: why the rest of a compressed file could not be read, once that is known.
    """

    path: Path
    head: bytes = b""
    packing: str = ""
    encoding: str = "utf-8"
    damage: str = field(default="", compare=False)

    @property
    def file(self) -> str:
        """The name that rows and refusals carry."""
        return self.path.name

    def text(self) -> IO[bytes]:
        """Its text as UTF-8 without a mark; bytes that are wrong in its encoding stay wrong."""
        stream = self._unpacked()
        if self.encoding == "utf-8":
            return stream
        if self.encoding == "utf-8-sig":
            stream.read(len(codecs.BOM_UTF8))
            return stream
        return io.BufferedReader(_Recoded(stream, self.encoding), CHUNK_BYTES)

    def binary(self) -> IO[bytes]:
        """Its bytes, from a place in which one can seek."""
        if not self.packing:
            return self.path.open("rb")
        copy = tempfile.TemporaryFile()  # noqa: SIM115  # the reader closes it
        shutil.copyfileobj(self._unpacked(), copy, CHUNK_BYTES)
        copy.seek(0)
        return copy

    def _unpacked(self) -> IO[bytes]:
        stream = self.path.open("rb", buffering=CHUNK_BYTES)
        if not self.packing:
            return stream
        unpack = _gunzip(stream) if self.packing == "gzip" else _unzstd(stream)
        return io.BufferedReader(_Unpacked(unpack, stream, self), CHUNK_BYTES)


def open_file(path: Path, encoding: str | None = None) -> Opened:
    """Look at a file: how it is compressed and encoded.

    Args:
        path: a file.
        encoding: of its text; None finds it by its mark, and takes UTF-8 without one.

    Raises:
        DataError: it cannot be read, or is empty.
        ConfigError: there is no such encoding.
    """
    magic = _magic_of(path)
    packing = "gzip" if magic.startswith(GZIP) else "zstd" if magic == ZSTD else ""
    opened = Opened(path, packing=packing)
    with opened._unpacked() as stream:
        opened.head = stream.read(HEAD_BYTES)
    if not opened.head:
        raise DataError(opened.damage or texts.NOTHING_SAVED())
    opened.damage = ""
    marked = _encoding_of(opened.head)
    wanted = known_encoding(encoding) if encoding else marked
    opened.encoding = marked if marked.startswith(wanted) else wanted
    return opened


def _magic_of(path: Path) -> bytes:
    """The first bytes of a file, by which compressed ones are known."""
    if path.is_dir():
        raise DataError(texts.IS_FOLDER())
    if path.exists() and not path.is_file():
        raise DataError(texts.IS_DEVICE())
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise DataError(texts.NOT_READABLE(error=error.strerror)) from error


def known_encoding(name: str) -> str:
    """The standard name of an encoding.

    Raises:
        ConfigError: there is none of this name.
    """
    try:
        standard = codecs.lookup(name).name
        "".encode(standard)
    except LookupError:
        from encodings.aliases import aliases

        hint = suggest(name.lower(), {*aliases, *aliases.values()})
        raise ConfigError(f"data.encoding: '{name}' is no encoding.{hint}") from None
    return standard


def _encoding_of(head: bytes) -> str:
    return next((name for mark, name in BOMS.items() if head.startswith(mark)), "utf-8")


class _Unpacked(io.RawIOBase):
    """Decompressed bytes; they end where the data is damaged, with the reason in `damage`."""

    def __init__(self, read: Callable[[int], bytes], source: IO[bytes], opened: Opened) -> None:
        self._read, self._source, self._opened = read, source, opened

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._opened.damage:
            return 0
        try:
            data = self._read(len(buffer))
        except (OSError, EOFError, zlib.error, DataError) as error:
            self._opened.damage = texts.PACKED_DAMAGED(packing=self._opened.packing, error=error)
            return 0
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._source.close()
        super().close()


def _gunzip(stream: IO[bytes]) -> Callable[[int], bytes]:
    unpacked = gzip.GzipFile(fileobj=stream)
    return unpacked.read1


ZSTD_STEP = 1024
"""Compressed bytes taken at a time: even the tightest packed of them fit in memory."""


def _unzstd(stream: IO[bytes]) -> Callable[[int], bytes]:
    import zstandard

    frame = zstandard.ZstdDecompressor().decompressobj()
    ready = b""

    def read(size: int) -> bytes:
        nonlocal frame, ready
        while not ready:
            packed = frame.unused_data if frame.eof else b""
            packed = packed or stream.read(ZSTD_STEP)
            if not packed:
                if frame.eof:
                    return b""
                raise DataError("it ends too early")
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            try:
                ready = frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise DataError(str(error)) from None
        part, ready = ready[:size], ready[size:]
        return part

    return read


class _Recoded(io.RawIOBase):
    """Text in another encoding as UTF-8. Wrong bytes stay in it, where decoding finds them."""

    def __init__(self, source: IO[bytes], encoding: str) -> None:
        is_wide = encoding.startswith(("utf-16", "utf-32"))
        self._errors = "surrogatepass" if is_wide else "surrogateescape"
        self._decoder = codecs.getincrementaldecoder(encoding)(self._errors)
        self._source, self._encoding, self._ready = source, encoding, b""
        self._is_done = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._is_done:
            self._ready = self._next()
        part = self._ready[: len(buffer)]
        self._ready = self._ready[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def _next(self) -> bytes:
        data = self._source.read(CHUNK_BYTES)
        self._is_done = not data
        try:
            return self._decoder.decode(data, self._is_done).encode("utf-8", self._errors)
        except UnicodeError as error:
            if self._is_done:
                return b"\xff"
            raise DataError(texts.NOT_ENCODED(encoding=self._encoding, error=error)) from None

    def close(self) -> None:
        self._source.close()
        super().close()
