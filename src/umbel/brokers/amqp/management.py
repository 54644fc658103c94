"""What AMQP has no question for, asked of RabbitMQ's management plugin: which bindings there are."""

from __future__ import annotations

import base64
import http.client
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from umbel.core.bindings import Binding
from umbel.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.stores.amqp.address import Address

__all__ = ["OPTIONS", "fetch_bindings"]

#: Transport options that say where the plugin is, as kombu's; whatever they leave out is the broker's own.
OPTIONS: Final = frozenset(
    {"manager_hostname", "manager_port", "manager_userid", "manager_password", "manager_ssl"}
)
_PORT: Final = 15672
_TIMEOUT: Final = 10.0
_OK: Final = 200


class _Row(msgspec.Struct):
    """One binding, as the plugin tells it."""

    source: str
    destination: str
    destination_type: str
    routing_key: str


def fetch_bindings(address: Address, options: Mapping[str, Any]) -> list[Binding]:
    """The bindings of queues in a virtual host. Raises BrokerError when the plugin does not tell."""
    host = str(options.get("manager_hostname") or address.host)
    port = int(options.get("manager_port") or _PORT)
    login = address.login_arguments()
    user = options.get("manager_userid") or login["userid"]
    password = options.get("manager_password") or login["password"]
    connect = http.client.HTTPSConnection if options.get("manager_ssl") else http.client.HTTPConnection
    connection = connect(host, port, timeout=_TIMEOUT)
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    path = f"/api/bindings/{quote(address.vhost, safe='')}"
    where = f"RabbitMQ's management plugin at {host}:{port}"
    try:
        connection.request("GET", path, headers={"Authorization": f"Basic {credentials}"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise BrokerError(
            f"{where} does not answer ({error}): enable it with rabbitmq-plugins enable rabbitmq_management, or say"
            " where it is by manager_hostname and manager_port in broker_transport_options"
        ) from error
    finally:
        connection.close()
    if answer.status != _OK:
        raise BrokerError(f"{where} answers {path} with {answer.status} {answer.reason}")
    try:
        rows = msgspec.json.decode(body, type=list[_Row])
    except msgspec.DecodeError as error:
        raise BrokerError(f"{where} answers {path} with what is no list of bindings: {error}") from error
    return [
        Binding(row.destination, row.source, "direct", row.routing_key)
        for row in rows
        if row.destination_type == "queue"
    ]
