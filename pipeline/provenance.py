"""What a result says of its making: IPTC's DigitalSourceType in XMP, beside whatever the photo's own XMP says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

# IPTC's word for a photo with parts that a trained model made.
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
NAMESPACE = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
BLOCK = """<rdf:Description xmlns:rdf="{rdf}" rdf:about="{about}" xmlns:Iptc4xmpExt="{namespace}">
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
</rdf:Description>
"""


def marked(xmp: bytes | None) -> bytes:
    """`xmp` with the DigitalSourceType of an edited photo in place of any other; a packet of its own for None.

    All else stays as it was, byte for byte, but for the padding at the end. A packet that is no XML is replaced.
    """
    text = readable(xmp)
    prefixes = re.findall(rf'xmlns:([\w.-]+)\s*=\s*["\']{re.escape(NAMESPACE)}["\']', text)
    for name in {re.escape(prefix) + ":DigitalSourceType" for prefix in prefixes}:
        text = re.sub(rf"<{name}\b[^>]*?(?:/>|>.*?</{name}\s*>)", "", text, flags=re.DOTALL)
        text = re.sub(rf"""\s{name}\s*=\s*(?:"[^"]*"|'[^']*')""", "", text)
    about = re.search(r"""<\w+:Description\b[^>]*?\w+:about\s*=\s*["']([^"'<]*)["']""", text)
    block = BLOCK.format(rdf=RDF, about=about[1] if about else "", namespace=NAMESPACE, source=COMPOSITE)
    end = list(re.finditer(r"</[\w.-]+:RDF\s*>", text))[-1].start()
    text = text[:end] + block + text[end:]
    return re.sub(r"\s+(<\?xpacket end=)", r"\n\1", text).encode()


def readable(xmp: bytes | None) -> str:
    """The packet's text, or an empty packet's where there is none that can be added to."""
    try:
        text = (xmp or b"").decode("utf-8").rstrip("\0")
        ElementTree.fromstring(text.lstrip("\ufeff"))  # only to see whether it is well formed
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError):
        return EMPTY
    return text if re.search(r"</[\w.-]+:RDF\s*>", text) else EMPTY
