"""A program that is run once a trial, without a shell, and what becomes of its output."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from optformer.errors import ConfigError, did_you_mean

_KEPT = 1 << 20  # bytes of output: a metric stands near the end
_KEPT_ERRORS = 4096
_SECONDS_TO_READ = 5.0
# {name} stands for a value, {{name}} for the text {name}.
_PLACE = re.compile(r"\{\{([^{}]*)\}\}|\{([^{}]*)\}")
_IDENTIFIER = re.compile(r"[A-Za-z_][\w ./-]*")
# Stand for a parameter while the command is split into words; no command has them.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


class FailedError(Exception):
    """A run of a program that failed, and why."""


class Program:
    """A command line with places for parameters.

    It holds the processes that are running, so that `stop` can end them.

    Args:
      timeout: seconds that a run may take; None for as long as it likes.

    Raises:
      ConfigError: a parameter has no place in the command, a place no parameter, or there is no
        such program.
    """

    def __init__(self, command: str, names: Sequence[str], *, timeout: float | None = None) -> None:
        self._names = tuple(names)
        self._timeout = timeout
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        marked = _PLACE.sub(self._mark, command)
        try:
            self._words = shlex.split(marked)
        except ValueError as error:
            raise ConfigError(f"the command {command!r} cannot be split: {error}.") from error
        if not self._words:
            raise ConfigError("the command is empty. Name a program, as in `python train.py {lr}`.")
        for index, name in enumerate(names):
            if f"{_OPEN}{index}{_CLOSE}" not in marked:
                raise ConfigError(
                    f"parameter {name!r} has no place in the command {command!r}. Write "
                    f"{{{name}}} where its value goes."
                )
        program = self._words[0]
        if not _MARK.search(program) and shutil.which(program) is None:
            raise ConfigError(f"there is no program {program!r} that can be run. Check its path.")

    def _mark(self, place: re.Match[str]) -> str:
        literal, name = place[1], place[2]
        if literal is not None:
            return f"{{{literal}}}"
        if name in self._names:
            return f"{_OPEN}{self._names.index(name)}{_CLOSE}"
        if _IDENTIFIER.fullmatch(name):
            raise ConfigError(
                f"{place[0]} in the command is not a parameter; those are {', '.join(self._names)}."
                f"{did_you_mean(name, self._names)} For the text itself write {{{place[0]}}}."
            )
        return place[0]

    def line(self, values: Mapping[str, str]) -> list[str]:
        """The words of the command with these values; that of an inactive parameter is empty."""
        return [
            _MARK.sub(lambda mark: values.get(self._names[int(mark[1])], ""), word)
            for word in self._words
        ]

    def run(self, values: Mapping[str, str]) -> str:
        """The end of the program's standard output; its standard error is passed on as it comes.

        Raises:
          FailedError: it ended with another status than 0, or took too long.
        """
        words = self.line(values)
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that its children end with it
            )
        except (OSError, ValueError) as error:
            raise FailedError(f"it cannot be run: {error}.") from error
        self._running.add(process)
        if self._stopped:
            _kill(process)
        tails: list[bytearray] = [bytearray(), bytearray()]
        readers = [
            threading.Thread(target=_read, args=arguments, daemon=True)
            for arguments in (
                (process.stdout, tails[0], _KEPT, False),
                (process.stderr, tails[1], _KEPT_ERRORS, True),
            )
        ]
        for reader in readers:
            reader.start()
        try:
            status = process.wait(self._timeout)
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"it took longer than --timeout {self._timeout:g} s.") from error
        finally:
            if process.poll() is None:
                _kill(process)
                process.wait()
            for reader in readers:
                reader.join(_SECONDS_TO_READ)  # what it left running may hold the pipes open
            self._running.discard(process)
        output, errors = (tail.decode("utf-8", errors="replace") for tail in tails)
        if status:
            ended = f"status {status}" if status > 0 else f"signal {-status}"
            lines = [line.strip() for line in errors.splitlines() if line.strip()]
            said = f": {lines[-1][:200]}" if lines else ", and said nothing"
            raise FailedError(f"it ended with {ended}{said}")
        return output

    def stop(self) -> None:
        """Ends the runs of now, and those that begin later."""
        self._stopped = True
        for process in list(self._running):
            if process.poll() is None:
                _kill(process)


def _read(stream: IO[bytes], tail: bytearray, most: int, passed_on: bool) -> None:
    """Keeps the end of a stream."""
    while chunk := os.read(stream.fileno(), 65536):
        if passed_on:
            sys.stderr.write(chunk.decode("utf-8", errors="replace"))
            sys.stderr.flush()
        tail += chunk
        del tail[:-most]
    stream.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that has not been waited for, and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
