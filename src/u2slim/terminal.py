"""Tables of words, in a terminal and as Markdown; bars."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table


@contextmanager
def bar(what: str, total: int | None) -> Iterator[Callable[[], object]]:
    """A bar on standard error, and what moves it on by one; None: nobody knows how far it has to go."""
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield partial(progress.advance, task)


def print_whole(table: Table, repeated: int = 1) -> None:
    """A table with all of its words: where a terminal is too narrow, the columns go below each other in parts.

    Each part begins with the first `repeated` columns, which say what a row is.
    """
    console = Console()
    if not console.is_terminal:  # a file or a pager has room
        Console(width=max(console.width, _width(table))).print(table)
        return
    for part in _parts(table, console.width, repeated):
        Console(width=max(console.width, _width(part))).print(part)


def _parts(table: Table, width: int, repeated: int) -> Iterator[Table]:
    first = last = repeated
    while last < len(table.columns):
        last += 1
        if last - first == 1 or _width(_columns(table, repeated, first, last)) <= width:
            continue
        yield _columns(table, repeated, first, last - 1)
        first = last = last - 1
    yield _columns(table, repeated, first, last)


def _columns(table: Table, repeated: int, first: int, last: int) -> Table:
    """The same table with its first columns and those from `first` to `last`."""
    chosen = [*table.columns[:repeated], *table.columns[first:last]]
    part = Table(box=table.box, pad_edge=table.pad_edge, padding=table.padding)
    for column in chosen:
        part.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap)
    for row, cells in zip(table.rows, zip(*(column.cells for column in chosen), strict=True), strict=True):
        part.add_row(*cells, end_section=row.end_section)
    return part


def _width(table: Table) -> int:
    return Console(width=1000).measure(table).maximum


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    """A table whose first row is its head; columns of numbers are aligned on the right."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for title, *cells in zip(*rows, strict=True):
        numbers = all(cell[:1] in "0123456789.-" for cell in cells)
        table.add_column(escape(title), justify="right" if numbers else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    print_whole(table)


def rows_as_markdown(rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table whose first row is its head; with `numbers` all columns but the first are aligned on the right."""
    lines = [rows[0], ["---", *["---:" if numbers else "---"] * (len(rows[0]) - 1)], *rows[1:]]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
