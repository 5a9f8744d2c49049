"""A picture of a report for the manual: python tools/report_picture.py REPORT.html PICTURE.png [WIDTH HEIGHT]."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.chromium import Chromium, find


def main(report: Path, picture: Path, width: int = 1120, height: int = 1500) -> None:
    """The top of the page, in light."""
    program = find()
    if program is None:
        sys.exit("no Chromium here: make debian, or apt-get install chromium")
    with Chromium(program) as browser:
        browser.open(report.resolve().as_uri(), width=width, height=height)
        browser.picture(picture, whole=False)
    with Image.open(picture) as image:
        image.convert("RGB").save(picture, optimize=True)
    print(f"wrote {picture}, {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]))
