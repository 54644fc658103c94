"""``python -m umbel``, and the program ``umbel``."""

import sys

from umbel.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
