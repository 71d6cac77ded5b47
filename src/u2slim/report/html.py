"""What the pages share: colours, and how a template becomes one file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from u2slim.files import write_whole

# Told apart by colour-blind readers too (Okabe and Ito), on white and on near black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")


def write_html(
    path: Path, template: str, values: Mapping[str, Any], filters: Mapping[str, Callable] | None = None
) -> None:
    """Write a template of this folder, filled with `values`, to `path`, whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    html = environment.get_template(template).render(values)
    # A file name that is not UTF-8 reaches Python as characters that UTF-8 cannot hold.
    write_whole(path, lambda partial: partial.write_text(html, encoding="utf-8", errors="replace"))
