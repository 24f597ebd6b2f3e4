"""Running a coroutine of the loop's without a task. Shell; used in a worker's loop.

A task wants its loop to be announced as the thread's running one, which the app must not see. What is driven here
awaits nothing but the loop's own futures.
"""

from collections.abc import Callable, Coroutine
from typing import Any


def drive(coroutine: Coroutine[Any, Any, Any], done: Callable[[BaseException | None], None]) -> None:
    """From here to its end, on the loop's thread; `done` gets the exception that ended it, if there was one."""

    def step(_: object = None) -> None:
        try:
            future = coroutine.send(None)
        except StopIteration:
            done(None)
        except BaseException as error:
            done(error)
        else:
            future._asyncio_future_blocking = False  # as a task says that it has taken notice
            future.add_done_callback(step)

    step()
