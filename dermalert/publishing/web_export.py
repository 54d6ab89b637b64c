"""A release as a page that needs no server: a static Space, or a folder on any web server; it works offline too.

What the page says is made here, in the words of the Space; what it answers, by the scripts in `web/`, in the browser.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import jinja2
from dermalert_space import abstention, dicom, formats, images, release_loading
from dermalert_space import release as releases
from dermalert_space.contract import NOT_A_DEVICE, TOLERANCE, Json
from dermalert_space.files import write_folder
from dermalert_space.frequencies import Bands
from dermalert_space.page import examples, markup, tab_batch, tab_evaluation
from dermalert_space.page.language import ENGLISH
from dermalert_space.prediction import STATES, word
from dermalert_space.release import Release
from markupsafe import Markup

from dermalert.errors import UsageError
from dermalert.publishing import web_model, web_runtime

SOURCES = Path(__file__).parent / "web"
RUNTIME = "onnxruntime"
PAGE, ABOUT, KEEPER = "index.html", "about.json", "service_worker.js"

DESCRIPTION = "Melanoma alert for dermoscopy images, assessed on your own device. For research; no medical device."
PRIVACY = (
    "No image leaves this device: it is assessed in this page, whose own rules forbid it to connect to any other "
    "server. Nothing is kept: no history, no log of images, no analytics."
)


def export(model: str, folder: Path, *, shown: Path | None = None) -> None:
    """Write the page of a release into a new folder.

    Args:
        model: the release, a folder or `USER/REPO@TAG`.
        folder: where; it must not be there, or be empty.
        shown: a folder of examples, see `dermalert_space.page.examples`, in the place of the Space's.

    Raises:
        UsageError: the folder holds something; the release cannot be loaded, or not be served by a page.
        RunError: ONNX Runtime for browsers cannot be fetched.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"'{folder}' is there already: name a new folder.")
    write_folder(folder, build(load(model), shown=shown))


def load(model: str) -> Release:
    """A release; UsageError where it cannot be loaded."""
    try:
        return Release.load(model)
    except release_loading.NoRelease as error:
        raise UsageError(str(error)) from error


def build(release: Release, *, shown: Path | None = None) -> dict[str, bytes]:
    """The files of the page of a release by name; for the rest see `export`."""
    metrics, pictures, steps = release.metrics(), _examples(shown), web_model.processor(release)
    files = {f"{RUNTIME}/{name}": content for name, content in web_runtime.files().items()}
    content = web_model.files(release)
    parts = {key: (f"{web_model.FOLDER}/{web_model.FILES[key]}", data) for key, data in content.items()}
    about = _about(release, metrics, parts) | {"processor": steps}
    files |= dict(parts.values()) | {f"examples/{each.path.name}": each.path.read_bytes() for each in pictures}
    files[ABOUT] = json.dumps(about, indent=1, allow_nan=False).encode()
    files |= {path.name: path.read_bytes() for path in SOURCES.iterdir() if path.name not in (PAGE, KEEPER)}
    space = Path(markup.__file__).parent
    files |= {"space.css": (space / "style.css").read_bytes(), "row_keys.js": (space / "row_keys.js").read_bytes()}
    megabytes = sum(map(len, files.values())) / 1e6
    files[PAGE] = _page(release, metrics, pictures, texts=about["texts"], megabytes=megabytes)
    return files | {KEEPER: _keeper(files)}


def _examples(shown: Path | None) -> list[examples.Example]:
    folder = shown or examples.FOLDER
    if shown is None and not (folder / examples.TABLE).is_file():
        return []  # those of a wheel, which has none
    try:
        return examples.read(folder)
    except examples.BadExamples as error:
        raise UsageError(f"--examples: {error}") from error


def _about(release: Release, metrics: Json | None, parts: Mapping[str, tuple[str, bytes]]) -> Json:
    """What the scripts know of a release: how it assesses, what they load of it, and the words for that."""
    point, abstains, generated = release.attention, release.abstention, markup.is_generated(release, metrics)
    return {
        "labels": release.labels,
        "alert": {"label": release.alert_label, "threshold": release.threshold},
        "attention": point and {"labels": list(point.labels), "threshold": point.threshold},
        "groups": release.groups,
        "abstention": abstains and {"thresholds": abstains.thresholds, "reasons": abstention.REASONS},
        "frequencies": None if generated else _frequencies(release),
        "tolerance": TOLERANCE,
        "parts": {key: name for key, (name, _) in parts.items()},
        "fingerprints": {name: fingerprint(content) for name, content in parts.values()},
        "runtime": f"{RUNTIME}/{web_runtime.BINARY}.gz",
        "release": release.public_name,
        "tag": release.revision,
        "states": STATES,
        "icons": markup.ICONS,
        "grades": markup.GRADES,
        "group_names": {group: ENGLISH(f"group.{group}") for group in markup.GROUPS},
        "kinds": _kinds(),
        "limits": _LIMITS,
        "texts": _texts(release),
    }


_LIMITS = {"bytes": images.MAX_BYTES, "pixels": images.MAX_PIXELS, "side": images.MAX_SIDE, "aspect": images.MAX_ASPECT}


def _frequencies(release: Release) -> Json:
    return {name: _bands(getattr(release.frequencies, name)) for name in ("alert", "attention")}


def _bands(bands: Bands) -> Json:
    shown = [
        {"low": band.low, "high": band.high, "lesions": band.lesions}
        | {"from": f"{100 * band.low:.3g}", "to": f"{100 * band.high:.3g}"}
        | {"rate": markup.figure(band.rate, times=100, digits=0)}
        for band in bands.bands
    ]
    return {"bands": shown, "lesions": bands.lesions, "share": bands.share}


def _kinds() -> Json:
    """By what its first bytes are a file that is not read is recognised, and what is said of it."""
    return {
        "begins": [[[each.decode("latin-1") for each in begins], what] for begins, what in formats.BEGINS.items()],
        # What could be installed beside Python, in brackets, is of no use to a browser.
        "brands": [[names.decode(), what.partition(" (")[0]] for names, what in formats.BRANDS.items()],
        "dicom": dicom.ADVICE,
        "save": formats.SAVE,
        "frame": formats.FRAME,
        "video": f"a video: {formats.FRAME}",
    }


def _texts(release: Release) -> dict[str, str]:
    return {
        "notice": NOT_A_DEVICE,
        "hint": ENGLISH("hint"),
        "next": ENGLISH("next"),
        "for_dermoscopy": ENGLISH("for_dermoscopy"),
        "source": markup.source(release),
        "order": tab_batch.order(),
        "no_number": releases.NO_NUMBER,
        "no_memory": "the file cannot be assessed: this browser has too little memory for it.",
        "parity": "This page answers otherwise here than the release was measured: a probability of a reference image "
        "is off by {error}. It assesses nothing. Load it anew, or use another browser.",
        "damaged": "This page cannot assess images here: {error}. Load it anew, or use another browser.",
    }


def _page(
    release: Release,
    metrics: Json | None,
    pictures: list[examples.Example],
    *,
    texts: Mapping[str, str],
    megabytes: float,
) -> bytes:
    """The page itself; what it shows of the release's evaluation is in it."""
    return (
        _template(PAGE)
        .render(
            description=DESCRIPTION,
            privacy=PRIVACY,
            texts=texts,
            megabytes=round(megabytes),
            examples=pictures,
            icons=markup.ICONS,
            states={state: word(state, release.alert_label) for state in STATES},
            notice=Markup(markup.notice(release, metrics)),
            meaning=Markup(markup.meaning(release, metrics)),
            performance=Markup(tab_evaluation.html(release, metrics)),
        )
        .encode()
    )


def _keeper(files: Mapping[str, bytes]) -> bytes:
    """The script that keeps the page for use without a network; it differs where any file does."""
    sums = {name: fingerprint(content) for name, content in sorted(files.items())}
    version = fingerprint(json.dumps(sums).encode())[:16]
    kept = ["./", *(quote(name) for name in sums if name != PAGE)]
    return _template(KEEPER).render(version=f"dermalert-{version}", files=kept).encode()


def fingerprint(content: bytes) -> str:
    """By what the page tells a file of the release from any other."""
    return hashlib.sha256(content).hexdigest()


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SOURCES), undefined=jinja2.StrictUndefined, autoescape=name.endswith(".html")
    )
    return environment.get_template(name)
