"""How every verb reads its words, and says what is wrong with them.

tyro parses, and takes the help of a flag from its docstring; its error boxes never appear, because
errors have one form throughout the command line. No torch is loaded here, so that a
misspelt flag is answered at once.
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
from sparring.records.text import did_you_mean, nearest

PLAIN = tyro.conf.arg(help_behavior_hint="")
"""For a flag whose docstring says what leaving it out means."""

Flags = TypeVar("Flags")
Value = TypeVar("Value")


class _Refused(Exception):
    """Carries a refused value through tyro, which would put any `ValueError` into a box."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form(Generic[Flags]):
    """What one verb may be given: its flags, and words beside them."""

    verb: str
    """The verb."""
    flags: type[Flags]
    """A record; its fields are the flags and their docstrings the help."""
    about: str
    """What `--help` says before the flags."""
    word: str = ""
    """Name of the word beside the flags, such as RUN; empty if there is none."""
    many: bool = False
    """Whether there may be any number of such words, to be read by `read_all`; else one at most."""
    then: str = ""
    """Name of the words after the first, if there may be many and they are of another kind; NAME
    after a choice such as list|show|run."""
    needed: int = 0
    """How many words the help shows as needed; the verb itself refuses fewer."""
    otherwise: str = ""
    """Advice for a flag that does not exist and resembles none that does."""

    def read(self, argv: Sequence[str]) -> tuple[Flags, str | None]:
        """Values of the flags, and the word beside them if one was given.

        Otherwise as `read_all`.
        """
        flags, words = self.read_all(argv)
        return flags, words[0] if words else None

    def read_all(self, argv: Sequence[str]) -> tuple[Flags, list[str]]:
        """Values of the flags, and all words beside them.

        Prints the help and raises `SystemExit` for `--help`. Raises `ConfigError`, with the
        nearest name, for anything that cannot be meant.
        """
        if "--help" in argv or "-h" in argv:
            print(self._help())
            raise SystemExit(0)
        flags, rest = self._parse(argv)
        for word in rest:
            if word.startswith("-"):
                raise self._unknown(word.partition("=")[0])
        if len(rest) > bool(self.word) and not self.many:
            only = f"one word, {self.word}," if self.word else "no word"
            raise ConfigError(
                f"sparring {self.verb} takes {only} beside its flags; got {shlex.join(rest)}. "
                f"See sparring {self.verb} --help."
            )
        return flags, rest

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

        Written to anything but a UTF-8 stream, tyro's list comes without a box.
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
        advice = near or f" See sparring {self.verb} --help.{self.otherwise}"
        return ConfigError(f"sparring {self.verb} has no flag {flag}.{advice}")

    def _without_value(self, argv: Sequence[str]) -> ConfigError:
        valued = self._names(with_value=True)
        after = [*argv[1:], ""]
        for word, follower in zip(argv, after, strict=True):
            if word.replace("_", "-") in valued and (not follower or follower.startswith("-")):
                return ConfigError(
                    f"{word} must be followed by its value; got {follower or 'nothing'}. "
                    f"See sparring {self.verb} --help."
                )
        return ConfigError(
            f"the flags must be followed by one value each; got {shlex.join(argv)}. "
            f"See sparring {self.verb} --help."
        )

    def _names(self, *, with_value: bool = False) -> list[str]:
        return [
            "--" + field.name.replace("_", "-")
            for field in fields(self.flags)  # pyright: ignore[reportArgumentType]
            if not (with_value and isinstance(field.default, bool))
        ]


def flag(
    name: str, convert: Callable[[str], Value], metavar: str
) -> PrimitiveConstructorSpec[Value]:
    """Reads a flag's value by `convert`, whose `ValueError` becomes the message to the user."""

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
    """As `flag`, for one value or more; all words up to the next flag are its values."""
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


def run_or_newest(name: str) -> PrimitiveConstructorSpec[Path]:
    """As `flag`, for a run directory: the newest in `runs/` where no path follows."""
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
    """A path. Raises `Refusal` for none at all, which an unset shell variable leaves behind."""
    if not text:
        raise Refusal("a path", text)
    return Path(text)


def source(text: str) -> str:
    """The name or path of a data set. Raises `Refusal` for none at all."""
    if not text:
        raise Refusal("mnist or a path", text)
    return text


def one_of(*names: str) -> Callable[[str], str]:
    """A converter that lets only these names pass and suggests the nearest."""

    def convert(text: str) -> str:
        if text not in names:
            hint = did_you_mean(nearest(text, names))
            raise Refusal(f"one of {', '.join(names)}", text, hint)
        return text

    return convert
