"""DICOM files of a patient who must be found nowhere, and HEIC photos."""

import io

import numpy as np
from PIL import Image

from support.pictures import jpeg

PATIENT = "Doe^Hildegard"
NUMBER = "ID-471193"


def dicom(image: Image.Image, *, compressed: bool = False, deflated: bool = False, **tags: object) -> bytes:
    """A dermoscopic DICOM file."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    pixels = np.asarray(image)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = (
        uid.JPEGBaseline8Bit
        if compressed
        else uid.DeflatedExplicitVRLittleEndian
        if deflated
        else uid.ExplicitVRLittleEndian
    )
    dataset.SOPClassUID = uid.DermoscopicPhotographyImageStorage
    dataset.SOPInstanceUID = uid.generate_uid()
    dataset.PatientName, dataset.PatientID = PATIENT, NUMBER
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "YBR_FULL_422" if compressed else "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.PlanarConfiguration = 7, 0, 0
    dataset.PixelData = encapsulate([jpeg(image, 95)]) if compressed else pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def heic(image: Image.Image, *, exif: Image.Exif | None = None, pages: int = 1) -> bytes:
    """A HEIC photo, turned as its EXIF says."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    more = {"exif": exif.tobytes()} if exif else {}  # of an Exif itself the turn would not be taken
    image.save(file, "HEIF", quality=95, save_all=pages > 1, append_images=[image] * (pages - 1), **more)
    return file.getvalue()
