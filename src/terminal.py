"""What the doors print."""

from rich.console import Console
from rich.table import Table


def print_whole(table: Table) -> None:
    """A table with all of its words, even where the terminal is too narrow and breaks its lines."""
    Console(width=max(Console().width, Console(width=1000).measure(table).maximum)).print(table)
