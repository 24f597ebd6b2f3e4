"""The app, from its name. Shell (imports the app); runs in a worker, or in the template with `--preload`."""

import ast
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from graceserve.wire.messages import line

WSGIApplication: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_OWN_FILES = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
    os.path.dirname(importlib.__file__) + os.sep,
    "<frozen importlib",
)
_OTHER_DIRECTORY = "--chdir or --release name another directory"


class AppError(Exception):
    """The release is broken. `reason` is one line for the operator, `detail` the app's own part of the traceback."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def load_app(spec: str) -> WSGIApplication:
    """The WSGI callable that `spec` names: `module`, `module:name`, `module:a.b` or a factory `module:create_app(1)`.

    Raises `AppError`, whatever the import raises (also `SystemExit`).
    """
    module_name, _, expression = spec.partition(":")
    expression = expression or "application"
    path, call = _parse(spec, expression)
    module = _import(module_name)
    app = _attribute(module, module_name, path)
    if call is not None:
        if not callable(app):
            raise AppError(f"{module_name}:{'.'.join(path)} is not callable, it is {_a(app)}")
        args, kwargs = call
        app = _guarded(f"calling {module_name}:{expression}", app, *args, **kwargs)
    if not callable(app):
        raise AppError(f"{spec} is not a WSGI application: {_a(app)} is not callable")
    return app  # type: ignore[no-any-return]  # what else it may be shows only when it is called


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except BaseException as error:  # a release may raise anything at all, SystemExit and KeyboardInterrupt too
        told = _told(f"importing {module_name}", error)
        if isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]:
            told = AppError(line(f"{told.reason} (looked in {_here()}; {_OTHER_DIRECTORY})"), told.detail)
        raise told from None


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a directory that is gone"


def _parse(spec: str, expression: str) -> tuple[list[str], tuple[list[Any], dict[str, Any]] | None]:
    """The dotted path before the call, and the call's literal arguments if there is one."""
    try:
        node = ast.parse(expression, mode="eval").body
    except SyntaxError:
        raise _no_name(spec, expression) from None
    call = None
    if isinstance(node, ast.Call):
        try:
            args = [ast.literal_eval(arg) for arg in node.args]
            kwargs = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
        except ValueError:
            raise AppError(f"{spec}: a factory's arguments must be literals, as in create_app('prod')") from None
        call = (args, kwargs)
        node = node.func
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise _no_name(spec, expression)
    return [node.id, *path], call


def _no_name(spec: str, expression: str) -> AppError:
    return AppError(f"{spec}: {expression!r} is not a name or a call; write module:app or module:create_app()")


def _attribute(module: Any, module_name: str, path: list[str]) -> Any:
    value = module
    for name in path:
        try:
            value = getattr(value, name)
        except AttributeError:
            near = difflib.get_close_matches(name, dir(value), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise AppError(f"module {module_name} has no attribute {'.'.join(path)}{hint}") from None
        except BaseException as error:
            raise _told(f"looking up {module_name}:{'.'.join(path)}", error) from None
    return value


def _guarded(doing: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except BaseException as error:  # as above
        raise _told(doing, error) from None


def _told(doing: str, error: BaseException) -> AppError:
    if isinstance(error, SystemExit):
        return AppError(line(f"{doing} called sys.exit({error.code!r})"), stack(error))
    return AppError(line(f"{doing}: {_summary(error)}"), stack(error))


def _summary(error: BaseException) -> str:
    """The traceback's last line, without the notes that may follow it."""
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    name = kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = str(error)
    except Exception:
        text = "(its str() fails)"
    return f"{name}: {text}" if text else name


def stack(error: BaseException) -> str:
    """The traceback from the first frame that is not graceserve's or the import machinery's, if there is one."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return "".join(lines)


def _a(value: object) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeioAEIO' else 'a'} {kind}"  # not "u": a user, a UUID


def prepend_path(directory: str) -> None:
    """Make `directory` the place where the app's modules are looked for first."""
    if directory in sys.path:
        sys.path.remove(directory)
    sys.path.insert(0, directory)
