"""What type checkers see of tasks. Each ignored error must be there: mypy refuses an ignore that is not needed."""

from __future__ import annotations

from typing import Any, assert_type

from umbel import Celery, Task, Umbel, current_app, current_task, shared_task
from umbel.results.handles import AsyncResult, EagerResult

app = Umbel("proj", broker="memory://", include=["proj.tasks"])
assert_type(Celery("proj"), Umbel)


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="proj.greet", queue="mail", max_retries=None, autoretry_for=(ValueError,), retry_backoff=True)
def greet(name: str, *, loud: bool = False) -> str:
    return name.upper() if loud else name


@app.task(bind=True, acks_late=True)
def bound(self: Task[..., Any], path: str) -> bytes:
    if self.request.retries > 3:
        raise self.retry(countdown=5, max_retries=7)
    return path.encode()


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
async def fetch_bound(self: Task[..., Any], url: str) -> list[str]:
    return [url, str(self.request.id)]


@shared_task
def shared(x: float) -> float:
    return x


@shared_task(bind=True, max_retries=2)
def shared_bound(self: Task[..., Any], x: float) -> None:
    self.update_state(state="PROGRESS", meta={"x": x})


# A task is still its function.
assert_type(add(1, 2), int)
assert_type(greet("a", loud=True), str)
assert_type(bound("a"), bytes)

# Results are what the function returns, awaited if it is async.
assert_type(add.delay(1, y=2), AsyncResult[int])
assert_type(add.delay(1).get(timeout=1), int)
assert_type(bound.delay("a"), AsyncResult[bytes])
assert_type(fetch.delay("u"), AsyncResult[bytes])
assert_type(fetch_bound.delay("u"), AsyncResult[list[str]])
assert_type(shared.delay(1.5), AsyncResult[float])
assert_type(shared_bound.delay(1.5), AsyncResult[None])
assert_type(add.apply((1,)), EagerResult[int])
assert_type(
    add.apply_async((1,), {"y": 2}, countdown=3, priority=4, link=greet.s(), headers={}), AsyncResult[int]
)
assert_type(add.delay_many([(1, 2), ((3,), {"y": 4}), add.s(5)]), list[AsyncResult[int]])
assert_type(add.AsyncResult("id").result, Any)
assert_type(current_app.main, str | None)
assert_type(current_task.name, str)


async def from_coroutines() -> None:
    assert_type(await fetch("u"), bytes)
    assert_type(await add.adelay(1, 2), AsyncResult[int])
    assert_type(await (await add.aapply_async((1,), queue="q")).aget(), int)
    await add.adelay("text")  # type: ignore[arg-type]


# Wrong arguments are errors.
add.delay("text")  # type: ignore[arg-type]
add.delay()  # type: ignore[call-arg]
add.delay(1, 2, 3)  # type: ignore[call-arg]
add.delay(1, z=3)  # type: ignore[call-arg]
greet.delay("a", loud="very")  # type: ignore[arg-type]
bound.delay()  # type: ignore[call-arg]
bound.delay(1)  # type: ignore[arg-type]
fetch.delay(5)  # type: ignore[arg-type]
shared.delay("text")  # type: ignore[arg-type]
add("text")  # type: ignore[arg-type]

# So are wrong options and what they are given.
add.apply_async((1,), countdow=3)  # type: ignore[call-arg]
add.apply_async((1,), countdown="soon")  # type: ignore[arg-type]
add.apply_async((1,), link="name")  # type: ignore[arg-type]
app.task(max_retires=3)  # type: ignore[call-overload]
app.task(acks_late="yes")  # type: ignore[call-overload]
