"""Rows of tables, in Markdown."""

from collections.abc import Mapping

Row = dict[str, str | float]
# A row's entries in their order, what they are called, and how they are written.
Columns = Mapping[str, tuple[str, str]]


def head(columns: Columns) -> str:
    return f"| {' | '.join(title for title, _ in columns.values())} |\n{'|---' * len(columns)}|"


def line(row: Row, columns: Columns, missing: str = "") -> str:
    """`missing` stands for what was not measured."""
    cells = [format(row[key], form) if key in row else missing for key, (_, form) in columns.items()]
    return f"| {' | '.join(cells)} |"
