"""Results as messages."""

from umbel.compat.lazily import lazily as _lazily

__all__ = ("BacklogLimitExceeded", "RPCBackend")


class BacklogLimitExceeded(Exception):
    """Too many results wait."""


__getattr__ = _lazily(__name__, {"RPCBackend": "umbel.results.rpc:RpcResultBackend"})
