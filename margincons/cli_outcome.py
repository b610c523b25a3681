"""How a command ends: what went wrong in one line on stderr, and the status that the shell sees."""

import sys
import warnings
from collections.abc import Callable

from margincons.cautions import Caution
from margincons.errors import MarginError, PageError


def outcome(command: Callable[[], int | None], *, name: str = "margincons") -> int:
    """Run a command; cautions and errors of ours are told in one line each, and never with a traceback.

    Args:
        command: What to run; gives an exit status, or None for 0.
        name: What starts each line.

    Returns:
        0; 1 when work failed (a page, a full disk); 2 for wrong use; 130 after Ctrl-C.
    """

    def show(message: Warning, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        text = warnings.formatwarning(message, category, filename, lineno)
        print(f"{name}: {category.__name__}: {message}" if issubclass(category, Caution) else text, file=sys.stderr)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Caution)
            warnings.showwarning = show
            return command() or 0
    except MarginError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1 if isinstance(error, PageError) else 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stdout = None
        return 0
    except OSError as error:  # a full disk, a folder that may not be written to
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; finished files stay, the same command does the rest.", file=sys.stderr)
        return 130
