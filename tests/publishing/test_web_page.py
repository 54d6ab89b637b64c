"""The page that needs no server, in a browser: its answers are the release's, and no image leaves the device."""

import csv
import io
import json
import re
import threading
from base64 import b64decode, b64encode
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from dermalert_space import abstention, batch, tables
from dermalert_space.contract import BUNDLED, NOT_A_DEVICE
from dermalert_space.page import examples, markup
from dermalert_space.prediction import state as state_of
from dermalert_space.release import Release
from PIL import Image
from safetensors.numpy import load, save
from support.releases import make_image

from dermalert.errors import RunError
from dermalert.imaging import synthetic_lesions
from dermalert.publishing import web_export, web_runtime
from dermalert.taxonomy import DIAGNOSES

pytestmark = pytest.mark.integration

CLOSE = 2e-3


TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".html": "text/html"}


class Host(ThreadingHTTPServer):
    """A static host: a site below each first part of a path, and the paths that were asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.sites: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(SimpleHTTPRequestHandler):
    server: Host

    def do_GET(self):
        self.server.asked.append(self.path)
        site, _, name = unquote(self.path).lstrip("/").partition("/")
        content = self.server.sites.get(site, {}).get(name or "index.html")
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", TYPES.get(Path(name or "index.html").suffix, "application/octet-stream"))
        self.send_header("Access-Control-Allow-Origin", "*")  # so that only the page's own rules stand in the way
        self.end_headers()
        self.wfile.write(content or b"")

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def release() -> Release:
    return Release.load(BUNDLED)


@pytest.fixture(scope="module")
def files(release, pytestconfig) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(pytestconfig.cache.mkdir("npm")))  # what is fetched is kept between runs
        patch.delenv("SSL_CERT_DIR")  # npm speaks TLS
        try:
            return web_export.build(release)
        except RunError as error:
            if not isinstance(error.__cause__, OSError):  # the registry has answered
                raise
            pytest.skip(f"needs the npm registry: {error}")


@pytest.fixture(scope="module")
def host(files):
    with Host() as host:
        host.sites["page"] = files
        yield host
        host.shutdown()


@pytest.fixture(scope="module")
def page(browser, host):
    """The page, once it is ready; no error came up in it, whatever was done."""
    errors: list[object] = []
    context = browser.new_context()
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(f"{host.url}/page/")
    page.locator("body[data-ready]").wait_for(timeout=60_000)
    yield page
    context.close()
    assert not errors


def give(page, path: Path):
    """The sentence on one image."""
    page.get_by_role("tab", name="Single image").click()
    page.evaluate("document.querySelector('#result').replaceChildren()")
    page.set_input_files("#file", path)
    page.locator("#result .sentence").wait_for()
    return page.locator("#result .sentence")


def give_all(page, paths: list[Path], folder: Path) -> tuple[list[dict], list[dict]]:
    """The rows of the JSON and of the CSV that are downloaded of a batch."""
    page.get_by_role("tab", name="Batch").click()
    page.evaluate("document.querySelector('#rows').replaceChildren()")
    page.set_input_files("#files", paths)
    page.locator("#rows .total").wait_for(timeout=60_000)
    texts = {}
    for name in ("triage.json", "triage.csv"):
        with page.expect_download() as download:
            page.get_by_text(f"Download {name}").click()
        download.value.save_as(folder / name)
        texts[name] = (folder / name).read_text()
    assert json.loads(texts["triage.json"])["notice"] == NOT_A_DEVICE
    return json.loads(texts["triage.json"])["files"], list(csv.DictReader(io.StringIO(texts["triage.csv"])))


def in_python(release: Release, paths: list[Path]) -> list[batch.Row]:
    return list(batch.predict_files(release, [(path.name, path) for path in paths]))


def farthest(page_rows: list[dict], rows: list[batch.Row]) -> float:
    """The largest difference of a probability, once the states are the same."""
    by_name = {row["file"]: row for row in page_rows}
    assert {row.file: row.state for row in rows} == {name: row["state"] for name, row in by_name.items()}
    pairs = [(by_name[row.file]["probabilities"], row.prediction.probabilities) for row in rows if row.prediction]
    return max(abs(one[label] - other[label]) for one, other in pairs for label in other)


def lesions(folder: Path) -> list[Path]:
    """Generated lesions in each form that is read: orientations, transparency, 16 bits, palettes, other formats."""
    folder.mkdir()
    drawn = {name: synthetic_lesions.lesion(name, lesion_seed=3) for name in DIAGNOSES}
    for number, (name, image) in enumerate(drawn.items()):
        image.save(folder / f"drawn {name}.jpg", quality=92, progressive=bool(number % 2))
    lesion = drawn["melanoma"].resize((300, 200))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        lesion.save(folder / f"turned-{orientation}.jpg", quality=95, exif=exif)
    shade = Image.linear_gradient("L").resize(lesion.size)
    lesion.save(folder / "plain.png")
    lesion.save(folder / "plain.bmp")
    lesion.save(folder / "plain.webp", lossless=True)
    lesion.convert("L").save(folder / "grey.png")
    lesion.quantize(64).save(folder / "palette.png")
    Image.merge("RGBA", (*lesion.split(), shade)).save(folder / "transparent.png")
    Image.fromarray(np.asarray(lesion.convert("L")).astype(np.uint16) * 257).save(folder / "16-bit.png")
    Image.new("RGB", (300, 200)).save(folder / "black.png")
    make_image((60, 200)).save(folder / "small.png")
    return sorted(folder.iterdir())


def test_generated_lesions_of_all_kinds_get_the_answers_order_and_columns_of_python(page, release, tmp_path):
    paths = lesions(tmp_path / "lesions") + [each.path for each in examples.read(examples.FOLDER)]
    rows, table = give_all(page, paths, tmp_path)
    own = tables.by_urgency(in_python(release, paths))
    assert farthest(rows, own) < CLOSE
    reasons = {row["file"]: row["refused"] for row in rows}
    assert "darker than any" in reasons["black.png"] and "too small (60 pixels" in reasons["small.png"]
    assert [row["file"] for row in table] == [row["file"] for row in rows] == [row.file for row in own]
    assert list(rows[0]) == list(json.loads(tables.as_json(own, release))["files"][0])
    python_table = list(csv.DictReader(io.StringIO(tables.as_csv(own, release))))
    assert list(table[0]) == list(python_table[0])
    same = ("file", "state", "alert", "refused", "problem", "diagnosis", "release", "tag")
    assert [[row[name] for name in same] for row in table] == [[row[name] for name in same] for row in python_table]


def test_real_images_get_the_states_and_probabilities_of_python(page, release, real_images, tmp_path):
    paths = sorted((real_images / "isic9" / "Test").glob("*/*.jpg"))[::10]
    rows, _ = give_all(page, paths, tmp_path)
    assert len(paths) > 9 and farthest(rows, in_python(release, paths)) < CLOSE


def broken(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    whole = io.BytesIO()
    make_image((640, 480)).save(whole, "JPEG")
    contents = {
        "cut.jpg": whole.getvalue()[:-500],
        "letter.txt": b"Dear Sir",
        "empty.jpg": b"",
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "paper.pdf": b"%PDF-1.7",
        "scan.dcm": bytes(128) + b"DICM",
        "huge.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
        + (60_000).to_bytes(4, "big") * 2
        + bytes(9)
        + b"\0\0\0\0IEND\0\0\0\0",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    make_image().save(folder / "moving.gif")
    make_image().save(folder / "moving.png", save_all=True, append_images=[make_image(seed=1)])
    make_image((3100, 100)).save(folder / "narrow.png")
    Image.new("1", (9000, 8000)).save(folder / "huge.png")
    make_image().save(folder / "scan.tif")
    make_image().convert("CMYK").save(folder / "print.jpg")
    return {path.name: path for path in sorted(folder.iterdir())}


def test_a_file_that_cannot_be_read_gets_the_sentence_that_python_says(page, release, tmp_path):
    paths = broken(tmp_path / "broken")
    rows, _ = give_all(page, list(paths.values()), tmp_path)
    said = {row["file"]: row["problem"] for row in rows}
    assert all(row["state"] == "unreadable" for row in rows)
    assert said.pop("scan.tif") == (
        "the file cannot be read as an image: it is a TIFF, which browsers do not read: save it as JPEG or PNG."
    )
    unread = "the file cannot be read as an image: it is a "
    assert said.pop("photo.heic") == f"{unread}HEIC photo: save it as JPEG or PNG."
    assert said.pop("scan.dcm") == f"{unread}DICOM file: export its image as JPEG or PNG."
    assert "(CMYK): save it as JPEG or PNG in RGB" in said.pop("print.jpg")
    assert "it is none of JPEG, PNG, BMP and WebP" in said.pop("letter.txt")
    assert said == {row.file: row.problem for row in in_python(release, [paths[name] for name in said])}


def test_nothing_is_asked_of_the_host_once_the_page_is_loaded(page, host, tmp_path):
    make_image((640, 480)).save(tmp_path / "lesion.jpg")
    assert {path.split("/")[1] for path in host.asked} == {"page"}
    asked = len(host.asked)
    give(page, tmp_path / "lesion.jpg")
    page.locator("#examples button").first.click()
    page.get_by_text("assessed 20").wait_for()
    give_all(page, [tmp_path / "lesion.jpg"] * 3, tmp_path)
    assert host.asked[asked:] == []


@pytest.mark.parametrize("place", ["page", "worker"])
def test_neither_the_page_nor_its_worker_can_reach_another_host(page, place):
    send = "fetch(address, {method: 'POST', body: 'an image', mode: 'no-cors'}).then(() => 'sent', () => 'refused')"
    where = page if place == "page" else page.workers[0]
    with Host() as elsewhere:
        assert where.evaluate(f"address => {send}", elsewhere.url) == "refused"
        elsewhere.shutdown()
    assert elsewhere.asked == []


def test_the_page_refuses_to_send_to_its_own_host_too(page, host):
    asked = len(host.asked)
    send = "fetch('./', {method: 'POST', body: 'an image'}).then(() => 'sent', () => 'refused')"
    assert page.evaluate(send) == "refused" and len(host.asked) == asked


def test_it_works_with_the_network_off(page, release):
    example = examples.read(examples.FOLDER)[0]
    page.context.set_offline(True)
    try:
        page.reload()
        page.locator("body[data-ready]").wait_for(timeout=60_000)
        assert give(page, example.path).inner_text() == release.predict(example.path).sentence
    finally:
        page.context.set_offline(False)


def with_other_probabilities(files: dict[str, bytes]) -> dict[str, bytes]:
    """The page of a model that is not the one that was measured: the files fit each other, and the answers are off."""
    name = "release/parity.safetensors"
    tensors = load(files[name])
    tensors["probabilities"] = tensors["probabilities"] + np.float32(2e-3)
    about = json.loads(files["about.json"])
    about["fingerprints"][name] = web_export.fingerprint(save(tensors))
    return files | {name: save(tensors), "about.json": json.dumps(about).encode()}


def with_a_changed_weight(files: dict[str, bytes]) -> dict[str, bytes]:
    model = bytearray(files["release/model.onnx"])
    model[len(model) // 2] ^= 1
    return files | {"release/model.onnx": bytes(model)}


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (with_other_probabilities, "a probability of a reference image is off by 0.0020"),
        (with_a_changed_weight, "release/model.onnx is not the file that this page was made with"),
    ],
)
def test_a_page_whose_model_was_changed_assesses_nothing(browser, host, files, tamper, said):
    host.sites[tamper.__name__] = tamper(files)
    page = browser.new_context().new_page()
    page.goto(f"{host.url}/{tamper.__name__}/")
    refusal = page.locator("main > .sentence.refused")
    refusal.wait_for(timeout=60_000)
    assert said in refusal.inner_text()
    assert page.get_by_role("button", name="Choose an image").is_disabled()
    assert page.locator("#examples button:enabled").count() == 0
    page.context.close()


PREDICT = """async ([about, rows]) => {
    const words = await import('./words.js');
    return rows.map(([probabilities, abstained]) => {
        const p = words.predict(about, probabilities, abstained);
        const parts = words.frequencies(about, p).map(each => each.before + each.rate + each.after + each.note);
        return [p.state, p.sentence, words.grade(about, p), words.secondLine(about, p), parts.join(''),
            Object.values(p.probabilities).map(each => words.share(each)), p.urgency, p.malignant];
    });
}"""


def test_what_is_said_of_a_prediction_is_said_word_for_word_as_by_the_space(page, release, files):
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.dirichlet(np.full(9, alpha), 100) for alpha in (0.05, 0.3, 1)]).astype(np.float32)
    for label, p in ((3, 0.0275), (3, 0.02749), (3, 0.3), (1, 0.04412), (1, 0.0442), (4, 0.9999)):  # at the thresholds
        row = np.full((1, 9), 1e-5, np.float32)
        row[0, [label, 8]] = p, 1 - p
        rows = np.concatenate([rows, row])
    reasons = [None] * len(rows)
    reasons[0] = "the image is blurred."
    given = [[[float(p) for p in row], reason] for row, reason in zip(rows, reasons, strict=True)]
    alerts, attentions = release.alerts(rows), release.attentions(rows)
    expected = []
    for i, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
        p = release._prediction(row, state_of(bool(alerts[i]), bool(attentions[i]), reason), reason)
        shares = [markup.share(each) for each in p.probabilities.values()]
        second, frequency = markup.second_line(release, p), plain(markup.frequency(release, p))
        expected.append(
            [p.state, p.sentence, markup.grade(release, p), second, frequency, shares]
            + [pytest.approx(p.urgency), pytest.approx(p.malignant)]
        )
    about = json.loads(files["about.json"])
    for said, own in zip(page.evaluate(PREDICT, [about, given]), expected, strict=True):
        assert said == own
    assert {row[0] for row in expected} == {"melanoma_alert", "malignant_likely", "cannot_assess", "none"}


def plain(html: str) -> str:
    return re.sub("<[^>]*>", "", html)


RESIZE = """async ([pixels, width, height, sizes]) => {
    const pillow = await import('./pillow.js'), bytes = atob(pixels);
    const picture = pillow.inMemory(Uint8Array.from(bytes, each => each.charCodeAt(0)), width, height);
    const [thumbnail] = pillow.resized(picture, [pillow.SIZE_OF_SIGNALS]);
    const texts = pillow.resized(picture, sizes).map(each => btoa(String.fromCharCode(...each)));
    return [texts, pillow.signals(thumbnail, width, height)];
}"""


@pytest.mark.parametrize("shape", [(97, 131), (600, 31), (20, 17)])
def test_pixels_are_those_of_pillow_to_the_last_bit(page, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pixels[: shape[0] // 2] = pixels[: shape[0] // 2] // 128 * 255  # hard edges overshoot
    image = Image.fromarray(pixels)
    sizes = [{"width": w, "height": h, "filter": f} for w, h in ((32, 40), (70, 60)) for f in (1, 2, 3, 4)]
    resized, signals = page.evaluate(RESIZE, [b64encode(pixels.tobytes()).decode(), shape[1], shape[0], sizes])
    for size, own in zip(sizes, resized, strict=True):
        assert b64decode(own) == image.resize((size["width"], size["height"]), size["filter"]).tobytes(), size
    assert signals == pytest.approx(abstention.signals(image), rel=1e-12)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_against_wcag_2_2_and_a_phone_shows_the_answer_at_once(page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    sentence = give(page, examples.read(examples.FOLDER)[0].path)
    page.locator("#result .record").wait_for()
    box = sentence.bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 844
    panels = page.locator("[role=tabpanel]")
    hidden = panels.evaluate_all(
        "all => all.map(each => { const was = each.hidden; each.hidden = false; return was; })"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    found = axe.run(page, None, {"runOnly": rules, "resultTypes": ["violations"]}).response["violations"]
    page.set_viewport_size({"width": 1160, "height": 940})  # no text is scrolled away in its table: axe sees all
    contrast = axe.run(page, None, {"runOnly": ["color-contrast"]}).response
    found += contrast["violations"] + contrast["incomplete"]
    assert [(each["id"], node["html"][:200]) for each in found for node in each["nodes"]] == []
    assert len(contrast["passes"][0]["nodes"]) > 60  # as many texts were compared with what is behind them
    panels.evaluate_all("(all, hidden) => all.forEach((each, i) => { each.hidden = hidden[i]; })", hidden)


def test_the_page_can_be_used_with_the_keyboard_alone_and_printed_without_its_controls(page, tmp_path):
    make_image((640, 480)).save(tmp_path / "lesion.png")
    page.get_by_role("tab", name="Single image").click()
    page.keyboard.press("ArrowRight")
    page.set_input_files("#files", [tmp_path / "lesion.png"] * 2)
    page.locator("#rows .total").wait_for()
    for key in ("j", "k", "j", "j", "Enter"):
        page.keyboard.press(key)
    page.locator("#rows details").nth(1).locator(".detail .sentence").wait_for()
    assert page.locator("#rows .left").inner_text() == "Shown: 2 of 2; opened: 1."
    assert page.locator("#kind label").first.get_attribute("data-count") == "2"
    page.get_by_role("tab", name="Batch").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Choose an image"
    # The browser's own window of files, which it does not always open without a screen, is left out.
    page.evaluate("document.querySelector('#file').onclick = () => { window.asked = true; return false; }")
    page.keyboard.press("Enter")
    page.wait_for_function("window.asked")
    page.set_input_files("#file", tmp_path / "lesion.png")
    page.locator("#result .record").wait_for()
    page.emulate_media(media="print")
    shown = ("#notice", "#picture img", "#result .sentence", "#result .record")
    assert all(page.locator(each).first.is_visible() for each in shown)
    assert not any(
        page.locator(each).is_visible() for each in ("#tries", "#take", "#choose", "[role=tablist]", "footer")
    )
    page.emulate_media(media="screen")


def test_weights_that_were_stored_in_half_precision_are_sent_so(files):
    assert len(files["release/model.onnx"]) < 1.05 * (BUNDLED / "model.safetensors").stat().st_size


def test_the_runtime_comes_with_its_licence(files):
    assert files[f"onnxruntime/{web_runtime.SCRIPT}"].startswith(b"/*!\n * ONNX Runtime Web")
    assert b"MIT License" in files["onnxruntime/LICENSE"]
