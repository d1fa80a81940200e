"""Tools from Python functions, against the schemas of transformers."""

# The functions are samples of what people write.
# ruff: noqa: B006

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import lapwing
from lapwing.tokenizer.schema import describe

EXPECTED: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "tools.json").read_text(encoding="utf-8"))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


def weather(city: str, days: int = 3, unit: Literal["C", "F"] = "C") -> str:
    """Gets the weather.

    Two paragraphs.

    Examples:
        weather("Paris")

    Args:
        city: The city,
            with a country: if needed.
        days (int, optional): How many days.
        unit: The unit (choices: ["C", " F"])

    Returns:
        A text of
        several lines.

        And a paragraph.

    Raises:
        ValueError: never.
    """


def notes(
    text: str | None, tags: list[str] | None = None, extra: dict[str, float] = {}, pair: tuple[int, str] = (1, "")
):
    """
    Takes notes.

    Note: this is a note.

    Args:
        text:
            The text on the next line.
        tags: Tags

            after a blank line.
        extra: (float) Something: else
        pair: Two values
    Yields:
        nothing
    """


def paint(
    color: Color,
    depth: int | float | None,
    any: Any,
    kind: Literal[1, "a", True],
    both: list[int] | dict[str, int] | tuple,
    many: list | None = None,
) -> Color:
    """Paints.

    Args:
      color: The color.
      depth: The depth.
      any: Anything.
      kind: The kind.
      both: Several types.
      many: Many.

    Returns:
      The color that was there before: always."""


def nothing() -> object:
    """Does nothing.

    Returns:
        Nothing at all
    """


def bare() -> int:
    """Summary only, of
    two lines."""


class Tools:
    def method(self, a: bool) -> list[dict[str, int]]:
        """A method.
        Args:
            a: A flag. See also: nothing
        Returns:
            list: of things
        Example:
            more
        """


@pytest.mark.parametrize("tool", [weather, notes, paint, nothing, bare, Tools.method, Tools().method])
def test_functions_have_the_schemas_of_transformers(tool: Callable[..., Any]) -> None:
    # The order of the keys counts too: templates write them.
    assert json.dumps(describe(tool)) == json.dumps(EXPECTED[tool.__qualname__])


def test_types_without_a_schema_are_named() -> None:
    def of_object(x: object) -> None:
        """Text.

        Args:
            x: An object.
        """

    def of_one(x: tuple[int]) -> None:
        """Text.

        Args:
            x: One.
        """

    for tool in (of_object, of_one):
        with pytest.raises(lapwing.OptionError, match="JSON schema"):
            describe(tool)
