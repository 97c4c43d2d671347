"""The zip that spark-submit ships to the executors: lib, rl, gan and the shipped mappings.

`python -m lib.cli.package FILE` writes it completely or not at all.
"""

import sys
import zipfile
from pathlib import Path

from lib.pipeline import ROOT

PACKAGED = ("lib", "rl", "gan", "conf/formats")
# File types that are shipped, besides licences; anything else left in these folders is not.
KINDS = (".py", ".j2", ".css", ".html", ".ttf", ".yaml")


def build(target: Path) -> Path:
    """Write the zip with sorted entries and without bytecode, so that equal sources give equal content."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in PACKAGED:
            for file in sorted((ROOT / folder).rglob("*")):
                if file.suffix in KINDS or file.name == "LICENSE":
                    archive.write(file, file.relative_to(ROOT))
    part.replace(target)
    return target


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
