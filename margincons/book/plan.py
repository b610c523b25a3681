"""What a page would measure, read off its source: networks, attacks and images of its calls of `obtain` and others.

Nothing is run. Names are followed through assignments and loops back to the page's parameters, so what is found is at
most too much: a page that picks one network of a list counts with the whole list.
"""

import ast
from collections.abc import Mapping

import jupytext

from margincons.book.pages import Page, Value
from margincons.margins import FIXED_BUDGET, MINIMUM_NORM

KEPT, LIVE = (
    ("obtain", "obtain_fits"),
    ("measure_images", "input_margins"),
)  # calls that keep records, and calls that do not
_DEFAULTS = {"attack": "minimum_norm", "effort": "standard"}


def planned_measurements(page: Page, given: Mapping[str, Value]) -> list[str]:
    """One line for each kind of measurement that a page would make, in the order of the page.

    Args:
        page: The page.
        given: The parameters that it is given; its own defaults stand for the others.
    """
    cells = [cell for cell in jupytext.read(page.source, fmt="md:myst").cells if cell.cell_type == "code"]
    source = _Source(ast.parse("\n".join(cell.source for cell in cells)), given)
    asked, records = source.parameters.get("n_images"), source.parameters.get("records", "")
    images = {None: "some images", 0: "all images"}.get(asked, f"the first {asked} images")
    lines = []
    for call in source.calls(*KEPT, *LIVE):
        kept = _name(call.func) in KEPT
        named = {option.arg: source.mentioned(option.value) for option in call.keywords if option.arg}
        if kept and "" in named.get("records", [records]):
            continue  # shipped records are read
        attacks = [a for a in named.get("attack", [_DEFAULTS["attack"]]) if a in MINIMUM_NORM | FIXED_BUDGET]
        efforts = [str(effort) for effort in named.get("effort", [_DEFAULTS["effort"]])]
        networks = {value for first in call.args[:1] for value in source.mentioned(first) if _is_id(value)}
        if networks and attacks:
            where = f"into {records}" if kept else "and keep nothing"
            lines.append(
                f"measure {_count(len(networks), 'network')} on {images} by "
                f"{', '.join(attacks)} ({', '.join(efforts)}) {where}"
            )
    return list(dict.fromkeys(lines))


class _Source:
    """The code of a page, its parameters' values, and what its other names are bound to."""

    def __init__(self, tree: ast.Module, given: Mapping[str, Value]) -> None:
        self.tree = tree
        self.parameters: dict[str, Value] = {}
        self.bound: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self.parameters.setdefault(node.target.id, ast.literal_eval(node.value))
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._bind(target, node.value)
            elif isinstance(node, ast.For | ast.comprehension):
                self._bind(node.target, node.iter)
        self.parameters |= given

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        for part in ast.walk(target):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                self.bound.setdefault(part.id, []).append(value)

    def calls(self, *names: str) -> list[ast.Call]:
        """Calls of functions of these names, in the order of the page."""
        found = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call) and _name(node.func) in names]
        return sorted(found, key=lambda call: (call.lineno, call.col_offset))

    def mentioned(self, expression: ast.expr, seen: set[str] | None = None) -> list[bool | int | float | str]:
        """Values of all constants and parameters that an expression rests on; each name is followed once."""
        seen = set() if seen is None else seen
        values = []
        for node in ast.walk(expression):
            if isinstance(node, ast.Constant):
                values.append(node.value)
            elif isinstance(node, ast.Name) and node.id in self.parameters:
                value = self.parameters[node.id]
                values += value if isinstance(value, list) else [value]
            elif isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                for bound in self.bound.get(node.id, []):
                    values += self.mentioned(bound, seen)
        return list(dict.fromkeys(values))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and (value.startswith(("digits/", "robustbench/")) or ".py:" in value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
