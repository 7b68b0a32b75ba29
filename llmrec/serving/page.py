"""The page at `/`, on which a person can try the server. Its files in `page_files/` load nothing from outside."""

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from llmrec.serving.errors import ApiError
from llmrec.serving.guard import PAGE

START = "index.html"
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
HEADERS = {
    # Titles, reasons and requests are shown as text only. If one became markup after all, nothing of it could run.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def page_routes() -> APIRouter:
    """The routes of the page. The page itself talks to the same routes as every other client."""
    contents = {file.name: file.read_bytes() for file in (files("llmrec.serving") / "page_files").iterdir()}
    router = APIRouter(include_in_schema=False)

    def answer(name: str) -> Response:
        media_type = MEDIA_TYPES[name.rpartition(".")[2]]
        return Response(contents[name], media_type=media_type, headers=HEADERS)

    @router.get("/")
    async def page() -> Response:
        """The page."""
        return answer(START)

    @router.get(PAGE + "{name}")
    async def file(name: str) -> Response:
        """A file of the page."""
        if name not in contents:
            raise ApiError(404, "not_found", "The page has no such file.")
        return answer(name)

    return router
