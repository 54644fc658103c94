"""Applications for tests."""

from umbel.testing.app import DEFAULT_TEST_CONFIG, TestApp, Trap, UnitLogging, set_trap, setup_default_app

__all__ = ("DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "set_trap", "setup_default_app")
