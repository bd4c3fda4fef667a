"""What comes in: bodies that are bounded while they stream, and images that are looked at before they are decoded."""

from __future__ import annotations

import asyncio
import io

from PIL import Image, UnidentifiedImageError
from starlette.requests import ClientDisconnect, Request

from stego_dist.serve.refusals import STOPPING, Refused

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Formats whose readers run: Pillow's others call programs, or are seldom used and little tested."""
BODY_SECONDS = 60.0
LONGEST_NAME = 100


async def read_body(request: Request, limit: int) -> bytes:
    """A request's body, of which at most `limit` bytes are ever held.

    Raises Refused: larger (413), slow (408), broken off (400), or the server stops (503).
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    left = limit
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                left -= len(part)
                if left < 0:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"The upload took longer than {BODY_SECONDS:g} s and was given up.") from None
    except ClientDisconnect:
        raise Refused(400, "The upload broke off.") from None
    except asyncio.CancelledError:  # by uvicorn, at the end
        raise Refused(503, STOPPING) from None
    return b"".join(parts)


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The file is larger than the limit of {limit / 1e6:g} MB (--max-mb).")


def check_image(data: bytes, name: str, max_pixels: int) -> None:
    """Look at an image's header. Raises Refused: no image (415), more pixels than the limit (413).

    Nothing is decompressed but an embedded profile or text, and of these Pillow takes a bounded part.
    """
    if not data:
        raise Refused(415, f"{name} is empty.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise Refused(413, f"{name} has more pixels than {max_pixels / 1e6:g} million (--max-megapixels).") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS[:-1]) + " or " + FORMATS[-1]
        raise Refused(415, f"{name} is no image that can be read; send {known}.") from None
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        raise Refused(415, f"{name} can't be read as an image: {error}.") from None
    if width * height > max_pixels:
        raise Refused(
            413,
            f"{name} has {width}×{height} = {width * height / 1e6:.0f} million pixels; the limit is "
            f"{max_pixels / 1e6:g} million (--max-megapixels).",
        )


def plain_name(name: str) -> str:
    """The last part of a file's name, as it may stand in sentences and in names of downloads."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(c if c.isprintable() else "_" for c in last).strip(". ")
    return shown[-LONGEST_NAME:] or "image"
