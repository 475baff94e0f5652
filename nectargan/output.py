"""What is printed: every line passes through here, and none of them can end a run.

Text that came from a file may hold anything; it is printed escaped. A terminal of another encoding
gets replacements for what it cannot show. Output that nobody takes any more ends a command that
only prints, without a word; one that has more to do goes on in silence.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, cast

from nectargan.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_READER_GONE = 141  # as a shell has it for a program that SIGPIPE ended
_WIDTH_OF_A_PIPE = 200
_ERRORS = "nectargan.plainer"
_PLAINER = {"→": "->", "–": "-", "…": "...", "×": "x", "·": "."}
_PLAINER |= dict(zip("▁▂▃▄▅▆▇█", "_.,-=+*#", strict=True))
# Joiners, which some scripts are spelt with, and which move nothing on the screen.
_HARMLESS = "\u200c\u200d"


def say(text: str, err: bool = False, nl: bool = True) -> None:
    """Prints a text to standard output, or to standard error; see `printable`."""
    # Not by click, which sends UTF-8 to terminals that say they take ASCII.
    stream = sys.stderr if err else sys.stdout
    if stream is not None and not stream.closed:
        shown = _fitting(printable(text), stream.encoding)
        print(shown, end="\n" if nl else "", file=stream, flush=True)


def printable(text: str, keep: str = "\n\t") -> str:
    """A text that does nothing to a terminal: control characters and such are escaped as in Python,
    bytes of a file name that are not UTF-8 as ``\\xNN``."""
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_harmless(c) else _escaped(c) for c in text)


def _fitting(text: str, encoding: str | None) -> str:
    """A text with replacements for what an encoding cannot show."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, errors=_ERRORS).decode(encoding)


def _is_harmless(character: str) -> bool:
    # Other: control, format (which turns the direction of writing), surrogate, private, unknown.
    # Line and paragraph separators.
    category = unicodedata.category(character)
    return character in _HARMLESS or (category[0] != "C" and category not in ("Zl", "Zp"))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte, by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def make_console() -> Console:
    """Where tables and live displays are printed; strings in them are escaped as by `say`."""
    from rich.console import Console

    class Escaping(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            shown = _fitting(printable(text, keep=""), self.encoding)
            return super().render_str(shown, **options)

    # A pipe has no width of its own; a table that was cut to 80 columns would be of no use there.
    width = None if Console().is_terminal else _WIDTH_OF_A_PIPE
    return Escaping(width=width, markup=False, emoji=False)


def guard_streams() -> None:
    """Makes standard output and error of this process as the head of this module says.

    Streams that somebody else put in their place are left alone.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Closed: the next file to be opened would have its number, and get what is printed.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
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
    """Says that this command has more to do than to print: it goes on if nobody reads it."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, _Guarded):
        raw.is_vital = False


class _Guarded(io.RawIOBase):
    """A stream that takes everything, also when it cannot pass it on any more.

    Args:
        raw: The stream.
        is_vital: Whether the command is to end then.
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
                    # Once: what is left in the buffers is swallowed at the end.
                    self._end(error)
            else:
                if written is not None:
                    return written
                # A parent process made it non-blocking.
                select.select([], [self._raw.fileno()], [])
        return size

    def _end(self, error: OSError) -> None:
        # Windows says EINVAL for a pipe without a reader.
        if error.errno in (errno.EPIPE, errno.EINVAL):
            raise SystemExit(_READER_GONE)
        raise OutputError(f"Standard output cannot be written: {error.strerror}.") from None


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAINER.get(c, "?") for c in text), error.end


codecs.register_error(_ERRORS, _plainer)
