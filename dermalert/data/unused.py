"""What a source holds and is not used, collected while it is read and logged in one place."""

import logging
from collections.abc import Iterable

from dermalert.errors import first_few

logger = logging.getLogger(__name__)


class Unused:
    """What was given and not used, by reason."""

    def __init__(self, where: str):
        self._where = where
        self._names: dict[str, dict[str, None]] = {}

    def add(self, why: str, names: Iterable[object]) -> None:
        """Add names under a reason: a sentence with `{n}`, and `{where}` if it needs it, without its end."""
        added = {str(name): None for name in names}
        if added:
            self._names.setdefault(why, {}).update(added)

    def report(self) -> None:
        """Say each reason once, with the count and the first few names."""
        for why, names in self._names.items():
            # `format` would trip over the braces of a name.
            text = why.replace("{n}", str(len(names))).replace("{where}", self._where)
            logger.warning("%s: %s", text, first_few(names))
        self._names.clear()
