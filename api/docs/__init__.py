"""The API's document as a page that a node serves whole: nothing of it comes from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from api.webui import Asset, asset, with_base

PAGE = "/docs"
CARRIED = ("swagger-ui-bundle.js", "swagger-ui.css")
"""What ``fastapi_offline`` has of Swagger UI's own distribution."""


def load(root_path: str) -> dict[str, Asset]:
    """The page and all that it needs, by their paths."""
    page = files(__name__).joinpath("page.html").read_bytes()
    return {**_parts(), PAGE: asset(f"{PAGE}.html", with_base(page, root_path))}


@cache
def _parts() -> dict[str, Asset]:
    """The same for every application of a process."""
    carried = files("fastapi_offline").joinpath("static")
    found = {name: carried.joinpath(name).read_bytes() for name in CARRIED}
    found["start.js"] = files(__name__).joinpath("start.js").read_bytes()
    return {f"{PAGE}/{name}": asset(name, content) for name, content in found.items()}
