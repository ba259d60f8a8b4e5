"""MkDocs: a folder in the navigation stands for the pages in it, so that a new method needs no entry."""

from pathlib import Path


def on_config(config):  # noqa: ANN001, ANN201  (the hook's own signature)
    docs = Path(config["docs_dir"])
    nav = []
    for entry in config["nav"]:
        ((title, place),) = entry.items()
        pages = sorted(p.relative_to(docs).as_posix() for p in (docs / place).glob("*.md")) if "." not in place else []
        pages.sort(key=lambda page: not page.endswith("index.md"))
        nav.append({title: pages} if pages else entry)
    config["nav"] = nav
    return config
