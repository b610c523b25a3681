"""A reader's own session: cells of pages, as JSON on standard input, run one by one in a fresh namespace per page.

Run by tests/test_reader.py as a process of its own, so that it imports whatever package its interpreter finds.
"""

import json
import socket
import sys

import margincons


def refuse(*_):
    raise OSError("this session has no network")


def show(output):
    """What a notebook would show of an output: its HTML or Markdown, else its text; pictures are only named."""
    data = output._repr_mimebundle_()[0]
    kind = next(kind for kind in ("image/png", "text/html", "text/markdown", "text/plain") if kind in data)
    return kind if kind == "image/png" else data[kind]


def run(shell, cells):
    from IPython.utils.capture import capture_output

    shell.reset()
    shown = []
    for cell in cells:
        with capture_output(stderr=False) as output:
            outcome = shell.run_cell(cell)
        if not outcome.success:
            raise SystemExit(f"{output.stdout}\nin the cell\n{cell}")
        shown.append("\n".join([output.stdout, *map(show, output.outputs)]))
    return shown


def main():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import display

    socket.socket.connect = socket.getaddrinfo = refuse
    shell = InteractiveShell.instance(history_load_length=0)
    shell.display_trap.hook = lambda value: None if value is None else display(value)  # a cell's last line, as output
    pages = json.load(sys.stdin)
    shown = {name: run(shell, cells) for name, cells in pages.items()}
    json.dump({"package": margincons.__file__, "shown": shown}, sys.stdout)


if __name__ == "__main__":
    main()
