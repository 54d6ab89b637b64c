"""The languages of the page: its texts by key, and English sentences of the server in the language of a visitor."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SWAPPED = str.maketrans(",.", ".,")
_NUMBER = re.compile(r"[<>]?[\d.,]+%?( \[[\d.,]+-[\d.,]+\])?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language:
    """One language: `words("stop")` is what its file has under the key `stop`."""

    code: str
    texts: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, its placeholders filled."""
        return self.texts[key].format(**values)

    def number(self, text: str) -> str:
        """A number, percentage or interval as the language writes it: German and Spanish have a decimal comma."""
        return text if self is ENGLISH else text.translate(_SWAPPED).replace("%", " %")

    def translate(self, text: str) -> str:
        """A sentence, name or number that the server has in English; where no text of English fits, as it is."""
        if self is ENGLISH:
            return text
        if _NUMBER.fullmatch(text):
            return self.number(text)
        for key, pattern in _patterns():
            if match := pattern.fullmatch(text):
                return self(key, **{name: self.translate(value) for name, value in match.groupdict().items()})
        return text

    def listed(self, names: list[str], last: str = "and") -> str:
        """Names as a list in words; `last` is the key of the word before the last."""
        names = list(map(self.translate, names))
        return f"{', '.join(names[:-1])} {self(last)} {names[-1]}" if len(names) > 1 else "".join(names)


def _read(code: str) -> Language:
    return Language(code=code, texts=json.loads(Path(__file__).with_name(f"{code}.json").read_text("utf-8")))


ENGLISH = _read("en")
LANGUAGES = {language.code: language for language in (ENGLISH, _read("de"), _read("es"))}

FOREIGN = ("diagnosis.", "said.")
"""How keys begin whose English is made elsewhere, for the API and tables too; the page recognises it by its text."""


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """The foreign keys with what matches their English, the longest first."""
    keys = sorted((key for key in ENGLISH.texts if key.startswith(FOREIGN)), key=lambda key: -len(ENGLISH.texts[key]))
    return [(key, re.compile(_pattern(ENGLISH.texts[key]), re.IGNORECASE | re.DOTALL)) for key in keys]


def _pattern(text: str) -> str:
    """A regular expression of a text with placeholders; one that stands twice has the same value twice."""
    parts = re.split(r"{(\w+)}", text)
    named: set[str] = set()
    for i in range(1, len(parts), 2):
        name = parts[i]
        parts[i] = f"(?P={name})" if name in named else f"(?P<{name}>.+?)"
        named.add(name)
    return "".join(part if i % 2 else re.escape(part) for i, part in enumerate(parts))


def of_scripts() -> dict[str, dict[str, str]]:
    """The texts of the page's scripts, by language."""
    return {
        code: {key.removeprefix("js."): text for key, text in words.texts.items() if key.startswith("js.")}
        for code, words in LANGUAGES.items()
    }


def of(request: Any) -> Language:
    """The language that a visitor's browser asks for first, as its own part of the page does; else English."""
    first = "" if request is None else request.headers.get("accept-language", "")
    return LANGUAGES.get(re.split("[-,;]", first)[0].strip().lower(), ENGLISH)


class Static:
    """Texts that do not change: gradio has them in all languages, and each browser shows its own."""

    def __init__(self) -> None:
        self.translations: dict[str, dict[str, str]] = {code: {} for code in LANGUAGES}

    def __call__(self, text: str | Callable[[Language], str]) -> str:
        """What stands for a text in gradio's components, of which each may hold one.

        Args:
            text: its key, or what makes it of a language, such as HTML.
        """
        key = text if isinstance(text, str) else f"dermalert.{len(self.translations['en'])}"
        for code, words in LANGUAGES.items():
            self.translations[code][key] = words(text) if isinstance(text, str) else text(words)
        return "__i18n__" + json.dumps({"__type__": "translation_metadata", "key": key})
