"""What the server lets in: the routes that the page and programs need, bodies of a stated size, its own origin.

gradio answers some eighty routes and reads whatever is sent to them. `Guard` stands before all of it, also before what
gradio puts around its routes itself, and says the same to each request whatever it claims of itself: bytes are counted
as they come.
"""

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi.exceptions import RequestValidationError
from gradio import Blocks, route_utils
from gradio.queueing import Queue
from gradio.routes import App
from gradio.routes import file_upload_statuses as uploads
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dermalert_space.page import logs, upload_retention

MAX_UPLOAD = 1_000_000_000
"""Bytes of one upload of files, which go to the disk as they come: a batch of 500 files of 2 MB."""

MAX_JSON = 20_000_000
"""Bytes of any other body, which is held in memory: a picture of 14 MB as base64; dermoscopes write 1 to 8 MB."""

MAX_PARTS = 50_000
"""Commas and brackets of such a body: each may be an object of fifty times its size. 1,000 files take 15,000."""

MAX_HELD = 60_000_000
"""Bytes of all such bodies that are being read or wait for a prediction: a tenth of what the server takes in all."""

MAX_FIELD = 10_000
"""Bytes of a form's field that is no file, which gradio would hold in memory."""

MAX_OPEN = 1_000
"""Requests at once, those that wait for an answer too: a process may have about 1,024 files open."""

FREE_DISK = 1_000_000_000
"""Bytes of the disk that uploads leave free."""

SLACK, SLOWEST = 60.0, 20_000
"""A body may take so many seconds, and one more for each so many bytes: the slowest mobile line is twice as fast."""

_NAME = r"[\w.-]{1,200}"
READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/[\w./@-]{1,300}"
    r"|/gradio_api/(info|theme\.css|startup-events|app_id|queue/data|upload_progress|mcp|mcp/schema"
    rf"|heartbeat/{_NAME}|call/(v2/)?{_NAME}/{_NAME}|file=(?!\w+:)[^\0-\x1f]{{1,2000}})"
)
"""Paths that are read: the page and its parts, uploads and examples, answers and what programs ask of the interface."""

WRITTEN = re.compile(rf"/gradio_api/(upload|queue/join|cancel|reset|mcp|call/(v2/)?{_NAME}|run/{_NAME})")
"""Paths that are written to: uploads, what page and programs send, and that it be stopped."""

UPLOAD = "/gradio_api/upload"

SECURITY = {
    # gradio's page runs scripts that stand in it and makes functions of texts; it loads nothing from elsewhere but, on
    # the Hub, the script that tells the Hub's page how high it is. The Hub shows a Space in a frame.
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' "
        "https://cdnjs.cloudflare.com/ajax/libs/iframe-resizer/; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self' data: "
        "blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
        "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co https://*.hf.space"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "strict-origin-when-cross-origin",
}
"""Headers of each answer."""

_LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}
_HELD = "dermalert.held"  # in the scope of a request: the bytes of its body


class Refused(Exception):
    """A request is not answered; the text says why, in a sentence."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


def large(most: int) -> Refused:
    """The answer to a body above a size."""
    return Refused(413, f"The request is larger than {most // 1_000_000} MB.")


class Guard:
    """The application behind it, asked only what `READ` and `WRITTEN` name, within the bounds above."""

    def __init__(self, app: ASGIApp, queue: Queue, folder: Path):
        self._app, self._queue, self._folder = app, queue, folder
        self._open, self._reading = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # gradio needs no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        response = _Response(receive, send)
        self._open += 1
        try:
            await self._respond(scope, receive, response)
        except Refused as refused:
            await response.refuse(refused)
        except ClientDisconnect:
            pass
        except Exception as error:
            logs.say("a request failed", error)
            await response.refuse(Refused(500, "The server cannot answer this."))
        finally:
            self._open -= 1

    async def _respond(self, scope: Scope, receive: Receive, response: "_Response") -> None:
        if self._open > MAX_OPEN:
            raise Refused(503, "The server is busy: try again in a minute.")
        path = scope["path"]
        if not declared(scope["method"], path):
            raise Refused(404, "There is nothing here.")
        headers = Headers(scope=scope)
        response.same_origin = _settle_origin(scope, headers)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "The body is compressed: send it as it is.")
        most = MAX_UPLOAD if path.rstrip("/") == UPLOAD else MAX_JSON
        claimed = headers.get("content-length", "0")
        if claimed.isdigit() and int(claimed) > most:
            raise large(most)
        if most == MAX_UPLOAD and shutil.disk_usage(self._folder).free < FREE_DISK:
            raise Refused(503, "The server's disk is full: try again in ten minutes.")
        body = response.body = _Body(receive, most)
        await self._app(scope, body if most == MAX_UPLOAD else await self._whole(scope, body), response)

    async def _whole(self, scope: Scope, body: "_Body") -> Receive:
        """Read a body that is held in memory, and give what hands it to the application."""
        if scope["method"] not in ("POST", "DELETE"):
            return body
        content = bytearray()
        try:
            while (message := await body())["type"] == "http.request":
                content += message.get("body", b"")  # one piece: joining many would hold it twice
                self._reading += len(message.get("body", b""))
                if self._reading + self._waiting() > MAX_HELD:
                    raise Refused(503, "The server holds too many requests: try again in a minute.")
                if not message.get("more_body"):
                    break
        finally:
            self._reading -= len(content)
        if sum(content.count(mark) for mark in (b",", b"[", b"{")) > MAX_PARTS:
            raise Refused(413, f"The request has more than {MAX_PARTS:,} parts.")
        scope[_HELD] = len(content)
        return _once(content, body)

    def _waiting(self) -> int:
        events = list(self._queue.event_ids_to_events.values())
        return sum(event.request.scope.get(_HELD, 0) for event in events if event.request)


def declared(method: str, path: str) -> bool:
    """Whether a request is one that the page or a documented program makes."""
    path = path if path == "/" else path.rstrip("/")
    if method in ("GET", "HEAD"):
        return READ.fullmatch(path) is not None and ".." not in path.split("/")
    return method in ("POST", "OPTIONS") and WRITTEN.fullmatch(path) is not None


def _settle_origin(scope: Scope, headers: Headers) -> bool:
    """Whether a page of this server asks; one elsewhere may neither write (`Refused`) nor learn what it reads."""
    origin = headers.get("origin")
    own = origin is None or is_own(origin, headers.get("host", ""))
    if not own and scope["method"] not in ("GET", "HEAD"):
        raise Refused(403, "Pages of other sites may not ask this server.")
    # gradio believes the one as it builds addresses, and would answer the other as if it might read.
    drop = {b"x-gradio-server"} | (set() if own else {b"origin"})
    scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in drop]
    return own


def is_own(origin: str, host: str) -> bool:
    """Whether an origin is this server's: that of the Space, or locally the host that was asked."""
    try:
        page, server = urlsplit(origin), urlsplit(f"//{host}")
        names = {name.strip().lower() for name in os.environ.get("SPACE_HOST", "").split(",") if name.strip()}
        if page.scheme not in ("http", "https") or not page.hostname:
            return False
        if names:
            return page.hostname in names
        local = page.hostname in _LOCAL and server.hostname in _LOCAL and page.port == server.port
        return local or page.netloc.lower() == host.lower()
    except ValueError:
        return False


class _Body:
    """A body as it comes: counted, and on time."""

    def __init__(self, receive: Receive, most: int):
        self._receive, self._most, self._bytes, self._began = receive, most, 0, time.monotonic()
        self._whole = False
        self.refused: Refused | None = None
        """Why its rest is not read."""

    async def __call__(self) -> Message:
        if self._whole:  # what follows is only that the visitor has gone
            return await self._receive()
        left = self._began + SLACK + self._bytes / SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(left):
                message = await self._receive()
        except TimeoutError:
            self._refuse(Refused(408, "The request took too long to come."))
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most:
            self._refuse(large(self._most))
        self._whole = not message.get("more_body")
        return message

    def _refuse(self, why: Refused) -> None:
        self.refused = why
        raise why


def _once(content: bytearray, rest: _Body) -> Receive:
    """What gives a body once, and then whatever else comes."""
    first = iter([{"type": "http.request", "body": content, "more_body": False}])

    async def receive() -> Message:
        return next(first, None) or await rest()

    return receive


class _Response:
    """What is sent to a visitor, with the headers of each answer."""

    def __init__(self, receive: Receive, send: Send):
        self._receive, self._send, self._begun = receive, send, False
        self.same_origin = False
        self.body: _Body | None = None

    async def __call__(self, message: Message) -> None:
        if self.body and self.body.refused:  # the application would say that it failed
            why, self.body = self.body.refused, None
            await self.refuse(why)
            self._send = _nowhere
            return
        if message["type"] == "http.response.start":
            self._begun = True
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            headers.update(SECURITY)
            if not self.same_origin or headers.get("access-control-allow-origin") == "*":
                for name in [name for name in headers if name.startswith("access-control-")]:
                    del headers[name]
        await self._send(message)

    async def refuse(self, why: Refused) -> None:
        """Say why a request is not answered, unless an answer has begun."""
        if self._begun:
            return
        headers = {408: {"connection": "close"}, 503: {"retry-after": "60"}}.get(why.status)
        await PlainTextResponse(str(why), why.status, headers)({"type": "http"}, self._receive, self)


async def _nowhere(_: Message) -> None:
    """Send nothing more."""


def _say_what_is_wrong(request: Request, error: Exception) -> PlainTextResponse:
    """Answer in a sentence where FastAPI would describe the error with all that was sent, or say that it failed."""
    if isinstance(error, RequestValidationError):
        status, what = 422, _what_is_wrong(error)
    elif isinstance(error, route_utils.FnIndexInferError) or _asks_for_nothing(request, error):
        return PlainTextResponse("There is nothing here.", 404)
    elif "/call/" in request.url.path or request.url.path.endswith("/queue/join"):
        status, what = 422, "the arguments are not those of this call"
    else:
        raise error
    return PlainTextResponse(f"The request cannot be answered: {what}; see {INFO}.", status)


INFO = "/gradio_api/info"

SENTENCES = dict.fromkeys(
    (RequestValidationError, route_utils.FnIndexInferError, KeyError, TypeError), _say_what_is_wrong
)
"""Errors of what was asked, and what answers them."""


def _what_is_wrong(error: RequestValidationError) -> str:
    first = error.errors()[0]
    field = first["loc"][1] if len(first["loc"]) > 1 and isinstance(first["loc"][1], str) else None
    if field is None:
        return "the body is no JSON" if first["type"] == "json_invalid" else "the body is no JSON object"
    return f"'{field}' is missing" if first["type"] == "missing" else f"'{field}' is of another type"


def _asks_for_nothing(request: Request, error: Exception) -> bool:
    """Whether there is no endpoint of this name, as gradio looks it up by."""
    return isinstance(error, KeyError) and error.args == (f"/{request.path_params.get('api_name')}",)


class Form(route_utils.GradioMultiPartParser):
    """gradio's reader of uploads, which leaves nothing behind of one that is cut off, and holds no long field."""

    def on_headers_finished(self) -> None:
        """Refuse what would never be looked at, before there is a file for it."""
        super().on_headers_finished()
        if self._current_part.file is not None and self._current_part.field_name != "files":
            raise route_utils.MultiPartException("Files must come in the field 'files'.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Bound a field that is no file."""
        if self._current_part.file is None:
            if len(self._current_part.data) + end - start > MAX_FIELD:
                raise route_utils.MultiPartException(f"A field has more than {MAX_FIELD:,} bytes.")
            self._current_part.data += data[start:end]
            return
        super().on_part_data(data, start, end)

    async def parse(self) -> FormData:
        """Read all, or remove what there is of it."""
        try:
            return await super().parse()
        except BaseException:
            for file in self._files_to_close_on_error:
                file.close()
                Path(file.name).unlink(missing_ok=True)
            raise


def lifespan(demo: Blocks, folder: Path) -> Callable[[App], contextlib.AbstractAsyncContextManager[None]]:
    """What gradio's application does while it runs: it stands behind the guard, and forgets results."""
    route_utils.GradioMultiPartParser = Form  # type: ignore[misc]

    @contextlib.asynccontextmanager
    async def running(app: App) -> AsyncIterator[None]:
        # Not `add_middleware`: gradio puts its own outside of what it is given.
        app.middleware_stack = Guard(app.middleware_stack or app.build_middleware_stack(), demo._queue, folder)
        logs.keep_to_the_code()
        forgetting = asyncio.create_task(_keep_forgetting(demo))
        try:
            yield
        finally:
            forgetting.cancel()

    return running


async def _keep_forgetting(demo: Blocks) -> None:
    unread = Unread(demo._queue)
    while True:
        await asyncio.sleep(upload_retention.EVERY)
        try:
            upload_retention.forget(demo, age=upload_retention.AGE)
            await unread.forget(age=upload_retention.AGE)
        except Exception as error:  # of one round: the next may do
            logs.say("results could not be forgotten", error)


class Unread:
    """The messages to visitors that nobody has read, and since when each waits."""

    def __init__(self, queue: Queue):
        self._queue = queue
        self._since: dict[tuple[str, str, bool], float] = {}

    async def forget(self, *, age: float) -> None:
        """Let go of what has waited for `age` seconds; to be called again and again, on gradio's loop.

        With the messages goes the request itself, if it still waits: nobody will read its answer.
        """
        messages, now = self._queue.pending_messages_per_session, time.monotonic()
        there = [("messages", session, waiting.qsize() > 0) for session, waiting in messages.items()]
        busy = {event.session_hash for event in self._queue.event_ids_to_events.values()}
        # Those that are asked for just now have none waiting: they are read as they come.
        there = [key for key in there if key[2] or key[1] not in busy]
        there += [("upload", upload, True) for upload in {*uploads._statuses, *uploads._signals}]
        self._since = {key: self._since.get(key, now) for key in there}
        for kind, name, _ in [key for key, since in self._since.items() if since < now - age]:
            if kind == "upload":  # how far it is, which nobody asks after when it is through
                uploads._statuses.pop(name, None)
                uploads._signals.pop(name, None)
                continue
            await self._queue.clean_events(session_hash=name)
            messages.pop(name, None)
            self._queue.pending_event_ids_session.pop(name, None)
