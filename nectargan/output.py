"""All printing of the commands goes through this module, so that printing never ends a run.

Control characters are escaped, because a text may come from a file with any content. Characters
that the encoding of the terminal lacks are replaced. If standard output is closed, a command that
only prints exits without a message, and any other command continues without output.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
import unicodedata
from typing import IO, TYPE_CHECKING, Any, cast

from nectargan.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_READER_GONE = 141  # what a shell reports for a program that was ended by SIGPIPE
_WIDTH_OF_A_PIPE = 200
_ERRORS = "nectargan.plainer"
_PLAINER = {"→": "->", "–": "-", "…": "...", "×": "x", "·": "."}
_PLAINER |= dict(zip("▁▂▃▄▅▆▇█", "_.,-=+*#", strict=True))
# Zero-width joiners, which some scripts need and which do not move the cursor.
_HARMLESS = "\u200c\u200d"


_speaker = {"rank": 0}


def speak_as(rank: int) -> None:
    """Makes `say` speak for one of several processes. Those other than the main one, which has the
    rank 0, print only to standard error, and each of their messages names the rank."""
    _speaker["rank"] = rank


def say(text: str, err: bool = False, nl: bool = True) -> None:
    """Prints a text, made safe by `printable`, to standard output or standard error.

    Args:
        text: The text.
        err: Whether to print to standard error.
        nl: Whether to print a newline at the end.
    """
    if _speaker["rank"]:
        if not err:
            return
        text = f"rank {_speaker['rank']}: {text}"
    # click.echo is not used, because it writes UTF-8 even to an ASCII terminal.
    stream = sys.stderr if err else sys.stdout
    if stream is not None and not stream.closed:
        shown = _fitting(printable(text), stream.encoding)
        print(shown, end="\n" if nl else "", file=stream, flush=True)


def printable(text: str, keep: str = "\n\t") -> str:
    """Escapes the characters of a text that could control a terminal.

    Control and format characters are escaped as in Python source, bytes of a file name that are
    not UTF-8 as ``\\xNN``.

    Args:
        text: The text.
        keep: Control characters that are not escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_harmless(c) else _escaped(c) for c in text)


def _fitting(text: str, encoding: str | None) -> str:
    """Replaces the characters of a text that an encoding lacks."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, errors=_ERRORS).decode(encoding)


def _is_harmless(character: str) -> bool:
    # C: control, format (may reverse the writing direction), surrogate, private, unassigned.
    # Zl and Zp: line and paragraph separators.
    category = unicodedata.category(character)
    return character in _HARMLESS or (category[0] != "C" and category not in ("Zl", "Zp"))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte, by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def make_console(
    stderr: bool = False, file: IO[str] | None = None, width: int | None = None
) -> Console:
    """Makes a rich console for tables and live displays that escapes strings as `say` does.

    Args:
        stderr: Print to standard error instead of standard output.
        file: Print to this file instead.
        width: Columns; by default those of the terminal.
    """
    from rich.console import Console

    class Escaping(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            shown = _fitting(printable(text, keep=""), self.encoding)
            return super().render_str(shown, **options)

    # A pipe has no width, and rich would cut a table to 80 columns.
    if width is None and not Console(stderr=stderr).is_terminal:
        width = _WIDTH_OF_A_PIPE
    return Escaping(file=file, width=width, markup=False, emoji=False, stderr=stderr)


def guard_streams() -> None:
    """Wraps standard output and standard error so that they behave as this module describes.

    Streams that other code has replaced are left unchanged.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The next opened file would get the number of the closed stream, and the output.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # It stays open as long as the process lives.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            raw = _Guarded(getattr(stream.buffer, "raw", stream.buffer), name == "stdout")
            guarded = io.TextIOWrapper(
                io.BufferedWriter(cast(io.RawIOBase, raw)),
                encoding=stream.encoding,
                errors=_ERRORS,
                line_buffering=stream.line_buffering,
            )
            setattr(sys, name, guarded)


def go_on_without_output() -> None:
    """Makes this command continue if its standard output is closed."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Guarded):
        raw.is_vital = False


class _Guarded(io.RawIOBase):
    """A stream that accepts all data, even after the underlying stream has failed.

    Args:
        raw: The underlying stream.
        is_vital: Whether a failure of the stream ends the command.
    """

    def __init__(self, raw: io.RawIOBase, is_vital: bool) -> None:
        self.is_vital = is_vital
        self._raw = raw
        self._is_lost = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        while not self._is_lost:
            try:
                written = self._raw.write(data)
            except OSError as error:
                self._is_lost = True
                if self.is_vital:
                    # Only once: data still in the buffers is discarded when the process ends.
                    self._end(error)
            else:
                if written is not None:
                    return written
                # A parent process made it non-blocking.
                select.select([], [self._raw.fileno()], [])
        return size

    def _end(self, error: OSError) -> None:
        # Windows reports EINVAL for a pipe without a reader.
        if error.errno in (errno.EPIPE, errno.EINVAL):
            raise SystemExit(_READER_GONE)
        raise OutputError(f"Standard output cannot be written: {error.strerror}.") from None


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAINER.get(c, "?") for c in text), error.end


codecs.register_error(_ERRORS, _plainer)
