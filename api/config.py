"""What a node is told by its environment: ``REPLAY_`` and the field's name.

Read once, at the start. Limits that nobody should change are constants beside their use.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from replay.identity import NAME_BYTES_MAX

WEBUI_DIR = Path(__file__).resolve().parent.parent / "webui" / "dist"


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


class ApiSettings(BaseSettings):
    """The settings of one node. An empty variable counts as absent."""

    model_config = SettingsConfigDict(env_prefix="REPLAY_", env_ignore_empty=True, frozen=True)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379",
        description="Redis of the log plane: sessions and their bytes.",
    )
    queue_redis_url: str | None = Field(
        default=None, description="Redis of the queue plane (arq). Absent: the log plane's."
    )
    host: str = Field(default="127.0.0.1", description="Address that the node listens on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="The node's own port; 0: any free one."
    )
    front_port: int = Field(
        default=0, ge=0, le=65535, description="Port that all nodes of a host share; 0: none."
    )
    node: str = Field(
        default_factory=socket.gethostname, description="The node's name, for people."
    )
    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="API keys, comma-separated; each is a tenant. None, and no file: the API "
        "is open.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="File of further API keys, one a line: `KEY tenant=NAME scopes=read,stop`, the "
        "last two as wanted. Read anew when it changes, and on SIGHUP.",
    )
    link_secrets: SecretStr = Field(
        default=SecretStr(""),
        description="What links to sessions are signed with, comma-separated, 16 characters or "
        "more each, the same on all nodes: the first signs, all are taken. None: no links.",
    )
    link_max_s: int = Field(
        default=86_400,
        ge=1,
        description="How long such a link may be good for.",
        json_schema_extra=_unit("s"),
    )
    cors_origins: str = Field(
        default="*",
        description="Origins that may call from a browser, comma-separated; "
        '"localhost": any port of this machine; "*": all.',
    )
    webui_dir: Path = Field(default=WEBUI_DIR, description="The built page that is served at /.")
    root_path: str = Field(
        default="", description="Path under which a proxy shows the node, as /chat."
    )
    body_bytes_max: int = Field(
        default=100_000_000,
        ge=1,
        description="Largest request body; a larger one is 413.",
        json_schema_extra=_unit("bytes"),
    )
    lookup_ids_max: int = Field(
        default=1000,
        ge=1,
        description="Most conversation ids that one lookup may ask for.",
        json_schema_extra=_unit("ids"),
    )
    name_bytes_max: int = Field(
        default=NAME_BYTES_MAX,
        ge=1,
        le=NAME_BYTES_MAX,
        description="Longest X-Conversation-Id; a longer one is 400.",
        json_schema_extra=_unit("bytes"),
    )
    tokens_max: int = Field(
        default=131_072,
        ge=1,
        description="Most tokens that one answer has, whatever its request asks for.",
        json_schema_extra=_unit("tokens"),
    )
    reasoning_budget_tokens: int = Field(
        default=-1,
        ge=-1,
        description="Length of a thought whose request names none; -1: it ends by itself.",
        json_schema_extra=_unit("tokens"),
    )
    tenant_queued_max: int = Field(
        default=1000,
        ge=0,
        description="Most sessions of a tenant that wait for a slot; the next is 429; 0: any.",
        json_schema_extra=_unit("sessions"),
    )
    tenant_live_max: int = Field(
        default=0,
        ge=0,
        description="The same for those that wait or run; 0: any.",
        json_schema_extra=_unit("sessions"),
    )
    queue_depth_max: int = Field(
        default=10_000,
        ge=1,
        description="Most sessions that wait for one model, of all tenants; the next is 503.",
        json_schema_extra=_unit("sessions"),
    )
    prepare_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="How long a request waits for a worker to check it; then it is 503.",
        json_schema_extra=_unit("s"),
    )
    embedding_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a part of an embeddings or rerank request, or an order about a slot, "
        "waits for a worker; then it is 503.",
        json_schema_extra=_unit("s"),
    )
    busy_wait_s: float = Field(
        default=300.0,
        gt=0,
        description="How long a request with if_busy=queue waits for its turn; then it is 503.",
        json_schema_extra=_unit("s"),
    )
    status_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="How long a streamed answer's status line waits for the first token.",
        json_schema_extra=_unit("s"),
    )
    retention_s: float = Field(
        default=7200.0,
        gt=0,
        description="How long a finished session can be replayed.",
        json_schema_extra=_unit("s"),
    )
    plain_retention_s: float = Field(
        default=60.0,
        gt=0,
        description="The same for a request without X-Conversation-Id.",
        json_schema_extra=_unit("s"),
    )
    lease_s: float = Field(
        default=4.0,
        gt=0,
        description="A worker's lease on a session; the same on nodes and workers.",
        json_schema_extra=_unit("s"),
    )
    notice_s: float = Field(
        default=0.0,
        ge=0,
        description="How long after SIGTERM the node serves on, unready, for its load balancer to "
        "notice; 0 where there is none.",
        json_schema_extra=_unit("s"),
    )
    drain_s: float = Field(
        default=2.0,
        ge=0,
        description="Over how long open streams are cut after that; `make up` kills after 3.5 s.",
        json_schema_extra=_unit("s"),
    )
    connection_age_s: float = Field(
        default=1800.0,
        ge=0,
        description="Age at which a reader is cut, to come back by the load balancer, and at which "
        "a connection is not kept alive; each somewhere in its second half. 0: never.",
        json_schema_extra=_unit("s"),
    )
    send_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="How long a write may wait for its reader before the reader is cut.",
        json_schema_extra=_unit("s"),
    )
    tcp_user_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="How long sent bytes may stay unacknowledged before the connection ends.",
        json_schema_extra=_unit("s"),
    )
    send_buffer_bytes: int = Field(
        default=128 * 1024,
        ge=4096,
        description="What the kernel may hold for a reader that does not read.",
        json_schema_extra=_unit("bytes"),
    )

    @property
    def queue_url(self) -> str:
        """The queue plane's URL."""
        return self.queue_redis_url or self.redis_url

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys; none where the API is open."""
        return _parts(self.api_keys)

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """What links are signed with."""
        return _parts(self.link_secrets)


def _parts(secret: SecretStr) -> tuple[str, ...]:
    parts = secret.get_secret_value().split(",")
    return tuple(part.strip() for part in parts if part.strip())


class VertexSettings(BaseSettings):
    """What Vertex AI tells a container that it runs."""

    model_config = SettingsConfigDict(env_prefix="AIP_", env_ignore_empty=True, frozen=True)

    mode: str = Field(
        default="",
        description="`PREDICTION`: Vertex AI runs this node; else the others are not read.",
    )
    http_port: int = Field(
        default=8080,
        ge=0,
        le=65535,
        description="The node's own port there, whatever REPLAY_PORT says.",
    )
    health_route: str = Field(default="", description="Where Vertex AI asks for health as well.")
    predict_route: str = Field(
        default="/predict", description="Where Vertex AI posts predictions: `{instances: [...]}`."
    )

    @property
    def is_on(self) -> bool:
        """Whether Vertex AI runs this node."""
        return self.mode == "PREDICTION"
