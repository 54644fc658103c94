"""Steps of a program's own that a worker starts and stops: ``app.steps["worker"].add(MyStep)``."""

from ._steps import (
    CLOSE,
    RUN,
    TERMINATE,
    Blueprint,
    ConsumerStep,
    StartStopStep,
    Step,
    StepFormatter,
    StepType,
)
from .worker import own_steps

__all__ = ("Blueprint", "ConsumerStep", "StartStopStep", "Step")

# Who names steps has a worker of this process run them.
own_steps.listen()
