"""The parsing of every verb's words, and its errors.

tyro parses, and takes the help of a flag from its docstring. Its error boxes never appear, because
all errors have one form. No torch is loaded here, so a misspelt flag is reported at once.
"""

import io
import math
import shlex
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Generic, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from sparring.errors import ConfigError
from sparring.records import RunDirectory
from sparring.records.codec import Refusal
from sparring.records.files import from_home
from sparring.records.text import did_you_mean, nearest

PLAIN = tyro.conf.arg(help_behavior_hint="")
"""For a flag whose docstring has its default."""

Flags = TypeVar("Flags")
Value = TypeVar("Value")


class _Refused(Exception):
    """Carries a message through tyro, which would put a `ValueError` into a box."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form(Generic[Flags]):
    """The flags and words of one verb."""

    verb: str
    flags: type[Flags]
    """A record; its fields are the flags and their docstrings the help."""
    about: str
    """The text of `--help` before the flags."""
    word: str = ""
    """Name of the word beside the flags, such as RUN; empty if there is none."""
    many: bool = False
    """Whether any number of words is allowed, read by `read_all`; else one at most."""
    then: str = ""
    """Name of further words of another kind; NAME after a choice such as list|show|run."""
    needed: int = 0
    """Number of words that the help shows as needed; the verb itself refuses fewer."""
    otherwise: str = ""
    """Advice for a flag that does not exist and resembles none that does."""

    def read(self, argv: Sequence[str]) -> tuple[Flags, str | None]:
        """Values of the flags, and the word beside them, if any; otherwise as `read_all`."""
        flags, words = self.read_all(argv)
        return flags, words[0] if words else None

    def read_all(self, argv: Sequence[str]) -> tuple[Flags, list[str]]:
        """Values of the flags, and all words beside them.

        Prints the help and raises `SystemExit` for `--help`. Raises `ConfigError`, with the
        nearest name.
        """
        if "--help" in argv or "-h" in argv:
            print(self._help())
            raise SystemExit(0)
        flags, rest = self._parse(argv)
        for word in rest:
            if word.startswith("-"):
                raise self._unknown(word.partition("=")[0])
        if "" in rest:
            rule = f"the words of sparring {self.verb} must not be empty"
            raise ConfigError.expected(rule, shlex.join(rest), "Is a variable of the shell unset?")
        if len(rest) > bool(self.word) and not self.many:
            only = f"one word, {self.word}," if self.word else "no word"
            rule = f"sparring {self.verb} takes {only} beside its flags"
            raise ConfigError.expected(rule, shlex.join(rest), self._advice)
        return flags, rest

    @property
    def _advice(self) -> str:
        return f"See sparring {self.verb} --help."

    def _parse(self, argv: Sequence[str]) -> tuple[Flags, list[str]]:
        try:
            return tyro.cli(
                self.flags,
                prog=f"sparring {self.verb}",
                args=argv,
                config=(tyro.conf.FlagCreatePairsOff,),
                return_unknown_args=True,
                console_outputs=False,
            )
        except _Refused as refused:
            raise ConfigError(str(refused)) from refused
        except SystemExit as leave:
            if not leave.code:
                raise
            raise self._without_value(argv) from leave

    def _help(self) -> str:
        """Our usage line and examples, then tyro's list of flags.

        The list has no box, because the stream is not UTF-8.
        """
        page = io.StringIO()
        with redirect_stdout(page), suppress(SystemExit):
            tyro.cli(
                self.flags,
                args=["--help"],
                description="",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        lines = page.getvalue().partition(" options")[2].splitlines()
        flags = [line.rstrip() for line in lines if line.strip(" -")]
        return "\n".join(
            [
                " ".join(["usage: sparring", self.verb, *self._words(), "[--FLAG ...]"]),
                "",
                self.about,
                "",
                "flags:",
                *flags,
            ]
        )

    def _words(self) -> list[str]:
        """The words beside the flags, as a usage line has them."""
        then = self.then or ("NAME" if "|" in self.word else self.word)
        if not self.many:
            shown = self.word
        elif then == self.word:
            shown = " ".join([*[self.word] * max(1, self.needed), "..."])
        else:
            shown = f"{self.word} [{then} ...]"
        return [shown if self.needed else f"[{shown}]"] if shown else []

    def _unknown(self, flag: str) -> ConfigError:
        near = did_you_mean(nearest(flag, self._names()))
        advice = near or f" {self._advice}{self.otherwise}"
        return ConfigError(f"sparring {self.verb} has no flag {flag}.{advice}")

    def _without_value(self, argv: Sequence[str]) -> ConfigError:
        valued = self._names(with_value=True)
        after = [*argv[1:], ""]
        for word, follower in zip(argv, after, strict=True):
            if word.replace("_", "-") in valued and (not follower or follower.startswith("-")):
                rule = f"{word} must be followed by its value"
                return ConfigError.expected(rule, follower or "nothing", self._advice)
        rule = "the flags must be followed by one value each"
        return ConfigError.expected(rule, shlex.join(argv), self._advice)

    def _names(self, *, with_value: bool = False) -> list[str]:
        return [
            "--" + field.name.replace("_", "-")
            for field in fields(self.flags)  # pyright: ignore[reportArgumentType]
            if not (with_value and isinstance(field.default, bool))
        ]


def flag(
    name: str, convert: Callable[[str], Value], metavar: str
) -> PrimitiveConstructorSpec[Value]:
    """Reads a flag's value by `convert`, whose `ValueError` becomes the error message."""

    def value(words: list[str]) -> Value:
        try:
            return convert(words[0])
        except Refusal as refusal:
            raise _Refused(f"{name} {refusal}") from refusal
        except ValueError as error:
            raise _Refused(str(error)) from error

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=value,
        is_instance=lambda _: True,
        str_from_instance=lambda instance: [str(instance)],
    )


def several(
    name: str, convert: Callable[[str], Value], metavar: str
) -> PrimitiveConstructorSpec[tuple[Value, ...]]:
    """As `flag`, for one value or more, up to the next flag."""
    one = flag(name, convert, metavar)

    def values(words: list[str]) -> tuple[Value, ...]:
        if not words:
            raise _Refused(f"{name} must be followed by a value or more; got nothing.")
        return tuple(one.instance_from_str([word]) for word in words)

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=values,
        is_instance=lambda _: True,
        str_from_instance=lambda instance: [str(value) for value in instance],
    )


def pairs(name: str) -> PrimitiveConstructorSpec[tuple[str, ...]]:
    """As `several`, for texts such as K=V, each name once."""
    some = several(name, str, "K=V ...")

    def values(words: list[str]) -> tuple[str, ...]:
        names = [word.partition("=")[0] for word in words]
        for each in names:
            if names.count(each) > 1:
                raise _Refused(f"{name} must give each name once; got {each} more than once.")
        return some.instance_from_str(words)

    return replace(some, instance_from_str=values)


def run_or_newest(name: str) -> PrimitiveConstructorSpec[Path]:
    """As `flag`, for a run directory; without a path, the newest in `runs/`."""
    one = flag(name, path, "RUN")

    def value(words: list[str]) -> Path:
        if len(words) > 1:
            raise _Refused(f"{name} takes one run; got {shlex.join(words)}.")
        return one.instance_from_str(words) if words else RunDirectory.chosen().path

    return replace(one, nargs="*", instance_from_str=value)


def whole(text: str) -> int:
    """An integer. Raises `Refusal`."""
    try:
        return int(text)
    except ValueError as error:
        raise Refusal("an integer", text) from error


def number(text: str) -> float:
    """A number, or a fraction such as 125.3/255. Raises `Refusal`."""
    above, slash, below = text.partition("/")
    try:
        found = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not math.isfinite(found):
        raise Refusal("a number, such as 0.1307 or 125/255", text)
    return found


def path(text: str) -> Path:
    """A path. Raises `Refusal` for an empty one, as of an unset shell variable."""
    if not text:
        raise Refusal("a path", text)
    try:
        return from_home(text)
    except ConfigError as error:
        raise Refusal("a path, after ~ the name of a user of this machine", text) from error


def source(text: str) -> str:
    """The name or path of a data set. Raises `Refusal` for an empty one."""
    if not text:
        raise Refusal("mnist or a path", text)
    return text


def one_of(*names: str) -> Callable[[str], str]:
    """A converter that accepts only these names and suggests the nearest."""

    def convert(text: str) -> str:
        if text not in names:
            hint = did_you_mean(nearest(text, names))
            raise Refusal(f"one of {', '.join(names)}", text, hint)
        return text

    return convert
