"""Tasks as functions, run eagerly, and retried."""

from __future__ import annotations

import functools
import pickle
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.app_support import make_app, sent_one
from umbel import Task, current_app, current_task
from umbel.errors import EncodeError, Ignore, MaxRetriesExceededError, Reject, Retry
from umbel.execution.context import Context, pop, push


@pytest.fixture
def app():
    with make_app() as app:
        yield app


def test_a_task_is_still_its_function(app):
    @app.task
    def add(x: int, y: int) -> int:
        """Add."""
        return x + y

    assert add(2, 3) == 5
    assert add.__name__ == "add"
    assert add.__doc__ == "Add."
    assert add.__qualname__.endswith("add")
    assert add.name == f"{__name__}.add"
    assert isinstance(add, Task)
    assert add.run(1, 1) == 2


def test_a_bound_task_gets_itself_and_a_request(app):
    @app.task(bind=True)
    def who(self, x):
        return self.name, self.request.called_directly, self.request.args, bool(current_task), x

    assert who(1) == (who.name, True, (1,), True, 1)
    assert not current_task
    assert who.request.id is None


def test_apply_runs_with_a_request_and_hooks(app):
    calls = []

    class Base(Task):
        def before_start(self, task_id, args, kwargs):
            calls.append(("before", args))

        def on_success(self, retval, task_id, args, kwargs):
            calls.append(("success", retval))

        def after_return(self, status, retval, task_id, args, kwargs, einfo):
            calls.append((status, retval))

    @app.task(base=Base, bind=True)
    def double(self, x):
        assert self.request.is_eager
        assert self.request.id == "i"
        return x * 2

    result = double.apply((4,), task_id="i")
    assert (result.get(), result.state, result.id) == (8, "SUCCESS", "i")
    assert calls == [("before", (4,)), ("success", 8), ("SUCCESS", 8)]


def test_apply_keeps_the_error_unless_told_to_throw(app):
    @app.task
    def fail():
        raise KeyError("no")

    result = fail.apply()
    assert result.state == "FAILURE"
    assert isinstance(result.result, KeyError)
    assert "in fail" in result.traceback
    with pytest.raises(KeyError):
        fail.apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(KeyError):
        fail.apply()


@pytest.mark.parametrize(("error", "state"), [(Ignore(), "IGNORED"), (Reject("why"), "REJECTED")])
@pytest.mark.parametrize("throw", [True, False])
def test_apply_of_a_task_that_declines(app, error, state, throw):
    @app.task
    def decline():
        raise error

    assert decline.apply(throw=throw).state == state


def test_always_eager_runs_links_too_and_sends_nothing(app):
    app.conf.task_always_eager = True
    seen = []

    @app.task
    def note(value):
        seen.append(value)

    @app.task
    def add(x, y):
        return x + y

    assert add.apply_async((1, 2), link=[note.s(), add.s(10)]).get() == 3
    assert add.delay_many([(1, 1), (2, 2)])[1].get() == 4
    assert seen == [3]
    assert app.broker.depth("celery") == 0


def test_eager_arguments_go_through_the_serializer(app):
    app.conf.task_always_eager = True

    @app.task
    def kind(value):
        return type(value).__name__

    assert kind.delay((1, 2)).get() == "list"


def test_eager_error_callbacks(app):
    app.conf.task_always_eager = True
    seen = []

    @app.task
    def fail():
        raise ValueError("x")

    @app.task
    def told(request, error, traceback):
        seen.append((request.id, str(error)))

    result = fail.apply_async(link_error=told.s())
    assert seen == [(result.id, "x")]


def test_eager_retries_run_at_once(app):
    attempts = []

    @app.task(bind=True, max_retries=3)
    def flaky(self):
        attempts.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry(countdown=100)
        return "done"

    assert flaky.apply().get() == "done"
    assert attempts == [0, 1, 2]


def test_eager_retries_end(app):
    @app.task(bind=True, max_retries=1)
    def never(self, exc=None):
        raise self.retry(exc=exc)

    assert isinstance(never.apply().result, MaxRetriesExceededError)
    assert isinstance(never.apply((ValueError("v"),)).result, ValueError)


def test_what_a_decorator_hands_to_the_body_need_not_be_sent(app):
    def with_session(body):
        @functools.wraps(body)
        def wrapper(*args, **kwargs):
            return body(*args, session="open", **kwargs)

        return wrapper

    @app.task
    @with_session
    def save(row, session):
        return row, session

    save.delay(1)
    assert save.apply((1,)).get() == (1, "open")


def test_an_eager_retry_may_be_returned(app):
    @app.task(bind=True, max_retries=3)
    def attempt(self):
        return 42 if self.request.retries >= 2 else self.retry(throw=False)

    assert attempt.apply().get() == 42


def test_a_task_of_a_class_that_is_put_into_the_registry_retries_itself(app):
    class Unsteady(app.Task):
        name = "unsteady"
        autoretry_for = (ZeroDivisionError,)
        retry_kwargs = {"max_retries": 2}
        runs = 0

        def run(self):
            self.runs += 1
            return 1 / (self.runs - 2)

    task = Unsteady()
    app.tasks.register(task)
    assert (task.apply().get(), task.runs) == (-1.0, 1)
    task.runs = 1
    assert (task.apply().get(), task.runs) == (1.0, 3)


def test_autoretry(app):
    attempts = []

    @app.task(autoretry_for=(ValueError,), max_retries=2, retry_backoff=True)
    def flaky():
        attempts.append(1)
        raise ValueError("again")

    assert isinstance(flaky.apply().result, ValueError)
    assert len(attempts) == 3


def _running(task, **request):
    request = {
        "id": "me",
        "args": [1],
        "kwargs": {"y": 2},
        "called_directly": False,
        "delivery_info": {"exchange": "", "routing_key": "q", "priority": 5},
        "headers": {"x-mine": 1, "x-death": []},
        "retries": 0,
        "root_id": "root",
        **request,
    }
    push(task, Context(**request))


def test_retry_holds_the_next_attempt(app):
    @app.task(bind=True)
    def job(self, x, y=0):
        raise self.retry(countdown=30, kwargs={"y": 3}, queue=None)

    _running(job)
    try:
        with pytest.raises(Retry) as caught:
            job.run(1, y=2)
    finally:
        pop()
    again = caught.value.sig
    assert caught.value.when == 30
    assert (again.args, again.kwargs) == ((1,), {"y": 3})
    options = again.options
    assert (options["task_id"], options["retries"], options["queue"], options["priority"]) == (
        "me",
        1,
        "q",
        5,
    )
    assert options["headers"] == {"x-mine": 1}
    publication = app.prepare(again)
    assert publication.destination.queue == "q"
    assert app.broker.depth("q") == 0


def test_retry_without_throwing_sends_at_once(app):
    @app.task(bind=True)
    def job(self, x, y=0):
        return self.retry(throw=False, countdown=0)

    _running(job)
    try:
        assert isinstance(job.run(1), Retry)
    finally:
        pop()
    message = sent_one(app, "q")
    assert (message.headers["id"], message.headers["retries"], message.headers["parent_id"]) == (
        "me",
        1,
        "me",
    )
    assert message.headers["x-mine"] == 1


def test_retry_at_an_instant(app):
    @app.task(bind=True)
    def job(self):
        raise self.retry(eta=eta)

    eta = datetime.now(UTC) + timedelta(hours=1)
    _running(job, args=[], kwargs={})
    try:
        with pytest.raises(Retry) as caught:
            job.run()
    finally:
        pop()
    assert caught.value.when == eta


def test_retry_of_a_task_called_as_a_function_raises_its_error(app):
    @app.task(bind=True)
    def job(self):
        try:
            raise ValueError("cause")
        except ValueError as error:
            raise self.retry(exc=error) from None

    with pytest.raises(ValueError, match="cause"):
        job()


def test_update_state_stores_progress(app):
    @app.task(bind=True)
    def job(self):
        self.update_state(state="PROGRESS", meta={"done": 5})

    _running(job)
    try:
        job.run()
    finally:
        pop()
    result = app.AsyncResult("me")
    assert (result.state, result.info) == ("PROGRESS", {"done": 5})
    with pytest.raises(ValueError, match="task_id"):
        job.update_state(state="X")


def test_an_overridden_call_shares_the_request(app):
    class Counting(Task):
        def __call__(self, *args, **kwargs):
            return "wrapped", super().__call__(*args, **kwargs)

    @app.task(base=Counting, bind=True)
    def job(self):
        return self.request.id

    assert job.apply(task_id="i").get() == ("wrapped", "i")


def test_async_tasks_run_eagerly(app):
    @app.task
    async def hello(name):
        return f"hello {name}"

    assert hello.apply(("x",)).get() == "hello x"


def test_signatures(app):
    @app.task
    def add(x, y):
        return x + y

    partial = add.s(2)
    assert partial(1) == 3
    assert partial.clone(args=(1,)).args == (1, 2)
    assert add.si(1, 2).clone(args=(9,)).args == (1, 2)
    assert dict(partial) == {
        "task": add.name,
        "args": (2,),
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    assert repr(add.s(1, y="z")) == f"{add.name}(1, y='z')"
    frozen = add.s(1, 2).set(queue="q")
    result = frozen.freeze("id")
    assert (result.id, frozen.id) == ("id", "id")
    frozen.apply_async()
    assert sent_one(app, "q").headers["id"] == "id"
    linked = add.s(1, 1).on_error(add.si(0, 0))
    linked.link(add.s(5).set(link=add.s(6)))
    assert [s.args for s in linked.flatten_links()] == [(1, 1), (5,), (6,)]
    app.signature("unknown", args=(1,)).delay(0)
    assert sent_one(app).args == [0, 1]


def test_pickling_a_task_finds_it_in_the_current_app():
    with make_app(set_as_current=True) as app:

        @app.task(name="pickled")
        def job(): ...

        assert current_app.main == app.main
        assert pickle.loads(pickle.dumps(job)) is job


def test_pydantic_models_travel_as_data(app):
    pydantic = pytest.importorskip("pydantic")

    class Point(pydantic.BaseModel):
        x: int
        y: int = 0

    def move(self, point, by=1):
        assert isinstance(point, Point)
        return Point(x=point.x + by, y=point.y)

    move.__annotations__ = {"point": Point | None, "return": Point}
    task = app.task(bind=True, pydantic=True)(move)
    task.delay(Point(x=1), by=2)
    message = sent_one(app)
    assert (message.args, message.kwargs) == ([{"x": 1, "y": 0}], {"by": 2})
    assert task.apply(message.args, message.kwargs).get() == {"x": 3, "y": 0}
    assert isinstance(task.apply(({"x": "no"},)).result, pydantic.ValidationError)


def test_a_model_that_would_lose_something_on_its_way_is_refused(app):
    pydantic = pytest.importorskip("pydantic")

    class Login(pydantic.BaseModel):
        secret: pydantic.SecretStr

    class Point(pydantic.BaseModel):
        x: int

    class Marked(Point):
        mark: str

    def body(login=None, point=None):
        """Takes either."""

    body.__annotations__ = {"login": Login | None, "point": Point | None}
    task = app.task(pydantic=True)(body)
    for lossy in ({"login": Login(secret="s")}, {"point": Marked(x=1, mark="m")}):
        with pytest.raises(EncodeError, match="cannot write"):
            task.delay(**lossy)
    task.delay(None, Point(x=1))
    assert sent_one(app).args == [None, {"x": 1}]


def test_validators_of_models_know_the_task(app):
    pydantic = pytest.importorskip("pydantic")

    class Named(pydantic.BaseModel):
        name: str

        @pydantic.field_validator("name")
        @classmethod
        def complete(cls, name, info):
            return f"{name} in {info.context['celery_task_name']} {info.context['own']}"

    def body(named):
        return named.name

    body.__annotations__ = {"named": Named}
    task = app.task(name="t", pydantic=True, pydantic_context={"own": 1})(body)
    assert task.apply(({"name": "n"},)).get() == "n in t 1"
