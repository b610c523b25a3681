"""What the command line reads: numbers, seeds, pairs of a name and a value; what is wrong is said in one line."""

import argparse
import math


def number(text: str) -> float:
    """Read 0.1 as well as 8/255."""
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / (float(bottom) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number such as 0.1 or 8/255, got {text[:40]!r}")
    return value


def whole(text: str) -> int:
    """Read a whole number below 2^31."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text[:40]!r}") from None
    if value >= 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number below {2**31}, got {text[:40]!r}")
    return value


def seed(text: str) -> int:
    """Read a seed that every generator takes."""
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 999999999, got {text[:40]!r}")
    return int(text)


def seconds(text: str) -> float:
    """Read a positive number of seconds."""
    if not (value := number(text)) > 0:
        raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, got {text[:40]!r}")
    return value


def count(text: str) -> int:
    """Read a whole number of 1 or more."""
    if not text.isdecimal() or (value := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text[:40]!r}")
    return value


def batch_size(text: str) -> int | str:
    """Read a whole number, or auto."""
    if text == "auto":
        return text
    try:
        return whole(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected a whole number or auto, got {text[:40]!r}") from None


class Parameter(argparse.Action):
    """Collect ``-p name value`` pairs, the value read as YAML would read it."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Add one pair to those read before."""
        import yaml

        name, text = values
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-99-99
            parser.error(f"expected the value of {name} as YAML would write it, got {text[:200]!r}")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (name, value)])


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with an option; the usage is a --help away."""

    def error(self, message: str) -> None:
        """Exit with code 2 and one line."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")
