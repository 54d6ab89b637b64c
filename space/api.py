"""What programs may ask of the page: the same by gradio_client, REST and MCP. Nothing of gradio is needed here."""

from pathlib import Path
from typing import TypedDict

if __package__:
    from . import triage, words
else:  # run as a script, as on the Hub
    import triage
    import words


class Judged(TypedDict):
    """The answer to one image."""

    sentence: str
    alert: bool | None
    refused: str | None
    probabilities: dict[str, float]
    malignant: float | None
    release: str
    notice: str


class Served(TypedDict):
    """The release that answers."""

    release: str
    version: str | None
    diagnoses: list[str]
    groups: dict[str, list[str]]
    alert_label: str
    threshold: float | None
    trained_on: list[str]
    generated: bool
    evaluation: dict | None
    notice: str


class CannotJudge(ValueError):
    """There is no picture in what was sent; the text says why, in a sentence."""


def uploaded(file: dict | None, cache: str) -> Path:
    """Return where an upload lies on this server.

    Args:
        file: what gradio makes of an upload; its `path` is what the caller claims.
        cache: the folder of the uploads.

    Raises:
        CannotJudge: nothing was uploaded there, or it has been deleted.
    """
    path = Path((file or {}).get("path") or "").resolve()
    # A caller may name any file of the server: only what was uploaded is read.
    if not (path.is_relative_to(Path(cache).resolve()) and path.is_file()):
        raise CannotJudge("Cannot judge: no image was uploaded.")
    return path


def read(file: dict | None, cache: str) -> triage.Image.Image:
    """Return an upload as an image, see `triage.read_image`.

    Raises:
        CannotJudge: it is none.
    """
    path = uploaded(file, cache)
    try:
        return triage.read_image(path.read_bytes())
    except triage.UnreadableImage as error:
        raise CannotJudge(f"Cannot judge: {error}") from error
    except OSError as error:
        raise CannotJudge("Cannot judge: no image was uploaded.") from error


def judged(release: triage.Release, judgement: triage.Judgement) -> Judged:
    """Return a judgement as programs read it; where it is refused, `refused` says why beside the probabilities."""
    return {
        "sentence": judgement.sentence,
        "alert": judgement.alert,
        "refused": judgement.refused,
        "probabilities": judgement.probabilities,
        "malignant": judgement.malignant,
        "release": words.name_of(release),
        "notice": triage.NOT_A_DEVICE,
    }


def served(release: triage.Release, metrics: dict | None) -> Served:
    """Return what a release is and how good it was found to be."""
    about = words.about(release)
    return {
        "release": words.name_of(release),
        "version": about.get("version"),
        "diagnoses": release.labels,
        "groups": release.groups,
        "alert_label": release.alert_label,
        "threshold": release.threshold,
        "trained_on": about.get("data", []),
        "generated": bool(about.get("generated")),
        "evaluation": metrics
        and metrics["splits"]["held_out"]["melanoma"] | {"images": metrics["splits"]["held_out"]["n"]},
        "notice": triage.NOT_A_DEVICE,
    }
