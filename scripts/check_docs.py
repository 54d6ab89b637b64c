"""Check the documentation: no sentence has more than 40 words, and each relative link and anchor leads somewhere.

python scripts/check_docs.py
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_LONGEST = 40
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]*)\)")


def pages(root: Path) -> list[Path]:
    """What people read on GitHub and on the site."""
    names = {*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("benchmarks/*.md")}
    return sorted(names - {root / "model_card.md"})  # a template


def long_sentences(text: str) -> Iterator[str]:
    """Sentences with too many words: a code span is one word, a list item ends a sentence, tables do not count."""
    text = re.sub(r"(?m)^( *\||#|--8<--|:::).*$", "", text)
    text = re.sub(r"`[^`]+`", "Code", _LINK.sub(r"\1", text))
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text):
        for sentence in re.split(r"(?<=[.!?])[\"')*]* (?=[\"'(*]*[A-Z0-9])", " ".join(block.split())):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if len(words) > _LONGEST:
                yield f"{len(words)} words: {' '.join(words[:12])} ..."


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"(?m)^#{1,6} +(.*)$", text)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", _LINK.sub(r"\1", title)).strip().lower()) for title in titles}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Relative links to no file, or to no heading of it."""
    for name, _, anchor in (target.partition("#") for _, target in _LINK.findall(text) if ":" not in target):
        there = page.parent / name if name else page
        on_a_page = there.suffix == ".md"  # that of an image says in which mode it is shown
        if not there.exists() or (anchor and on_a_page and anchor not in anchors(_without_code(there))):
            yield f"the link '{name}{'#' if anchor else ''}{anchor}' leads nowhere"


def _without_code(page: Path) -> str:
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    TEXTS = {page: _without_code(page) for page in pages(_ROOT)}
    FAULTS = [
        (page, fault) for page in TEXTS for fault in (*long_sentences(TEXTS[page]), *broken_links(page, TEXTS[page]))
    ]
    print(
        "\n".join(f"{page.relative_to(_ROOT)}: {fault}" for page, fault in FAULTS) or "The documentation is in order."
    )
    sys.exit(bool(FAULTS))
