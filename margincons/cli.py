"""The command line: `margincons book | measure | report | models | train`."""

import argparse
import sys
from collections.abc import Sequence

from margincons.errors import MarginError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0, 1 when work failed (a page, a retrained network that disagrees), 2 for wrong use.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except MarginError as error:
        print(f"margincons: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("margincons: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace) -> int:
    from margincons.zoo.training import retrain

    outcomes = [retrain(model_id, out=options.out, seed=options.seed, progress=True) for model_id in options.models]
    for outcome in outcomes:
        print(outcome)
    return 0 if all(outcome.agrees for outcome in outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="margincons")
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train")
    train.add_argument("models", nargs="+")
    train.add_argument("--out", default="runs/train")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=_train)
    return parser


if __name__ == "__main__":
    sys.exit(main())
