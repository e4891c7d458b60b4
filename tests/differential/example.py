"""Makes an example value of a type annotation or a pydantic model, such as an OpenAI server could answer."""

import inspect
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_SIMPLE: Final[Mapping[Any, Any]] = {str: "text", int: 1, float: 0.5, bool: True, object: {}, Any: {}, NoneType: None}
_DEEP: Final = 6


def example(annotation: Any, depth: int = 0) -> Any:
    """Return a JSON value of the type. Optional fields are filled down to a depth of six, and left out below it."""
    if hasattr(annotation, "__value__"):  # a named alias
        return example(annotation.__value__, depth)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return example(arguments[0], depth)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, UnionType):
        return _of_union(arguments, depth)
    if origin in (list, typing.Iterable):
        return [example(arguments[0], depth + 1)]
    if origin is dict or annotation is dict:
        return {"key": example(arguments[1], depth + 1)} if arguments else {}
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return _of_model(annotation, depth)
    return _SIMPLE[annotation]


def _of_union(arguments: tuple[Any, ...], depth: int) -> Any:
    """Return a value of the first member that is not None, or None if the value is already deep."""
    if NoneType in arguments and depth > _DEEP:
        return None
    return example(next(member for member in arguments if member is not NoneType), depth)


def _of_model(model: type[BaseModel], depth: int) -> dict[str, Any]:
    return {
        field.alias or name: example(field.annotation, depth + 1)
        for name, field in model.model_fields.items()
        if field.is_required() or depth <= _DEEP
    }
