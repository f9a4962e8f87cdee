"""Fashion-MNIST: 70,000 real images of clothing, found on this machine or fetched as a Debian package.

Needs no root: the package is downloaded and unpacked below a cache folder, never installed. Knows nothing of
tables.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["LABELS", "DataError", "Images", "find_or_fetch", "read_images"]

PACKAGE = "dataset-fashion-mnist"
FOLDER = Path("usr/share/datasets/fashion-mnist")
VARIABLE = "LAKE_DEMO_DATA"
FILES = tuple(
    f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
LABELS = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801


class DataError(Exception):
    """The images cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Images:
    """One split of the data.

    Attributes
    ----------
    pixels
        Grey values from 0 to 1, row by row; float32, shape ``(images, 784)``.
    labels
        Positions in :data:`LABELS`; shape ``(images,)``.
    """

    pixels: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]


def find_or_fetch(cache: Path) -> Path:
    """The folder with the four files; fetched into ``cache`` (31 MB) where this machine has them nowhere else.

    Raises
    ------
    DataError
        They are not there and cannot be fetched.
    """
    given = os.environ.get(VARIABLE)
    if given and not _is_complete(Path(given)):
        raise DataError(f"{VARIABLE}={given} lacks some of {', '.join(FILES)}")
    unpacked = cache / "fashion-mnist"
    for folder in (Path(given or "."), Path("/") / FOLDER, unpacked / FOLDER):
        if _is_complete(folder):
            return folder
    _fetch(cache, unpacked)
    if not _is_complete(unpacked / FOLDER):
        raise DataError(
            f"the Debian package {PACKAGE} has other files than expected; set {VARIABLE} to a copy"
        )
    return unpacked / FOLDER


def read_images(folder: Path, split: str) -> Images:
    """Read the split ``train`` (60,000 images) or ``t10k`` (10,000)."""
    images = _read_idx(folder / f"{split}-images-idx3-ubyte.gz", IMAGES_MAGIC)
    labels = _read_idx(folder / f"{split}-labels-idx1-ubyte.gz", LABELS_MAGIC)
    if len(images) != len(labels):
        raise DataError(f"{folder} has {len(images)} images but {len(labels)} labels")
    return Images(images.reshape(len(images), -1).astype(np.float32) / np.float32(255), labels)


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def _read_idx(path: Path, magic: int) -> npt.NDArray[np.uint8]:
    """An IDX file (Y. LeCun's format): big-endian magic, one 32-bit length a dimension, then bytes."""
    try:
        data = gzip.decompress(path.read_bytes())
        dimensions = magic & 0xFF
        found, *shape = struct.unpack_from(f">{dimensions + 1}I", data)
        values = np.frombuffer(data, np.uint8, offset=4 * (dimensions + 1))
        if found != magic:
            raise ValueError(f"it starts with {found:#x}")
        return values.reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path} is damaged ({error}); remove it and run the demo again") from error


def _fetch(cache: Path, unpacked: Path) -> None:
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise DataError(
                f"this machine has no {program} to fetch the images with; "
                f"put {', '.join(FILES)} into a folder and set {VARIABLE} to it"
            )
    downloads = cache / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    package = _downloaded(downloads) or _download(downloads, cache / "apt")
    # Unpacked beside its place and renamed, so that an interrupted run leaves nothing half there.
    beside = unpacked.with_suffix(".part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        _run(["dpkg", "-x", str(package), str(beside)], "unpack the images")
    except DataError:
        package.unlink()  # cut short by an earlier interruption; the next run downloads it again
        raise
    shutil.rmtree(unpacked, ignore_errors=True)
    beside.rename(unpacked)


def _downloaded(downloads: Path) -> Path | None:
    return next(iter(downloads.glob(f"{PACKAGE}_*.deb")), None)


def _download(downloads: Path, state: Path) -> Path:
    """Download the package: with this machine's package lists, else with fresh lists of our own."""
    download = ["apt-get", "-qq", "download", PACKAGE]
    if _succeeds(download, downloads):
        return _require_download(downloads)
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    private = [
        "-o",
        f"Dir::State::lists={(state / 'lists').resolve()}",
        "-o",
        f"Dir::Cache={state.resolve()}",
        "-o",
        "APT::Sandbox::User=",
    ]
    _run(["apt-get", "-qq", *private, "update"], "fetch package lists (is there a network?)", downloads)
    _run(["apt-get", "-qq", *private, "download", PACKAGE], f"download {PACKAGE}", downloads)
    return _require_download(downloads)


def _require_download(downloads: Path) -> Path:
    package = _downloaded(downloads)
    if package is None:
        raise DataError(
            f"apt-get downloaded nothing for {PACKAGE}; set {VARIABLE} to a folder with the images"
        )
    return package


def _succeeds(command: list[str], folder: Path) -> bool:
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)  # noqa: S603 - our own words
    return done.returncode == 0


def _run(command: list[str], purpose: str, folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - as above
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"cannot {purpose}: {last}; or set {VARIABLE} to a folder with {', '.join(FILES)}")
