"""The tables of methods on the pages, from the methods' own files: `python -m blemish.cli.method_tables PAGE...`.

A table stands between two comments of a page, and is all that is written there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath

BEGIN = "<!-- methods: made by `make docs` -->"
END = "<!-- methods: end -->"


def table(links: str) -> str:
    """Markdown rows of all methods; `links` is where their pages lie, seen from the page."""
    from blemish.learning.sources.registry import learning_for
    from blemish.methods import describe, get, names

    rows = ["| name | idea | learns from | suits |", "|---|---|---|---|"]
    for name in names():
        about = describe(name)
        idea = about["title"].partition(": ")[2].removesuffix(".") or about["title"]
        learns_from = learning_for(get(name).needs).modality.samples
        page = PurePosixPath(links) / f"{name}.md"
        rows.append(f"| [{name}]({page}) | {idea} | {learns_from} | {about['suits'].removesuffix('.')} |")
    return "\n".join(rows)


def written(page: str, links: str) -> str:
    """The text of a page with its table generated again. ValueError where it has no place for one."""
    found = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if len(found.findall(page)) != 1:
        raise ValueError(f"a page with a table of methods has one {BEGIN} and one {END} behind it")
    return found.sub(lambda _: f"{BEGIN}\n{table(links)}\n{END}", page)


def main(pages: list[str]) -> None:
    """Generate the tables of these pages again; those of a page lie in `docs/methods`, or beside it."""
    for page in map(Path, pages):
        text = page.read_text(encoding="utf-8")
        page.write_text(written(text, links_of(page)), encoding="utf-8")


def links_of(page: Path) -> str:
    """From a page to the pages of methods."""
    return "." if page.parent.name == "methods" else "docs/methods"


if __name__ == "__main__":
    main(sys.argv[1:])
