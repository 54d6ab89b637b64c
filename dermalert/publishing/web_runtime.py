"""ONNX Runtime for the browser: fetched once from the npm registry, held against its fingerprint, kept in the cache."""

import base64
import gzip
import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path

import onnxruntime
from dermalert_space.files import atomic_write

from dermalert.errors import RunError
from dermalert.imaging.cache_folder import cache_folder

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, as npm publishes it."""

ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SECONDS = 60

SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
LICENCES = ("LICENSE", "ThirdPartyNotices.txt")
"""The npm package lacks them; the package for Python, of the same source, has them."""


def files() -> dict[str, bytes]:
    """The runtime by file names: its script, its binary packed by gzip, and its licences.

    Raises:
        RunError: it is not in the cache, and the registry cannot be reached or has another file there.
    """
    folder = cache_folder() / f"onnxruntime-web-{VERSION}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder) as partial:
            _unpack(_fetch(), partial)
    licences = {name: (Path(onnxruntime.__file__).parent / name).read_bytes() for name in LICENCES}
    return {path.name: path.read_bytes() for path in folder.iterdir()} | licences


def _fetch() -> bytes:
    try:
        with urllib.request.urlopen(ADDRESS, timeout=SECONDS) as answer:
            content: bytes = answer.read()
    except OSError as error:
        raise RunError(f"cannot fetch {ADDRESS} ({error}): run the same command where there is a network.") from error
    if integrity(content) != INTEGRITY:
        raise RunError(f"{ADDRESS} is not the file that this version of dermalert was made with: nothing is written.")
    return content


def integrity(content: bytes) -> str:
    """The fingerprint of a package, as npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()


def _unpack(package: bytes, to: Path) -> None:
    to.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        script, binary = (archive.extractfile(f"package/dist/{name}") for name in (SCRIPT, BINARY))
        assert script and binary  # of this very package
        (to / SCRIPT).write_bytes(script.read())
        # Not every host packs what it sends; the page unpacks it. mtime: the same bytes on each machine.
        (to / f"{BINARY}.gz").write_bytes(gzip.compress(binary.read(), mtime=0))
