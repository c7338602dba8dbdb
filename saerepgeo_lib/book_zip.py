"""The built book as one ZIP file, the same bytes for the same pages."""

import zipfile
from pathlib import Path

from saerepgeo_lib.files import atomic_path

FOLDER = "saerepgeo-book"  # in the ZIP, so that unpacking makes one folder
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows


def zip_book(html: Path, out: Path) -> Path:
    """Pack the folder `html` into `out`, atomically: sorted names, fixed times and rights.

    Hidden files are left out. Unpacked, `saerepgeo-book/index.html` opens from disk.
    """
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        for path in sorted(p for p in html.rglob("*") if p.is_file()):
            inside = path.relative_to(html)
            if any(part.startswith(".") for part in inside.parts):
                continue
            entry = zipfile.ZipInfo(f"{FOLDER}/{inside.as_posix()}", _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever it is made
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, path.read_bytes(), compresslevel=9)
    return out
