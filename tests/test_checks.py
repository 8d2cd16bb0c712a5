"""The checks of arguments: what they take, and that each error names argument, value and bound."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from companion.checks import (
    choice,
    finite_array,
    function,
    generator,
    names,
    real,
    real_array,
    whole,
    wholes,
)

HUGE = [10**400, pytest.param(10**5000, id="more than Python prints")]
NO_NUMBERS = [True, np.True_, "3", b"3", None, [3], 3j, np.array([3]), object()]


class Unprintable:
    """A value whose repr fails."""

    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_whole_takes_the_whole_numbers_of_python_and_numpy(value):
    assert whole("n", value) == 3
    assert type(whole("n", value)) is int


@pytest.mark.parametrize("value", [*NO_NUMBERS, 3.0, np.float64(3), Fraction(3), Unprintable()])
def test_whole_refuses_other_types(value):
    with pytest.raises(TypeError, match=r"^n must be a whole number, 1 or more, not "):
        whole("n", value)


def test_whole_holds_its_bound():
    assert whole("n", 1) == 1
    assert whole("n", 0, least=0) == 0
    assert whole("n", 2**63 - 1) == 2**63 - 1
    for much in (2**63, 10**400):
        with pytest.raises(ValueError, match=r"^n must be a whole number, 1 or more, not \d+"):
            whole("n", much)
    with pytest.raises(ValueError, match=r"^n must be a whole number, 1 or more, not 0$"):
        whole("n", 0)
    with pytest.raises(ValueError, match=r"^n must be a whole number, -2 or more, not -3$"):
        whole("n", -3, least=-2)


@pytest.mark.parametrize("value", [[3, 4], (3, np.int64(4)), np.array([3, 4]), torch.Size([3, 4])])
def test_wholes_takes_sequences(value):
    assert wholes("shape", value) == [3, 4]
    assert wholes("shape", ()) == []
    assert wholes("shape", [0], least=0) == [0]


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ("34", TypeError, "shape must be a sequence of whole numbers, not '34'"),
        (b"34", TypeError, "shape must be a sequence"),
        (34, TypeError, "shape must be a sequence of whole numbers, not 34"),
        (None, TypeError, "shape must be a sequence"),
        (np.array(3), TypeError, "shape must be a sequence"),
        ([3, 4.0], TypeError, r"shape\[1\] must be a whole number, 1 or more, not 4.0"),
        ([0], ValueError, r"shape\[0\] must be a whole number, 1 or more, not 0"),
    ],
)
def test_wholes_refuses_anything_else(value, error, says):
    with pytest.raises(error, match=says):
        wholes("shape", value)


def test_function_takes_what_can_be_called():
    assert function("f", len) is len
    for bad in (None, "len", 3):
        with pytest.raises(TypeError, match=f"^f must be a function, not {bad!r}$"):
            function("f", bad)


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.int64(3), Fraction(3)])
def test_real_takes_the_real_numbers_of_python_and_numpy(value):
    assert real("x", value) == 3
    assert type(real("x", value)) is float


@pytest.mark.parametrize("value", [*NO_NUMBERS, Unprintable()])
def test_real_refuses_other_types(value):
    with pytest.raises(TypeError, match=r"^x must be a finite number, not "):
        real("x", value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(np.nan), *HUGE])
def test_real_refuses_what_is_not_finite_or_too_large(value):
    with pytest.raises(ValueError, match=r"^x must be a finite number, not "):
        real("x", value)


@pytest.mark.parametrize(
    ("bounds", "options", "inside", "outside", "said"),
    [
        ((0,), {}, [0, 9], [-1e-9], "0 or more"),
        ((0,), {"open_low": True}, [1e-9], [0, -1], "more than 0"),
        ((0, 1), {}, [0, 1], [-1e-9, 1.001], "0 or more and at most 1"),
        ((0, 1), {"open_high": True}, [0, 0.999], [1], "0 or more and less than 1"),
        ((0, 1), {"open_low": True, "open_high": True}, [0.5], [0, 1], "more than 0 and less"),
        ((-np.inf, 5), {}, [-1e300, 5], [5.001], "at most 5"),
    ],
)
def test_real_holds_its_bounds_and_says_them(bounds, options, inside, outside, said):
    assert [real("x", value, *bounds, **options) for value in inside] == inside
    for value in outside:
        with pytest.raises(ValueError, match=f"^x must be a finite number, {said}.*, not"):
            real("x", value, *bounds, **options)


def test_choice_takes_what_is_allowed():
    assert choice("mode", "eval", ["train", "eval"]) == "eval"
    assert choice("penalized", None, {"all": 1, None: 2}) is None


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("evil", ValueError, "mode must be 'eval', 'train' or 'both', not 'evil'. Did you mean 'e"),
        ("EVAL", ValueError, "not 'EVAL'. Did you mean 'eval'?"),
        ("", ValueError, "not ''$"),
        (3, TypeError, "mode must be .*, not 3$"),
        (None, TypeError, "not None$"),
        (["eval"], TypeError, r"not \['eval'\]$"),
        (np.array(["eval"]), TypeError, "mode must be"),
    ],
)
def test_choice_refuses_anything_else(value, error, message):
    with pytest.raises(error, match=message):
        choice("mode", value, ["eval", "train", "both"])


def test_choice_says_the_only_one():
    with pytest.raises(ValueError, match=r"^mode must be 'eval', not 'x'$"):
        choice("mode", "x", ["eval"])


def test_names_takes_lists_of_names():
    assert names("layers", iter(["3", "1"]), {"1": 0, "3": 0}) == ("3", "1")
    assert names("layers", [], []) == ()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("13", TypeError, "layers must be a list of names, not '13'"),
        (b"1", TypeError, "layers must be a list of names"),
        (3, TypeError, "layers must be a list of names, not 3"),
        (None, TypeError, "layers must be a list of names, not None"),
        ([1], TypeError, "layers must hold names, not 1"),
        (["1", "relu1"], ValueError, "among '1', 'relu_1', not 'relu1'. Did you mean 'relu_1'?"),
        (["zzz"], ValueError, "layers must be among '1', 'relu_1', not 'zzz'$"),
    ],
)
def test_names_refuses_anything_else(value, error, message):
    with pytest.raises(error, match=message):
        names("layers", value, iter(["1", "relu_1"]))


def test_names_says_that_none_is_allowed():
    with pytest.raises(ValueError, match="layers must be among none, not 'a'"):
        names("layers", ["a"], [])


def test_generator_takes_what_numpy_takes():
    rng = np.random.default_rng(1)
    assert generator("rng", rng) is rng
    assert generator("rng", 1).random() == generator("rng", np.int64(1)).random() == rng.random()
    assert generator("rng", None).random() != generator("rng", None).random()


@pytest.mark.parametrize("value", [np.random, True, 1.0, "1", np.random.RandomState(0), [1]])
def test_generator_refuses_other_types(value):
    with pytest.raises(TypeError, match=r"^rng must be a numpy.random.Generator, a seed or None, "):
        generator("rng", value)


def test_generator_refuses_a_negative_seed():
    assert generator("rng", 0)
    with pytest.raises(ValueError, match="rng must be a whole number, 0 or more, not -1"):
        generator("rng", -1)


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3, 4]],
        np.array([[1, 2], [3, 4]], np.float16),
        np.array([[1, 2], [3, 4]], np.uint8),
        np.array([[2, 1], [4, 3]], float)[:, ::-1],  # a negative stride
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_finite_array_takes_floats_and_integers_of_any_kind(value):
    array = finite_array("x", value)
    assert array.tolist() == [[1, 2], [3, 4]]
    assert array.dtype == np.float64


def test_finite_array_copies_and_keeps_the_shape():
    given = np.ones(3)
    finite_array("x", given)[0] = 5
    assert given[0] == 1
    assert finite_array("x", 2**64) == 2.0**64
    assert finite_array("x", 3.0).shape == ()
    assert finite_array("x", []).shape == (0,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["1", "2"], "x must hold real numbers .*, not <U1"),
        ("text", "x must hold real numbers"),
        (None, "x must hold real numbers .*, not object"),
        ([None, 1.0], "x must hold real numbers .*, not object"),
        ([True, False], "x must hold real numbers .*, not bool"),
        (np.array([True, 1], object), "x must hold real numbers .*, not object"),
        ([1j], "x must hold real numbers .*, not complex128"),
        (np.array([], object), "x must hold real numbers .*, not object"),
        ([[1.0], [2.0, 3.0]], r"x must be an array, not a ragged list: \[\[1.0\], \[2.0, 3.0\]\]"),
        (torch.ones(2, requires_grad=True), "x must be an array of numbers: .*requires grad"),
    ],
)
def test_finite_array_refuses_what_holds_no_real_numbers(value, message):
    with pytest.raises(TypeError, match=message):
        finite_array("x", value)


def test_real_array_lets_pass_what_is_not_finite():
    np.testing.assert_array_equal(real_array("x", [1, np.nan, -np.inf]), [1, np.nan, -np.inf])
    with pytest.raises(TypeError, match="x must hold real numbers"):
        real_array("x", ["a"])
    with pytest.raises(ValueError, match=r"x must be finite, and .* fits into no float"):
        real_array("x", [10**400])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, *HUGE, np.longdouble("1e4000")])
def test_finite_array_refuses_what_is_not_finite_or_too_large(bad):
    for value in (bad, [bad], [1.0, bad], [1, bad]):
        with pytest.raises(ValueError, match=r"^x must be finite"):
            finite_array("x", value)


def test_a_message_shows_a_long_value_in_short():
    with pytest.raises(TypeError, match="not ") as caught:
        whole("n", np.arange(1000).reshape(20, 50))
    assert len(str(caught.value)) < 150
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="not a whole number too long to print"):
        real("x", 10**5000)
