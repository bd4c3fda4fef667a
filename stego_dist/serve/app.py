"""The page and what it asks for.

    GET  /                              the page; its files are below /static
    GET  /api/state                     the run, and limits
    GET  /api/names                     names of the clusters; PUT edits them (naming.py)
    POST /api/images?name=FILE          an image as the body; predicts
    GET  /api/images/ID                 what was predicted; below it preview.jpg, cells, labels.png, overlay.png

Answers are JSON or pictures; errors are {"error": sentence}.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from stego_dist.errors import UserError
from stego_dist.inference.model import Model
from stego_dist.serve.guard import Guard
from stego_dist.serve.naming import NamesEditor
from stego_dist.serve.refusals import Refused
from stego_dist.serve.shelf import KEEP, Seen, Shelf, look_at
from stego_dist.serve.uploads import check_image, plain_name, read_body
from stego_dist.serve.worker import Worker

T = TypeVar("T")
STATIC = Path(__file__).parent / "static"
EDIT_BYTES = 1 << 16
CONFLICT = 409


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for."""

    upload_bytes: int = 32_000_000
    pixels: int = 50_000_000
    seconds: float = 120.0
    """Of a prediction, waiting included."""
    places: int = 8
    """Images that may come in, and that may wait, at a time."""


class Page:
    """One run's page: what its handlers share."""

    def __init__(self, model: Model, editor: NamesEditor, facts: dict[str, Any], limits: Limits) -> None:
        """facts: of the run, for people."""
        self.model, self.editor, self.facts, self.limits = model, editor, facts, limits
        self.worker, self.shelf = Worker(limits.places), Shelf()
        self.server = secrets.token_urlsafe(6)
        """Tells a page what it remembers of this server from what it does of another."""
        self._coming = 0

    def app(self, hosts: Collection[str] = ()) -> ASGIApp:
        """The application. hosts: see `Guard`."""
        routes = [
            Route("/", self.index),
            Route("/api/state", self.state),
            Route("/api/names", self.names),
            Route("/api/names", self.edit_names, methods=["PUT"]),
            Route("/api/images", self.predict, methods=["POST"]),
            Route("/api/images/{key}", self.seen),
            Route("/api/images/{key}/preview.jpg", self.preview),
            Route("/api/images/{key}/cells", self.cells),
            Route("/api/images/{key}/labels.png", self.labels),
            Route("/api/images/{key}/overlay.png", self.overlay),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        handlers: dict[Any, Any] = {UserError: _refused, HTTPException: _no_such, Exception: _failed}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts)

    async def index(self, request: Request) -> Response:
        """The page itself."""
        return FileResponse(STATIC / "index.html")

    async def state(self, request: Request) -> Response:
        """What the page shows before any image."""
        limits = {"bytes": self.limits.upload_bytes, "pixels": self.limits.pixels, "kept": KEEP}
        return JSONResponse(self.facts | {"server": self.server, "limits": limits, "locked": self.editor.locked})

    async def names(self, request: Request) -> Response:
        """Names now."""
        return JSONResponse(self.editor.described(self.editor.current()))

    async def edit_names(self, request: Request) -> Response:
        """Names after an edit; on a conflict the error has the names as they are."""
        try:
            edit = json.loads(await read_body(request, EDIT_BYTES))
        except (ValueError, RecursionError):
            raise Refused(400, "An edit is JSON.") from None
        # from here on nothing is awaited: no other edit comes in between
        try:
            return JSONResponse(self.editor.described(self.editor.edit(edit)))
        except Refused as error:
            if error.status != CONFLICT:
                raise
            names = self.editor.described(self.editor.current())
            return JSONResponse({"error": str(error), "names": names}, CONFLICT)

    async def predict(self, request: Request) -> Response:
        """Take an image, answer what was seen."""
        if self._coming >= self.limits.places:
            raise Refused(503, "Too many images come in at once. Try again in a moment.")
        self._coming += 1
        try:
            name = plain_name(request.query_params.get("name", ""))
            data = await read_body(request, self.limits.upload_bytes)
            seen = await self._work(partial(self._look_at, data, name))
        finally:
            self._coming -= 1
        self.shelf.put(seen)
        return JSONResponse(seen.described(), 201)

    def _look_at(self, data: bytes, name: str) -> Seen:
        check_image(data, name, self.limits.pixels)
        return look_at(self.model, data, name, self.limits.pixels)

    async def seen(self, request: Request) -> Response:
        """What was predicted."""
        return JSONResponse(self._seen(request).described())

    async def preview(self, request: Request) -> Response:
        """The upright image."""
        return Response(self._seen(request).preview, media_type="image/jpeg")

    async def cells(self, request: Request) -> Response:
        """Clusters of the preview's pixels, uint16."""
        packed = self._seen(request).cells
        return Response(packed, media_type="application/octet-stream", headers={"content-encoding": "gzip"})

    async def labels(self, request: Request) -> Response:
        """Download: classes with their palette."""
        seen, names = self._seen(request), self.editor.current()
        return _download(await self._work(lambda: seen.labels(names)), f"{seen.stem}_classes.png")

    async def overlay(self, request: Request) -> Response:
        """Download: colours over the image, at ?opacity= between 0 and 1."""
        seen, names = self._seen(request), self.editor.current()
        try:
            opacity = float(request.query_params.get("opacity", "0.55"))
        except ValueError:
            opacity = -1.0
        if not 0 <= opacity <= 1:
            raise Refused(400, "The opacity is a number from 0 to 1.")
        return _download(await self._work(lambda: seen.overlay(names, opacity)), f"{seen.stem}_overlay.png")

    def _seen(self, request: Request) -> Seen:
        return self.shelf.get(request.path_params["key"])

    async def _work(self, job: Callable[[], T]) -> T:
        return await self.worker.do(job, self.limits.seconds)


def _download(data: bytes, name: str) -> Response:
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
    return Response(data, media_type="image/png", headers=headers)


async def _refused(request: Request, error: UserError) -> Response:
    """What a person can mend: 409 is of names.yaml, 422 of an image."""
    default = CONFLICT if "names" in request.url.path else 422
    return JSONResponse({"error": str(error)}, getattr(error, "status", default))


async def _no_such(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": f"{error.detail}: {request.method} {request.url.path}"}, error.status_code)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of the program, whose traceback the server prints."""
    return JSONResponse({"error": f"The server failed at this: {type(error).__name__}. It goes on."}, 500)
