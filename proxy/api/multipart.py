"""Finds and replaces the field `model` of a multipart form, such as an audio upload. All functions are pure.

All other bytes of the form stay unchanged.
"""

import re
from dataclasses import dataclass
from typing import Final

from proxy.core.errors import BadRequestError

_BOUNDARY: Final = re.compile(r'boundary="?([^";,]{1,70})"?', re.IGNORECASE)
_NAME_IS_MODEL: Final = re.compile(
    rb'^content-disposition:[^\r\n]*;\s*name="?model"?\s*(;|\r?$)', re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class FormModel:
    """The field `model` of a form.

    Attributes:
        value: The value of the field.
        start: The offset of the first byte of the value in the body.
        end: The offset of the byte after the value.
    """

    value: str
    start: int
    end: int

    def replaced(self, body: bytes, model: str) -> bytes:
        """Return `body` with `model` in place of the value."""
        return body[: self.start] + model.encode() + body[self.end :]


def form_model(content_type: str, body: bytes) -> FormModel:
    """Find the field `model` of a form.

    Raises:
        BadRequestError: The Content-Type names no boundary, or the form has no field `model`.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise BadRequestError(
            "The form's Content-Type has no boundary. Send the form as multipart/form-data with a boundary."
        )
    delimiter = b"--" + found[1].encode("utf-8", "surrogateescape")
    position = body.find(delimiter)
    while position >= 0:
        following = body.find(delimiter, position + len(delimiter))
        if following < 0:
            break
        model = _model_in(body, position + len(delimiter), following)
        if model is not None:
            return model
        position = following
    raise BadRequestError("The form has no field `model`. Send a form with this field.", param="model")


def _model_in(body: bytes, start: int, end: int) -> FormModel | None:
    """Return the field `model` if the bytes from `start` to `end` are the part of the form with this field; else None.

    A part consists of headers, a blank line, the value and a line break. A part with a file name is a file and not a
    field.
    """
    blank = body.find(b"\r\n\r\n", start, end)
    if blank < 0 or not _NAME_IS_MODEL.search(body, start, blank + 2) or b"filename" in body[start:blank].lower():
        return None
    value_end = end - 2 if body[end - 2 : end] == b"\r\n" else end
    return FormModel(body[blank + 4 : value_end].decode("utf-8", "replace"), blank + 4, value_end)
