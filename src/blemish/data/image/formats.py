"""Kinds of picture files: which are read, by their first bytes, and which are pictures and are not read."""

from __future__ import annotations

import re
import struct
from functools import cache
from pathlib import Path

from blemish.errors import DataError

FORMATS = "PNG, JPEG, TIFF, BMP, WebP, GIF, PBM/PGM/PPM/PFM, JPEG 2000 and, where Pillow has it, AVIF"
SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .tif .tiff .bmp .dib .webp .gif .pbm .pgm .ppm .pnm .pfm .jp2 .j2k .j2c "
    ".jpc .jpx .jpf .avif".split()
)
HEAD = 512  # bytes that identify a format

_PNG, _JP2 = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_SAVE = "save it as PNG or TIFF, or pass a numpy array"
_RENDER = "render it to PNG first"
_RAW = "develop it to a TIFF of 16 bits first"
# Named by their suffix; TIFFs by their first bytes, whose first page is a preview or one level of many.
_AS_TIFF = {
    **dict.fromkeys(".dng .nef .nrw .cr2 .arw .sr2 .srw .pef .erf .kdc .dcr .3fr .iiq .mos .mef .rwl .gpr".split(),
                    ("camera RAW", _RAW)),
    **dict.fromkeys(".svs .ndpi .scn .bif .lsm .stk".split(), ("a slide scanner's or microscope's file", _SAVE)),
}  # fmt: skip
_UNREAD = {
    **_AS_TIFF,
    **dict.fromkeys(".raw .cr3 .crw .orf .rw2 .raf .x3f".split(), ("camera RAW", _RAW)),
    **dict.fromkeys(".heic .heif .hif".split(), ("HEIC", _SAVE)),
    **dict.fromkeys(".dcm .dicom .dic".split(), ("DICOM", "export its frames as PNG of 16 bits, or pass an array")),
    **dict.fromkeys(".svg .svgz".split(), ("SVG", _RENDER)),
    **dict.fromkeys(".pdf .ai".split(), ("PDF", _RENDER)),
    **dict.fromkeys(".eps .ps .wmf .emf".split(), ("a drawing", _RENDER)),
    **dict.fromkeys(".psd .psb".split(), ("Photoshop's file", _SAVE)),
    **dict.fromkeys(".czi .lif .nd2 .oib .oif .vsi .mrxs .ims".split(), ("a microscope's file", _SAVE)),
    **dict.fromkeys(".nii .nii.gz .mha .mhd .nrrd .fits .fit .fts".split(), ("a volume or a measured field", _SAVE)),
    ".jxl": ("JPEG XL", _SAVE), ".jxr": ("JPEG XR", _SAVE), ".wdp": ("JPEG XR", _SAVE), ".exr": ("OpenEXR", _SAVE),
    ".hdr": ("Radiance HDR", _SAVE), ".tga": ("TGA", _SAVE), ".pcx": ("PCX", _SAVE), ".dds": ("DDS", _SAVE),
    ".ico": ("an icon", _SAVE), ".icns": ("an icon", _SAVE), ".cur": ("an icon", _SAVE), ".xcf": ("GIMP's file", _SAVE),
    ".kra": ("Krita's file", _SAVE), ".qoi": ("QOI", _SAVE), ".sgi": ("SGI", _SAVE), ".pam": ("PAM", _SAVE),
    ".xbm": ("XBM", _SAVE), ".xpm": ("XPM", _SAVE), ".djvu": ("DjVu", _RENDER),
}  # fmt: skip
_UNREAD_MAGIC = (
    (rb"8BPS", "Photoshop's file", _SAVE), (rb"%PDF-", "PDF", _RENDER), (rb"%!PS", "a drawing", _RENDER),
    (rb"(?s).{128}DICM", "DICOM", _UNREAD[".dcm"][1]), (rb"(?s).{4}ftyp(hei|hev|mif1|msf1)", "HEIC", _SAVE),
    (rb"(?s).{4}ftypcrx", "camera RAW", _RAW), (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL", _SAVE),
    (rb"v/1\x01", "OpenEXR", _SAVE), (rb"#\?RADIANCE", "Radiance HDR", _SAVE), (rb"gimp xcf", "GIMP's file", _SAVE),
    (rb"FUJIFILMCCD-RAW|II\x55\x00|IIRO|IIRS|MMOR", "camera RAW", _RAW), (rb"II\xbc", "JPEG XR", _SAVE),
    (rb"SIMPLE  =", "a volume or a measured field", _SAVE), (rb"qoif", "QOI", _SAVE), (rb"P7\n", "PAM", _SAVE),
    (rb"(?s)\s*(<\?xml[^>]*>)?\s*(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>)?\s*<svg[\s>]", "SVG", _RENDER),
)  # fmt: skip


def kind_of(head: bytes) -> str | None:
    """The supported format that a file's first bytes (`HEAD` of them) identify; None for others."""
    plain = {
        _PNG: "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",
        b"GIF87a": "GIF", b"GIF89a": "GIF", _JP2: "JPEG2000", b"\xff\x4f\xff\x51": "JPEG2000",
    }  # fmt: skip
    for magic, kind in plain.items():
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and len(head) >= 18 and struct.unpack("<I", head[14:18])[0] in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if re.match(rb"P[1-6](\s|#[^\n]*\n)+\d|P[Ff]\s+\d+\s+\d+\s", head):
        return "PNM"
    if head[4:8] == b"ftyp" and re.match(rb"avi[fs]", head[8:12]) and _has_avif():
        return "AVIF"
    return None


@cache
def _has_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))


def unread_kind(name: str | Path, head: bytes) -> tuple[str, str] | None:
    """(what it is, what to do) of a picture that is not read, by its first bytes or its name; None for all else.

    A TIFF by its first bytes may be a camera's raw file by its name; other names say nothing where the bytes do.
    """
    lower = Path(name).name.lower()
    suffix = ".nii.gz" if lower.endswith(".nii.gz") else Path(lower).suffix
    if (kind := kind_of(head)) is not None:
        return _AS_TIFF.get(suffix) if kind == "TIFF" else None
    for magic, what, hint in _UNREAD_MAGIC:
        if re.match(magic, head):
            return what, hint
    if head[4:8] == b"ftyp" and re.match(rb"avi[fs]", head[8:12]):
        return "AVIF, which this Pillow lacks,", _SAVE
    return _UNREAD.get(suffix)


def is_unread(path: Path) -> bool:
    """By its name: a picture that is not read."""
    return path.suffix.lower() in _UNREAD or path.name.lower().endswith(".nii.gz")


def unread(name: str | Path, what: str, hint: str) -> DataError:
    """The error for a picture of a kind that is not read."""
    return DataError(f"{what} is not read", path=name, hint=hint)
