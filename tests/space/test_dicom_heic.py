"""DICOM files and HEIC photos are read where their libraries are installed, and nobody's name comes along."""

import numpy as np
import pytest
from dermalert_space import dicom as dicom_files
from dermalert_space import images
from dermalert_space.images import UnreadableImage, read_image
from PIL import ExifTags, Image
from support.dicom import NUMBER, PATIENT, dicom, heic
from support.pictures import picture

pytest.importorskip("pydicom", reason="needs pydicom: `pip install 'dermalert[formats]'`")
pytest.importorskip("pillow_heif", reason="needs pillow-heif: `pip install 'dermalert[formats]'`")


def smooth(size=(96, 64)) -> Image.Image:
    """A picture that survives a lossy format."""
    return picture(0, size=8).resize(size)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_the_pixels_of_a_dicom_file_are_those_that_were_put_in():
    image = smooth()
    assert np.array_equal(read_image(dicom(image)), image)
    grey = image.convert("L")
    assert np.array_equal(read_image(dicom(grey)), grey.convert("RGB"))
    negative = read_image(dicom(grey, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(negative, Image.fromarray(255 - np.asarray(grey)).convert("RGB"))
    assert difference(read_image(dicom(image, compressed=True)), image) < 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: dicom(smooth(), NumberOfFrames=2), "of several pictures: export its image as JPEG or PNG"),
        (lambda: dicom(smooth(), deflated=True), "packed in a way that is not read here: export"),
        (lambda: dicom(smooth(), PhotometricInterpretation="PALETTE COLOR"), "colours that are not read here: export"),
        (lambda: dicom(smooth(), BitsAllocated=16), "16 bits a pixel, not 8: export"),
        (lambda: dicom(smooth(), Rows=60_000, Columns=60_000), "60000 x 60000 pixels: shrink it"),
        (
            lambda: dicom(smooth(), compressed=True, PhotometricInterpretation="RGB"),
            "a JPEG of unusual colours: export",
        ),
        (lambda: dicom(smooth())[:-400], "damaged or cut short"),
        (lambda: heic(smooth())[:-400], "damaged or cut short"),
        (lambda: heic(smooth(), pages=2), "several pictures: save the one"),
    ],
)
def test_what_is_not_read_is_one_sentence(content, reason):
    with pytest.raises(UnreadableImage) as error:
        read_image(content())
    assert reason in str(error.value) and str(error.value).count(". ") == 0


def test_a_heic_photo_is_read_upright():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    assert read_image(heic(smooth(), exif=exif)).size == (64, 96)
    assert difference(read_image(heic(smooth())), smooth()) < 4


def test_without_their_libraries_they_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(dicom_files, "is_readable", lambda: False)
    monkeypatch.setattr(images, "reads_heic", lambda: False)
    for content, reason in (
        (dicom(smooth()), "it is a DICOM file: export its image as JPEG or PNG (pydicom, installed here, would"),
        (heic(smooth()), "it is a HEIC photo: save it as JPEG or PNG (pillow-heif, installed here, would"),
    ):
        with pytest.raises(UnreadableImage) as error:
            read_image(content)
        assert reason in str(error.value)


def test_no_name_of_a_patient_is_logged_whatever_is_wrong_with_the_file(capfd, caplog, recwarn):
    contents = dicom(smooth()), dicom(smooth(), SpecificCharacterSet=PATIENT), dicom(smooth())[:-400]
    recwarn.clear()  # of what has written them
    for content in contents:
        assert PATIENT.encode() in content
        try:
            read_image(content)
        except UnreadableImage as error:
            assert PATIENT not in str(error)
    output = capfd.readouterr()
    texts = [output.out, output.err, caplog.text, *(str(warning.message) for warning in recwarn)]
    assert not any(name in text for text in texts for name in (PATIENT, NUMBER))
