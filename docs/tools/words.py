"""How many words a sentence has, page by page: python docs/tools/words.py [PAGE.md ...]

Counts running text: no headings, tables, code blocks and pictures; code within a sentence is one word. Ends with 1
where a page has more than `MAX_MEAN` in the mean, or a sentence with more than `MAX_WORDS`.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

HOME = Path(__file__).parents[2]
MAX_MEAN, MAX_WORDS = 18.0, 40
ENGLISH = ("*.md", "docs/**/*.md", "src/**/*.md", "weights/*.md", "benchmarks/**/*.md", "examples/**/*.md")
NOT_ENGLISH = (".zh.md", "CHANGELOG.md")


def pages() -> list[Path]:
    """All that are for people to read, but the changelog and translations."""
    found = {path for pattern in ENGLISH for path in HOME.glob(pattern)}
    return sorted(path for path in found if not path.name.endswith(NOT_ENGLISH))


def sentences(text: str) -> Iterator[str]:
    """The sentences of a Markdown page."""
    outside = True
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type in ("heading_open", "table_open"):
            outside = False
        elif token.type in ("heading_close", "table_close"):
            outside = True
        elif token.type == "inline" and outside:
            plain = "".join({"text": part.content, "code_inline": "`"}.get(part.type, " ") for part in token.children)
            yield from re.split(r"(?<=[.!?])[\"”)*]*\s+", plain)


def words(sentence: str) -> int:
    return sum(bool(re.search(r"[\w`]", word)) for word in sentence.split())


def main() -> int:
    failed = False
    for page in [Path(name).resolve() for name in sys.argv[1:]] or pages():
        counted = [(words(sentence), sentence) for sentence in sentences(page.read_text())]
        counts = [count for count, _ in counted if count > 2]
        mean = sum(counts) / max(1, len(counts))
        long = [sentence for count, sentence in counted if count > MAX_WORDS]
        bad = mean > MAX_MEAN or bool(long)
        failed |= bad
        print(f"{mean:5.1f} words a sentence, {sum(counts):6} in all: {page.relative_to(HOME)}{'   <- too long' * bad}")
        for sentence in long:
            print(f"      {words(sentence)} words: {sentence}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
