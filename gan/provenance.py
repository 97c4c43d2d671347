"""How a generated picture says so: in words on the picture, and in the file's metadata.

The file holds an XMP packet with the IPTC's digital source type, which photo software and platforms read, and a comment with
the whole provenance as JSON. Neither is signed: whoever edits the file can remove them.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from PIL import Image
from PIL.PngImagePlugin import PngInfo

MARK = "AI-generated"
XMP_CHUNK = "XML:com.adobe.xmp"
COMMENT_CHUNK = "Comment"
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]


def provenance(
    *, model: str, version: str, training_data: Mapping[str, int], as_of: datetime, seed: int, category: str
) -> dict[str, str]:
    """How a picture was made, as names and texts, for gold/creatives and for the file's metadata.

    `training_data` holds the version of each table that the generator was trained on; `as_of` is the run's, so that a rerun
    writes the same file.
    """
    return {
        "synthetic": "true",
        "model": model,
        "version": version,
        "training_data": ", ".join(f"{table}@{version}" for table, version in sorted(training_data.items())),
        "date": as_of.date().isoformat(),
        "seed": str(seed),
        "category": category,
    }


def xmp(source_type: SourceType, description: str) -> bytes:
    """An XMP packet with the IPTC digital source type and a description."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" Iptc4xmpExt:DigitalSourceType={quoteattr(SOURCE_TYPES + source_type)}>"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(description)}</rdf:li></rdf:Alt></dc:description>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def save(image: Image.Image, path: Path, facts: Mapping[str, str], source_type: SourceType) -> str:
    """Write a PNG or JPEG (by suffix) with its provenance, atomically; returns the file's SHA-256."""
    packet = xmp(source_type, f"{MARK} by {facts['model']} {facts['version']}")
    comment = json.dumps(dict(facts), sort_keys=True, ensure_ascii=False)
    content = io.BytesIO()
    if path.suffix == ".png":
        chunks = PngInfo()
        chunks.add_itxt(XMP_CHUNK, packet.decode())
        chunks.add_itxt(COMMENT_CHUNK, comment)
        image.save(content, "PNG", pnginfo=chunks)
    elif path.suffix in (".jpg", ".jpeg"):
        image.save(content, "JPEG", quality=92, subsampling=0, xmp=packet, comment=comment)
    else:
        raise ValueError(f"{path.name}: a creative must be a .png, .jpg or .jpeg")
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.getvalue())
    part.replace(path)
    return hashlib.sha256(content.getvalue()).hexdigest()


def read(path: Path) -> dict[str, str]:
    """The provenance in a file's metadata; empty where there is none."""
    with Image.open(path) as image:
        comment = image.info.get(COMMENT_CHUNK) or image.info.get("comment")
    if comment is None:
        return {}
    facts: dict[str, str] = json.loads(comment)
    return facts
