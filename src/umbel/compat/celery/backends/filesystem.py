"""Results in files."""

from umbel.compat.lazily import lazily as _lazily

default_encoding = "utf-8"
E_NO_PATH_SET = "You need to configure a path for the file-system backend"
E_PATH_NON_CONFORMING_SCHEME = "A path for the file-system backend should conform to the file URI scheme"
E_PATH_INVALID = """\
The configured path for the file-system backend does not
work correctly, please make sure that it exists and has
the correct permissions.\
"""

__getattr__ = _lazily(__name__, {"FilesystemBackend": "umbel.results.filesystem:FilesystemResultBackend"})
