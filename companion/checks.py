"""Checks of arguments, in one place.

Each takes the argument's name and its value and returns the value in the form that the caller works
with, or raises an error that names the argument, says what it allows, and shows what was given.

>>> whole("steps", 0)
Traceback (most recent call last):
    ...
ValueError: steps must be a whole number, 1 or more, not 0
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Seed", "choice", "finite_array", "function", "generator", "names", "real", "real_array",
    "whole", "wholes",
]  # fmt: skip

Seed = np.random.Generator | int | None
"""What `generator` takes: a generator, a seed, or None for fresh numbers each time."""


def whole(name: str, value: Any, least: int = 1) -> int:
    """Take a whole number, of Python or NumPy.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : int or numpy.integer
        What was given. A bool is no number here, and neither is 2.0.
    least : int, default 1
        The least number allowed.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If the value is no whole number.
    ValueError
        If it is less than `least`, or so large that NumPy has no such integer.

    Examples
    --------
    >>> whole("steps", np.int64(3))
    3
    """
    allowed = f"{name} must be a whole number, {least} or more, not {_short(value)}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(allowed)
    number = int(value)
    if not least <= number < 2**63:  # more counts nothing
        raise ValueError(allowed)
    return number


def wholes(name: str, value: Any, least: int = 1) -> list[int]:
    """Take a sequence of whole numbers, such as a shape.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : iterable of int
        What was given.
    least : int, default 1
        The least number allowed.

    Returns
    -------
    list of int

    Raises
    ------
    TypeError, ValueError
        If the value is no sequence, or as `whole` of one of them.

    Examples
    --------
    >>> wholes("shape", (np.int64(3), 4))
    [3, 4]
    """
    if isinstance(value, str | bytes) or not np.iterable(value):
        raise TypeError(f"{name} must be a sequence of whole numbers, not {_short(value)}")
    return [whole(f"{name}[{place}]", each, least) for place, each in enumerate(value)]


def real(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Take a finite real number, of Python or NumPy, between two bounds.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : float or int, or NumPy's
        What was given. A bool, a string or None is no number; NaN and infinity are never allowed.
    low, high : float, default -inf and inf
        The bounds.
    open_low, open_high : bool, default False
        Refuse the bound itself.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If the value is no real number.
    ValueError
        If it is not finite or not between the bounds.

    Examples
    --------
    >>> real("beta", 0, 0, 1, open_high=True)
    0.0
    >>> real("beta", 1, 0, 1, open_high=True)
    Traceback (most recent call last):
        ...
    ValueError: beta must be a finite number, 0 or more and less than 1, not 1
    """
    bounds = []
    if low > -math.inf:
        bounds.append(f"more than {low:g}" if open_low else f"{low:g} or more")
    if high < math.inf:
        bounds.append(f"less than {high:g}" if open_high else f"at most {high:g}")
    allowed = "a finite number" + ", " * bool(bounds) + " and ".join(bounds)
    message = f"{name} must be {allowed}, not {_short(value)}"
    if not _is_number(value):
        raise TypeError(message)
    try:
        number = float(value)
    except OverflowError:  # 10**400
        raise ValueError(message) from None
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not (math.isfinite(number) and above and below):
        raise ValueError(message)
    return number


def choice(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """Take one of the allowed values.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : str or None
        What was given.
    allowed : iterable
        What is allowed: strings, and perhaps None.

    Returns
    -------
    str or None
        The value.

    Raises
    ------
    TypeError
        If the value is of a type that none of the allowed ones has.
    ValueError
        If it is none of them; a close one is proposed.

    Examples
    --------
    >>> choice("mode", "evil", ["train", "eval"])
    Traceback (most recent call last):
        ...
    ValueError: mode must be 'train' or 'eval', not 'evil'. Did you mean 'eval'?
    """
    allowed = list(allowed)
    message = f"{name} must be {_listed(allowed)}, not {_short(value)}"
    if not isinstance(value, tuple({type(each) for each in allowed})):
        raise TypeError(message)
    if value not in allowed:
        raise ValueError(message + _meant(value, allowed))
    return value


def names(name: str, value: Any, allowed: Iterable[str]) -> tuple[str, ...]:
    """Take several of the allowed names, such as those of layers.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : iterable of str
        What was given. A single string is refused: "13" is not the layers "1" and "3".
    allowed : iterable of str
        What is allowed.

    Returns
    -------
    tuple of str
        The names, in the order given.

    Raises
    ------
    TypeError
        If the value is a string, or no iterable of strings.
    ValueError
        If one of them is not allowed; a close one is proposed.

    Examples
    --------
    >>> names("layers", ["1", "3"], ["1", "3", "5"])
    ('1', '3')
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of names, not {_short(value)}")
    allowed, given = list(allowed), tuple(value)
    for each in given:
        if not isinstance(each, str):
            raise TypeError(f"{name} must hold names, not {_short(each)}")
        if each not in allowed:
            there = f"{name} must be among {', '.join(map(repr, allowed)) or 'none'}"
            raise ValueError(f"{there}, not {_short(each)}{_meant(each, allowed)}")
    return given


def generator(name: str, rng: Seed) -> np.random.Generator:
    """Take a random number generator, as NumPy's functions do.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    rng : numpy.random.Generator, int or None
        A generator; a seed; or None, for a fresh generator that nobody can repeat.

    Returns
    -------
    numpy.random.Generator
        The very generator that was given, or a new one.

    Raises
    ------
    TypeError
        If it is anything else, such as the module ``numpy.random``.
    ValueError
        If a seed is negative.

    Examples
    --------
    >>> int(generator("rng", 0).integers(100))
    85
    """
    if rng is None or isinstance(rng, np.random.Generator):
        return np.random.default_rng(rng)
    if isinstance(rng, bool) or not isinstance(rng, Integral):
        raise TypeError(
            f"{name} must be a numpy.random.Generator, a seed or None, not {_short(rng)}"
        )
    return np.random.default_rng(whole(name, rng, 0))


def function(name: str, value: Any) -> Any:
    """Take what can be called.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : callable
        What was given.

    Returns
    -------
    callable
        The value.

    Raises
    ------
    TypeError
        If it cannot be called.

    Examples
    --------
    >>> function("f", abs)(-3)
    3
    """
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {_short(value)}")
    return value


def real_array(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Take an array of real numbers, NaN and infinity among them.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : array_like
        Floats or integers, of any shape.

    Returns
    -------
    ndarray of float64
        A copy.

    Raises
    ------
    TypeError
        If it holds anything else (text, objects, complex numbers, bools), or is ragged.
    ValueError
        If it holds a whole number that is too large for a float.

    Examples
    --------
    >>> real_array("x", [1, np.nan])
    array([ 1., nan])
    """
    try:
        array = np.asarray(value)
        if array.dtype == object and array.size and all(map(_is_number, array.flat)):
            array = array.astype(np.float64)  # whole numbers from 2^64 on
    except OverflowError:
        raise ValueError(f"{name} must be finite, and {_short(value)} fits into no float") from None
    except ValueError:
        raise TypeError(f"{name} must be an array, not a ragged list: {_short(value)}") from None
    except (TypeError, RuntimeError) as error:  # a tensor that waits for its gradient
        raise TypeError(f"{name} must be an array of numbers: {error}") from None
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers (float or integer), not {array.dtype}")
    with np.errstate(over="ignore"):  # a long double may be too large
        return array.astype(np.float64)


def finite_array(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Take an array of finite real numbers.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : array_like
        Floats or integers, of any shape.

    Returns
    -------
    ndarray of float64
        A copy.

    Raises
    ------
    TypeError
        If it holds anything else (text, objects, complex numbers, bools), or is ragged.
    ValueError
        If it holds NaN or infinity, or a number that is too large for a float.

    Examples
    --------
    >>> finite_array("x", [[1, 2], [3, 4]])
    array([[1., 2.],
           [3., 4.]])
    """
    array = real_array(name, value)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but holds NaN or infinity")
    return array


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _listed(allowed: list[Any]) -> str:
    *most, last = map(repr, allowed)
    return f"{', '.join(most)} or {last}" if most else last


def _meant(value: Any, allowed: Iterable[Any]) -> str:
    lower = {each.lower(): each for each in allowed if isinstance(each, str)}
    close = get_close_matches(str(value).lower(), lower, n=1)
    return f". Did you mean {lower[close[0]]!r}?" if close else ""


def _short(value: Any) -> str:
    """Show a value in a few dozen characters, on one line."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # from 4,300 digits on
        return "a whole number too long to print"
