"""The loader of applications."""

from umbel.app.loading import Loader as AppLoader

__all__ = ("AppLoader",)
