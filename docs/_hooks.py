"""MkDocs: a folder in the navigation stands for the pages in it, so that a new method needs no entry."""

from pathlib import Path


def on_config(config):  # noqa: ANN001, ANN201  (the hook's own signature)
    docs = Path(config["docs_dir"])

    def spread(entry):  # noqa: ANN001, ANN202
        ((title, place),) = entry.items()
        if isinstance(place, list):
            return {title: [spread(one) for one in place]}
        if "." in place:
            return entry
        pages = sorted((docs / place).glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
        return {title: [page.relative_to(docs).as_posix() for page in pages]}

    config["nav"] = [spread(entry) for entry in config["nav"]]
    return config
