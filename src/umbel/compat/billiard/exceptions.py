"""billiard's exceptions."""

from multiprocessing import AuthenticationError, BufferTooShort, ProcessError, TimeoutError

from umbel.errors import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
