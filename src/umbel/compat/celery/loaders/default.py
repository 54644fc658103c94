"""The loader of programs without an application: settings in the module ``celeryconfig``."""

from umbel.app.loading import Loader

__all__ = ("DEFAULT_CONFIG_MODULE", "Loader")

DEFAULT_CONFIG_MODULE = "celeryconfig"
