"""``python -m api``: one node, until SIGTERM."""

from __future__ import annotations

import logging
import signal
import sys

from api.app import create_app
from api.config import ApiSettings, VertexSettings
from api.drain import NodeServer, listening_sockets
from replay.redis_url import check_planes

logger = logging.getLogger("api")


def main() -> int:
    """Serves; returns the exit code: 0 after a drain, 1 where it could not start."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        settings, vertex = ApiSettings(), VertexSettings()
        app = create_app(settings, vertex=vertex)
        check_planes(settings.redis_url, settings.queue_redis_url)
        own_port = vertex.http_port if vertex.is_on else settings.port
        ports = [own_port, *([settings.front_port] if settings.front_port else [])]
        sockets = listening_sockets(
            settings.host,
            ports,
            send_buffer_bytes=settings.send_buffer_bytes,
            user_timeout_s=settings.tcp_user_timeout_s,
        )
    except (ValueError, OSError) as error:
        logger.error("cannot start: %s", error)
        return 1
    bound = ", ".join(f"{settings.host}:{one.getsockname()[1]}" for one in sockets)
    logger.info("node %s listens on %s", settings.node, bound)
    # Handled between two steps of the event loop, whose state it changes.
    signal.signal(signal.SIGHUP, lambda number, frame: app.state.keyring.reload())
    server = NodeServer(
        app,
        node=settings.node,
        drain_s=settings.drain_s,
        notice_s=settings.notice_s,
        connection_age_s=settings.connection_age_s,
    )
    server.run(sockets)
    if refusal := app.state.presence.refusal:
        logger.error("cannot serve: %s", refusal)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
