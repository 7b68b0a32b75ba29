"""Text files as streams: encodings, byte order marks, compression, and files that change or end too early.

Every failure is a `DataError` that names the file and, for text, the line.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from llmrec.config import DataConfig
from llmrec.data.readers.unchanged import changed, watch
from llmrec.errors import DataError
from llmrec.files import file_state

_BLOCK = 1 << 20  # bytes read at a time where a file is scanned
# Byte order marks. That of UTF-32 begins with that of UTF-16, so it comes first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class TextFormat:
    """How text files are read: values of the config that hold for every file of a log.

    Attributes:
        encoding: encoding of the files; None for UTF-8, or what a byte order mark names.
        separator: text between two fields of the files whose header shows no other; None for the one that it shows.
        skip: whether rows that cannot be used are left out and counted.
    """

    encoding: str | None = None
    separator: str | None = None
    skip: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> "TextFormat":
        """The values of a `data` section."""
        return cls(config.encoding, config.separator, config.bad_rows == "skip")


UTF_8 = TextFormat()


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[io.TextIOWrapper]:
    """Opens a text file, decompressed if its name ends in `.gz`. Line ends stay as they are.

    Args:
        path: the file.
        encoding: its encoding, see `encoding_of_file`.

    Raises:
        DataError: the file cannot be read, decompressed or decoded, or has changed in the meantime.
    """
    try:
        before = file_state(path)
        with opened(path) as binary:
            yield io.TextIOWrapper(binary, encoding, newline="")
    except UnicodeDecodeError:
        raise _undecodable(path, encoding) from None
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None
    if not path.exists() or file_state(path) != before:
        raise changed(path)


def opened(path: Path) -> BinaryIO:
    """A file for reading bytes, decompressed if its name ends in `.gz`."""
    watch(path)
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def encoding_of_file(path: Path, text: TextFormat = UTF_8, fallback: str | None = None) -> str:
    """The encoding of a file: the configured one, else that of its byte order mark, else UTF-8.

    Args:
        path: the file.
        text: the configured encoding.
        fallback: encoding of a file that is not UTF-8, if none is configured.

    Raises:
        DataError: the file cannot be read, or has zero bytes, as UTF-16 without a byte order mark has.
    """
    if text.encoding is not None:
        return text.encoding
    try:
        with opened(path) as binary:
            start = binary.read(1000)
        marked = next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), None)
        if marked is None and b"\0" in start:
            raise DataError(
                f"{path}: not UTF-8 text (it holds zero bytes); expected UTF-8, or UTF-16 with a byte order mark. "
                "Set `data.encoding`, such as utf-16-le, or convert the file."
            )
        encoding = marked or "utf-8"
        return encoding if fallback is None or _first_undecodable(path, encoding) is None else fallback
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None


def read_text(path: Path, text: TextFormat = UTF_8) -> str:
    """Reads a whole text file.

    Args:
        path: the file; it may end in `.gz`.
        text: the configured encoding.

    Raises:
        DataError: the file cannot be read, decompressed or decoded.
    """
    with open_text(path, encoding_of_file(path, text)) as stream:
        return stream.read()


def unreadable(path: Path, error: Exception) -> DataError:
    """The error for a file that the system cannot read."""
    return DataError(f"{path}: cannot be read: {str(error).rstrip('.')}. Check the file, or fetch it again.")


def _undecodable(path: Path, encoding: str) -> DataError:
    line, reason = _first_undecodable(path, encoding) or (1, "it changed while it was read")
    return DataError(
        f"{path}, line {line}: not {encoding} text ({reason}). Set `data.encoding`, such as cp1252 or latin-1, or "
        "convert the file, e.g. with iconv."
    )


def _first_undecodable(path: Path, encoding: str) -> tuple[int, str] | None:
    """Line and reason of the first bytes that are not text in an encoding; None if there are none."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with opened(path) as binary:
        while True:
            block = binary.read(_BLOCK)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # Bytes that the decoder has held back are the beginning of a character, so they hold no line break.
                return line + error.object[: error.start].count(b"\n"), error.reason
            if not block:
                return None
            line += block.count(b"\n")
