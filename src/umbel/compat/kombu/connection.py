"""Connections."""

from umbel.client.connection import Connection, ConnectionPool

__all__ = ("ChannelPool", "Connection", "ConnectionPool")

BrokerConnection = Connection
ChannelPool = ConnectionPool
