"""Zip a folder: zlib at level 6, which is what wheels of vllm-builder are compressed with. ``FOLDER OUT``."""

import sys
import zipfile
from pathlib import Path

folder, out = map(Path, sys.argv[1:])
with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            archive.write(path, path.relative_to(folder))
