"""``-A``: which application a path means, and what is said when it means none."""

from __future__ import annotations

import itertools
import sys

import pytest

from umbel.cli.errors import CommandFailed
from umbel.cli.finding import find_app
from umbel.state import active_apps

_numbers = itertools.count()
APP = "from umbel import Umbel\n{name} = Umbel('{main}', set_as_current=False)\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes modules into the working directory, under names that no other test has; ``{0}`` is the package's."""
    package = f"finding{next(_numbers)}"
    before = set(map(id, active_apps()))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def write(**files: str) -> str:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('root', package)}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return package

    yield write
    for app in list(active_apps()):
        if id(app) not in before:
            app.close()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def source(name: str, main: str | None = None) -> str:
    return APP.format(name=name, main=main or name)


@pytest.mark.parametrize("path", ["{}", "{}:app", "{}.app"])
def test_a_module_and_its_attribute(project, path):
    package = project(root=source("app", "it"))
    assert find_app(path.format(package)).main == "it"


@pytest.mark.parametrize("name", ["app", "celery", "anything"])
def test_a_module_with_an_application_of_any_name(project, name):
    assert find_app(project(root=source(name))).main == name


def test_app_goes_before_celery_and_others(project):
    package = project(root=source("other") + source("celery") + source("app"))
    assert find_app(package).main == "app"


def test_an_app_of_some_framework_is_passed_over(project):
    package = project(root="app = 'a web application'\n" + source("celery"))
    assert find_app(package).main == "celery"


def test_a_package_with_a_module_celery(project):
    package = project(**{"root/__init__": "", "root/celery": source("app", "inner")})
    assert find_app(package).main == "inner"


def test_a_package_that_imports_its_application(project):
    package = project(
        **{"root/__init__": "from .celery import app as celery_app\n", "root/celery": source("app", "inner")}
    )
    assert find_app(package).main == "inner"
    assert find_app(f"{package}.celery").main == "inner"


def test_a_module_deep_in_a_package(project):
    package = project(**{"root/__init__": "", "root/deep": source("queue")})
    assert find_app(f"{package}.deep").main == "queue"
    assert find_app(f"{package}.deep:queue").main == "queue"


def test_the_working_directory_stays_on_the_path(project, tmp_path):
    find_app(project(root=source("app")))
    assert str(tmp_path) in sys.path


def failure(path: str) -> str:
    with pytest.raises(CommandFailed) as caught:
        find_app(path)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message
    return caught.value.message


def test_no_such_module():
    assert "Unable to load celery application. The module nowhere was not found" in failure("nowhere.app")


def test_a_file_name_in_place_of_a_module(project):
    package = project(root=source("app"))
    assert f"is a file name; a module is named like {package}" in failure(f"./{package}.py")


def test_no_such_attribute(project):
    package = project(root=source("app"))
    assert f"Module '{package}' has no attribute 'ap'" in failure(f"{package}:ap")


def test_an_attribute_that_is_no_application(project):
    package = project(root="number = 3\n")
    assert "int 3, not an application" in failure(f"{package}:number")


def test_a_module_without_any(project):
    package = project(root="from umbel import current_app, current_task\n")
    assert "has no application" in failure(package)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nonexistent_library\n", "No module named 'nonexistent_library'"),
        ("x = 1\ny = x.missing\n", "'int' object has no attribute 'missing'"),
        ("x = [\n", "SyntaxError"),
        ("raise KeyError('wanted')\n", "KeyError: wanted"),
    ],
)
def test_a_module_that_fails_is_said_to_with_its_place(project, text, message):
    package = project(root=text)
    said = failure(package)
    assert f"While trying to load the module {package} the following error occurred" in said
    assert message in said
    assert f"{package}.py" in said


def test_a_failing_module_celery_is_not_passed_over(project):
    package = project(**{"root/__init__": source("hidden"), "root/celery": "import nonexistent_library\n"})
    assert "nonexistent_library" in failure(package)
    assert f"{package}/celery.py" in failure(package)
