"""The shipped suites explain their failures as tests of our own do."""

import pytest

pytest.register_assert_rewrite("umbel.testing.contracts")
