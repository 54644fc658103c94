"""Budgets that keep the code readable, measured on the syntax tree with some slack above what is comfortable.

    python3 -m scripts.budgets [PATH ...]        by default src/umbel

A budget that is broken names the file, the line and the figure. What is counted: code lines of a function (no
docstring, blank or comment lines, nested functions apart), its cyclomatic complexity, lines of a file, and the
``getattr``, ``setattr`` and ``hasattr`` calls per thousand lines of the whole.
"""

from __future__ import annotations

import ast
import sys
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.environments import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FUNCTION_LINES = 60  #: code lines; comfortable: mean 8, p95 24
COMPLEXITY = 12  #: cyclomatic; comfortable: 10
FILE_LINES = 600  #: all lines; comfortable: 500
DYNAMIC_PER_1000 = 3.0  #: attribute access by name per 1,000 lines of the whole; comfortable: 1

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.match_case,
)
_SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_DYNAMIC = {"getattr", "setattr", "hasattr", "delattr"}


@dataclass
class Measured:
    """The figures of the files read, and the budgets that they break."""

    lines: int = 0
    dynamic: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    complexities: list[int] = field(default_factory=list)
    offenders: list[str] = field(default_factory=list)

    @property
    def dynamic_per_1000(self) -> float:
        """Attribute accesses by name in a thousand lines."""
        return 1000 * len(self.dynamic) / max(self.lines, 1)


def main(arguments: list[str]) -> int:
    """Print the figures; the exit status is 1 when a budget is broken."""
    measured = measure(Path(path).resolve() for path in arguments or [str(ROOT / "src" / "umbel")])
    for offender in measured.offenders:
        print(offender)
    print(summary(measured))
    return 1 if measured.offenders else 0


def measure(paths: Iterable[Path]) -> Measured:
    """Measure every Python file under the paths."""
    measured = Measured()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            measure_file(file, measured)
    if measured.dynamic_per_1000 > DYNAMIC_PER_1000 and measured.lines >= 1000:
        measured.offenders += measured.dynamic
        measured.offenders.append(
            f"attribute access by name: {measured.dynamic_per_1000:.1f} per 1,000 lines, "
            f"the budget is {DYNAMIC_PER_1000:g} (every one is listed above)"
        )
    return measured


def measure_file(file: Path, measured: Measured) -> None:
    """Add one file's figures and broken budgets."""
    name = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    source = file.read_text()
    tree = ast.parse(source, str(file))
    lines = source.count("\n")
    measured.lines += lines
    if lines > FILE_LINES:
        measured.offenders.append(f"{name}:1: {lines} lines in one file, the budget is {FILE_LINES}")
    measured.dynamic += [f"{name}:{call}" for call in dynamic_calls(tree)]
    code = code_lines(file, tree)
    for function in ast.walk(tree):
        if isinstance(function, _FUNCTIONS):
            measure_function(f"{name}:{function.lineno}: {function.name}", function, code, measured)


def measure_function(
    label: str, function: ast.FunctionDef | ast.AsyncFunctionDef, code: set[int], measured: Measured
) -> None:
    """Add one function's figures and broken budgets."""
    length = sum(1 for line in own_lines(function) if line in code)
    complexity = 1 + sum(branches(node) for node in own_nodes(function))
    measured.lengths.append(length)
    measured.complexities.append(complexity)
    if length > FUNCTION_LINES:
        measured.offenders.append(f"{label}: {length} lines of code, the budget is {FUNCTION_LINES}")
    if complexity > COMPLEXITY:
        measured.offenders.append(f"{label}: cyclomatic complexity {complexity}, the budget is {COMPLEXITY}")


def code_lines(file: Path, tree: ast.AST) -> set[int]:
    """The numbers of the lines that hold code: no docstring, no comment alone, no blank line."""
    held: set[int] = set()
    with file.open("rb") as handle:
        for token in tokenize.tokenize(handle.readline):
            if token.type not in _SILENT and token.type != tokenize.ENCODING:
                held.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            held.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return held


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    """A function's lines without those of the functions defined in it."""
    lines = set(range(function.lineno, (function.end_lineno or function.lineno) + 1))
    for node in ast.walk(function):
        if node is not function and isinstance(node, _FUNCTIONS):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """A function's nodes without those of the functions and classes defined in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            yield child
            yield from own_nodes(child)


def branches(node: ast.AST) -> int:
    """How many ways through the code a node adds."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, _BRANCHES))


def dynamic_calls(tree: ast.AST) -> Iterator[str]:
    """Line and name of the calls that reach an attribute by its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _DYNAMIC:
            yield f"{node.lineno}: {node.func.id}()"


def summary(measured: Measured) -> str:
    """One line with the figures."""
    lengths = sorted(measured.lengths) or [0]
    return (
        f"budgets: {measured.lines} lines, functions mean {sum(lengths) / len(lengths):.1f} "
        f"p95 {lengths[int(0.95 * (len(lengths) - 1))]} longest {lengths[-1]}, "
        f"worst complexity {max(measured.complexities, default=0)}, "
        f"by name {measured.dynamic_per_1000:.1f} per 1,000, {len(measured.offenders)} over budget"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
