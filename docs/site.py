"""A hook of MkDocs: every file keeps its path in the repository, and pages outside `docs/` are part of the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

BESIDE_DOCS = [
    "*.cff",
    "*.md",
    "attnpo/testbed/*.py",
    "attnpo/testbed/model/README.md",
    "reproduce/*.py",
    "results/*.md",
    "results/*/*.csv",
    "results/*/*.html",
    "results/*/*.md",
    "results/*/figures/*.png",
    "tasks/*/README.md",
]
"""What pages link to, and what of it is a page, by patterns below the root of the checkout. Runs that were made here,
whose models have cards, are no part of the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The same files under their paths in the repository, and those beside `docs/`."""
    docs = Path(config.docs_dir)
    for file in files.documentation_pages() + files.media_files():
        if file.abs_src_path is not None and Path(file.abs_src_path).is_relative_to(docs):
            files.remove(file)
            if file.abs_src_path != __file__:
                files.append(File.generated(config, f"docs/{file.src_uri}", abs_src_path=file.abs_src_path))
    for pattern in BESIDE_DOCS:
        for path in sorted(docs.parent.glob(pattern)):
            files.append(File.generated(config, path.relative_to(docs.parent).as_posix(), abs_src_path=str(path)))
    return files
