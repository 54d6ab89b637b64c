"""An image is decoded once, whatever is killed meanwhile; what is read is whole, and the disk does not fill up."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from dermalert_space import abstention
from dermalert_space.pretrained import load_processor
from PIL import Image
from support.paths import REPOSITORY
from support.pictures import class_folders
from transformers import CLIPImageProcessorPil, MobileViTImageProcessorPil, ViTImageProcessorPil

from dermalert.data import loading
from dermalert.errors import RunError, UsageError
from dermalert.imaging import pixel_cache
from dermalert.imaging.byte_processor import ByteProcessor
from dermalert.imaging.pixel_cache import PixelCache
from dermalert.training import image_dataset
from dermalert.training.backbones import save_processor

PROCESSOR = ViTImageProcessorPil(size={"height": 16, "width": 16})
KEPT = 3 * 16 * 16 + 4 * 8  # bytes of an image: pixels and signals
ROW = 2 * 32 + KEPT


@pytest.fixture(autouse=True)
def packs(cache, monkeypatch):
    """An empty cache, in which a pack holds few images."""
    monkeypatch.setattr(pixel_cache, "_PACK", 4)
    monkeypatch.setattr(pixel_cache, "_mapped", set())
    return cache.parent / "pixels-1"


@pytest.fixture
def dataset(tmp_path):
    return loading.load([str(class_folders(tmp_path / "data", images=2))]).dataset


@pytest.fixture
def decoded(monkeypatch):
    """The images that are decoded from now on."""
    seen = []
    read_image = pixel_cache.read_image
    monkeypatch.setattr(pixel_cache, "read_image", lambda image: seen.append(image) or read_image(image))
    return seen


def pixels(dataset):
    return PixelCache(dataset, ByteProcessor(PROCESSOR))


def expected(dataset):
    return np.stack([ByteProcessor(PROCESSOR).to_bytes(image.convert("RGB")) for image in dataset["image"]])


def test_an_image_is_decoded_once_whichever_run_asks_for_it_again(dataset, decoded):
    assert np.array_equal(pixels(dataset)[range(18)], expected(dataset))
    assert len(decoded) == 18
    some = dataset.shuffle(seed=0).select(range(7))
    assert np.array_equal(pixels(some)[[3, 0, 3]], expected(some)[[3, 0, 3]])
    assert len(decoded) == 18


def test_what_is_new_in_a_data_set_is_decoded_and_a_copy_is_not(dataset, decoded, tmp_path):
    pixels(dataset)
    copied = next((tmp_path / "data" / "melanoma").iterdir())
    (tmp_path / "data" / "melanoma" / "copy.png").write_bytes(copied.read_bytes())
    class_folders(tmp_path / "data" / "more", images=1, first_seed=500, labels=("nevus",))
    more = loading.load([str(tmp_path / "data"), str(tmp_path / "data" / "more")]).dataset
    assert len(more) == 20
    assert np.array_equal(pixels(more)[range(20)], expected(more))
    assert len(decoded) == 19


def test_another_processor_has_pixels_of_its_own(dataset, decoded):
    pixels(dataset)
    nearest = ViTImageProcessorPil(size={"height": 16, "width": 16}, resample=0)
    other = PixelCache(dataset, ByteProcessor(nearest))
    assert len(decoded) == 36
    assert not np.array_equal(other[range(18)], expected(dataset))


@pytest.mark.parametrize("missing", [1, ROW])
def test_a_pack_that_was_cut_short_is_not_read(dataset, decoded, packs, missing):
    pixels(dataset)
    cut = sorted(packs.glob("*/*.pack"))[0]
    held = (cut.stat().st_size) // ROW
    os.truncate(cut, cut.stat().st_size - missing)
    assert np.array_equal(pixels(dataset)[range(18)], expected(dataset))
    assert len(decoded) == 18 + held


@pytest.mark.integration
def test_a_run_killed_while_it_decodes_leaves_only_whole_packs_and_the_next_goes_on(dataset, decoded, packs, tmp_path):
    script = f"""
import time
from transformers import ViTImageProcessorPil
from dermalert.data import loading
from dermalert.imaging import pixel_cache
from dermalert.imaging.byte_processor import ByteProcessor
decode, pixel_cache._PACK = pixel_cache.PixelCache._decoded, 4
pixel_cache.PixelCache._decoded = lambda self, row: time.sleep(0.2) or decode(self, row)
processor = ViTImageProcessorPil(size={{"height": 16, "width": 16}})
pixel_cache.PixelCache(loading.load([{str(tmp_path / "data")!r}]).dataset, ByteProcessor(processor))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    while not list(packs.glob("*/*.pack")) or not list(packs.glob("*/*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = sum(path.stat().st_size for path in packs.glob("*/*.pack")) // ROW
    assert 0 < whole < 18
    assert np.array_equal(pixels(dataset)[range(18)], expected(dataset))
    assert len(decoded) == 18 - whole


def test_there_is_a_bound_and_what_is_beyond_it_is_decoded_each_time(dataset, decoded, packs, monkeypatch):
    monkeypatch.setattr(pixel_cache, "AT_MOST", 9 * ROW)
    bounded = pixels(dataset)
    assert sum(path.stat().st_size for path in packs.glob("*/*")) == 8 * ROW
    assert len(decoded) == 8
    for _ in range(2):
        assert np.array_equal(bounded[range(18)], expected(dataset))
    assert len(decoded) == 8 + 2 * 10


def test_what_was_unused_longest_makes_room_and_so_does_what_a_killed_run_left(dataset, packs, monkeypatch):
    old, abandoned, fresh = (packs / "0" / name for name in ("old.pack", "one.partial", "two.partial"))
    for path, age in ((old, 2), (abandoned, 1), (fresh, 0)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(5 * ROW))
        os.utime(path, (time.time() - age * 86400,) * 2)
    monkeypatch.setattr(pixel_cache, "AT_MOST", 23 * ROW)
    pixels(dataset)
    assert [path.exists() for path in (old, abandoned, fresh)] == [False, False, True]
    assert sum(path.stat().st_size for path in packs.glob("*/*.pack")) == 18 * ROW


def test_nobody_but_their_owner_can_read_packs(dataset, packs, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(packs / "elsewhere"))
    pixels(dataset)
    made = [packs / "elsewhere" / "dermalert", *(packs / "elsewhere" / "dermalert").rglob("*")]
    assert {path.suffix for path in made if path.is_file()} == {".pack"}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}
    assert [path.stat().st_mode & 0o777 for path in made if path.is_dir()] == [0o700] * 3


def test_what_cannot_be_written_whole_leaves_nothing(dataset, packs, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pixel_cache, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pixels(dataset)
    assert packs.is_dir()
    assert not list(packs.glob("*/*"))


def test_a_file_that_changed_after_it_was_hashed_is_kept_under_no_name(dataset, packs, tmp_path):
    one, other = list((tmp_path / "data" / "melanoma").iterdir())
    one.write_bytes(other.read_bytes())
    with pytest.raises(RunError, match=f"'.*{one.name}' was changed or removed while the run read it"):
        pixels(dataset)
    gone = next(row["content"] for row in dataset.remove_columns("image") if row["image_id"].endswith(one.stem))
    assert not any(bytes.fromhex(gone) in path.read_bytes() for path in packs.glob("*/*"))


def test_a_pack_that_cannot_be_opened_or_touched_costs_nothing_else(dataset, decoded, packs, monkeypatch):
    pixels(dataset)
    (next(packs.glob("*")) / "0.pack").mkdir()  # opening it is an OSError for root too

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    assert np.array_equal(pixels(dataset)[range(18)], expected(dataset))
    assert len(decoded) == 18


def test_two_runs_with_one_process_number_do_not_write_one_file(dataset, packs, monkeypatch):
    """As in two containers that share a cache: one run begins while another is in the middle of the same pack."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    read_image, runs, written_at_once = pixel_cache.read_image, [], []

    def meanwhile(image):
        if not runs:
            runs.append(None)
            runs.append(pixels(dataset))
        written_at_once.append(len(list(packs.glob("*/*.partial"))))
        return read_image(image)

    monkeypatch.setattr(pixel_cache, "read_image", meanwhile)
    both = [pixels(dataset), runs[1]]
    assert max(written_at_once) == 2
    assert all(np.array_equal(each[range(18)], expected(dataset)) for each in both)


def test_signals_are_those_of_the_whole_picture_and_taken_where_they_are_asked_for(dataset, decoded):
    served = [abstention.signals(image.convert("RGB")) for image in dataset["image"]]
    plain = PixelCache(dataset, ByteProcessor(PROCESSOR)).looks(range(18))
    assert all(np.isnan(list(each.values())).all() for each in plain[1])
    assert len(decoded) == 18
    for asked, times in (("new", 18), ("all", 36), ("all", 36), ("none", 36)):
        pixels, signals = PixelCache(dataset, ByteProcessor(PROCESSOR), signals=asked).looks(range(18))
        assert len(decoded) == times
        assert np.array_equal(pixels, plain[0])
        assert asked == "new" or signals == served


def test_a_release_finds_what_was_decoded_by_the_processor_that_it_was_trained_with(dataset, decoded, tmp_path):
    PixelCache(dataset, ByteProcessor(PROCESSOR))
    save_processor(PROCESSOR, tmp_path / "release")
    saved = load_processor(str(tmp_path / "release"))
    assert type(saved) is not type(PROCESSOR)
    assert np.array_equal(PixelCache(dataset, ByteProcessor(saved))[range(18)], expected(dataset))
    assert len(decoded) == 18


def test_packs_that_another_run_deletes_meanwhile_can_still_be_read(dataset, packs):
    cache = pixels(dataset)
    for path in packs.glob("*/*.pack"):
        path.unlink()
    assert np.array_equal(cache[range(18)], expected(dataset))


def test_without_a_place_to_keep_them_images_are_decoded_each_time(dataset, packs, caplog):
    packs.parent.mkdir(parents=True, exist_ok=True)
    packs.write_text("a file where the folder should be")
    assert np.array_equal(pixels(dataset)[[0, 1]], expected(dataset)[:2])
    assert f"decoded images cannot be kept in '{packs}'" in caplog.text


class Stretching(ViTImageProcessorPil):
    """One that changes colours by the picture."""

    def __call__(self, images, **kwargs):
        batch = super().__call__(images, **kwargs)
        batch["pixel_values"] = batch["pixel_values"] ** 3
        return batch


SHAPED_LIKE_THE_PICTURE = CLIPImageProcessorPil(size={"shortest_edge": 16}, do_center_crop=False)


@pytest.mark.parametrize("processor", [Stretching(size={"height": 16, "width": 16}), SHAPED_LIKE_THE_PICTURE])
def test_a_processor_that_changes_colours_or_shape_by_the_picture_is_refused(processor):
    with pytest.raises(UsageError, match=f"{type(processor).__name__} does more than .*: take another base"):
        ByteProcessor(processor)


@pytest.mark.parametrize(
    "processor",
    [
        MobileViTImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
        MobileViTImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, resample=0),
        MobileViTImageProcessorPil(do_flip_channel_order=False, size={"shortest_edge": 32}, crop_size=32),
        ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False),
        ViTImageProcessorPil(size={"height": 32, "width": 32}, do_rescale=False, image_mean=[90] * 3),
        ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0, 0.9, -2], image_std=[0.1, 3, 1]),
        CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}, resample=1),
    ],
)
def test_pixels_are_kept_as_rgb_and_fed_as_the_processor_would_feed_them(processor):
    processed = ByteProcessor(processor)
    brown = Image.new("RGB", (64, 48), (150, 90, 40))
    assert processed.to_bytes(brown)[:, 16, 16].tolist() == [150, 90, 40]
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8))
    rgb = torch.from_numpy(processed.to_bytes(noise))[None] / 255
    assert torch.allclose(
        processed.to_pixel_values(rgb)[0], processed(noise), atol=float(processed.scale.abs().max()) / 5000
    )


@pytest.mark.parametrize(
    "processor",
    [
        PROCESSOR,
        MobileViTImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
        CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}),
        ViTImageProcessorPil(size={"height": 32, "width": 32}, do_rescale=False, image_mean=[90] * 3),
    ],
)
def test_kept_bytes_give_what_is_served_to_the_bit(processor, dataset):
    processed = ByteProcessor(processor)
    images = [image.convert("RGB") for image in dataset["image"]]
    assert processed.is_exact
    served = processor(images, return_tensors="pt")["pixel_values"]
    assert torch.equal(processed.exact_values(np.stack([processed.to_bytes(image) for image in images])), served)


def test_a_model_that_takes_bgr_is_trained_on_the_very_pixels_that_it_is_served(dataset):
    processor = MobileViTImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16})
    served = processor([image.convert("RGB") for image in dataset["image"]], return_tensors="pt")["pixel_values"]
    trained = image_dataset.ImageDataset(dataset, processor).__getitems__(list(range(18)))["pixel_values"]
    assert torch.allclose(trained, served)


def _kept_of(content, i):
    count = len(content) // ROW
    return slice(count * 32 + i * KEPT, count * 32 + (i + 1) * KEPT)


def rotten(content):
    content[_kept_of(content, 3).start + 7] ^= 1


def blackened(content):
    content[_kept_of(content, 0)] = bytes(KEPT)


def swapped(content):
    one, other = _kept_of(content, 1), _kept_of(content, 2)
    content[one], content[other] = content[other], content[one]


def without_digests(content):
    content[-32 * 18 :] = bytes(32 * 18)


@pytest.mark.parametrize("change", [rotten, blackened, swapped, without_digests])
def test_pixels_that_are_not_those_of_their_file_are_made_anew(dataset, monkeypatch, caplog, change):
    monkeypatch.setattr(pixel_cache, "_PACK", 100)
    rows = list(range(len(dataset)))
    pixels(dataset)
    (pack,) = pixel_cache.folder().glob("*/*.pack")
    content = bytearray(pack.read_bytes())
    change(content)
    pack.chmod(0o600)
    pack.write_bytes(content)
    assert np.array_equal(pixels(dataset)[rows], expected(dataset))
    assert "are damaged: they are made anew" in caplog.text
    caplog.clear()
    assert np.array_equal(pixels(dataset)[rows], expected(dataset))
