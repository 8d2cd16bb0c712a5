"""Figures: one style, Axes in, Axes out, names where lines end."""

import base64
import io
import json
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from companion import ACTIVATIONS, relu, tanh
from companion.figures import (
    COLOURS,
    arrow,
    blank,
    box,
    cloud,
    curve,
    death,
    histograms,
    net,
    panels,
    plot_activation,
    plot_grid,
    plot_lines,
    show,
    steps,
    use_style,
    varies_within,
    way_back,
    way_forward,
    word,
)
from companion.figures.style import NARROW, NARROW_PNG, WIDTH, png


@pytest.fixture(autouse=True)
def _closed():
    mpl.use("agg")
    use_style()
    yield
    plt.close("all")


def luminance(colour: str) -> float:
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS)
def test_colours_read_on_white(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 4.5


@pytest.mark.parametrize("f", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_plot_activation_draws_function_and_slope_without_vertical_lines(f):
    ax = plot_activation(f, low=-3, high=3)
    assert isinstance(ax, Axes)
    _, value, slope = ax.lines
    z = value.get_xdata()
    assert np.array_equal(value.get_ydata(), f(z))
    drawn = slope.get_ydata()
    assert np.nanmax(abs(drawn - f.derivative(z))) == 0
    assert np.nanmax(abs(np.diff(drawn))) <= 0.1
    assert ax.get_xlabel()


def test_plot_activation_takes_an_axes_and_parameters():
    _, given = plt.subplots()
    ax = plot_activation(ACTIVATIONS["leaky_relu"], given, negative_slope=0.5)
    assert ax is given
    assert ax.lines[1].get_ydata()[0] == -2


def test_plot_lines_names_each_line_in_its_colour():
    x = np.arange(5.0)
    ax = plot_lines(x, {"up": x, "down": -x}, xlabel="time (s)", ylim=(-5, 5))
    assert [text.get_text() for text in ax.texts] == ["up", "down"]
    assert [t.get_color() for t in ax.texts] == [line.get_color() for line in ax.lines]
    assert ax.get_xlabel() == "time (s)"


def test_plot_lines_draws_mean_and_interval_of_seeds():
    values = np.array([[1.0, 3.0], [2.0, 6.0], [0.0, 4.0]])
    ax = plot_lines([0, 1, 2], {"a": values})
    assert ax.lines[0].get_ydata().tolist() == [2, 4, 2]
    low, high = ax.collections[0].get_datalim(ax.transData).intervaly
    assert low == pytest.approx(2 - 12.7062 * 2, rel=1e-4)
    assert high == pytest.approx(4 + 12.7062 * 2, rel=1e-4)


def test_names_that_end_together_do_not_overlap():
    x = np.linspace(0, 1, 5)
    ax = plot_lines(x, {name: x * 1e-3 for name in "abcd"}, ylim=(0, 1))
    ax.figure.canvas.draw()
    boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda box: box.y0)
    assert all(upper.y0 >= lower.y1 - 3 for lower, upper in pairwise(boxes))


def test_name_stands_where_its_line_leaves_the_view():
    x = np.arange(10.0)
    ax = plot_lines(x, {"leaves": x**2}, ylim=(0, 20))
    assert ax.texts[0].xy == (4.0, 16.0)


def test_figures_refuse_what_they_cannot_draw():
    with pytest.raises(ValueError, match="at most 6"):
        plot_lines([0, 1], {str(i): [0, 1] for i in range(7)})
    with pytest.raises(ValueError, match=r"lines\['a'\] must have the length of x, 2, not 3"):
        plot_lines([0, 1], {"a": [0, 1, 2]})
    with pytest.raises(ValueError, match="view"):
        plot_lines([0, 1], {"a": [5, 6]}, ylim=(0, 1))


def test_panels_are_as_wide_as_the_page():
    axes = panels(3, rows=2, sharex=True)
    assert axes.shape == (6,)
    assert axes[0].figure.get_figwidth() == WIDTH


def test_stored_picture_is_twice_as_wide_as_shown_and_small():
    ax = plot_activation(relu)
    picture = Image.open(io.BytesIO(png(ax.figure)))
    assert picture.width == 2 * 100 * WIDTH
    assert len(png(ax.figure)) < 12_000
    assert png(ax.figure) == png(ax.figure)


def test_use_style_registers_the_small_pictures_in_a_notebook(monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    no_file = Config(HistoryManager={"enabled": False})  # which nobody would close
    shell = InteractiveShell.instance(config=no_file)
    try:
        use_style()
        formatter = shell.display_formatter.formatters["image/png"]
        assert formatter.lookup_by_type(plt.Figure) is png
    finally:
        InteractiveShell.clear_instance()


def test_plot_grid_writes_each_share_in_its_field():
    ax = plot_grid([[0, 0.5, 1], [0.2, 0.3, 0.99]], [10, 20], "abc", xlabel="gain")
    assert [text.get_text() for text in ax.texts] == ["0", "50", "100", "20", "30", "99"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["10", "20"]
    bottom, top = ax.get_ylim()
    assert bottom < top
    assert ax.get_xlabel() == "gain"
    fields = ax.images[0]
    for text, value in zip(ax.texts, fields.get_array().ravel(), strict=True):
        light = luminance(mpl.colors.to_hex(fields.cmap(fields.norm(value)))) + 0.05
        ink = luminance(mpl.colors.to_hex(text.get_color())) + 0.05
        assert max(light, ink) / min(light, ink) >= 4.5


def stored(figure) -> list[dict] | None:
    """The numbers inside the PNG that a notebook would store."""
    image = Image.open(io.BytesIO(png(figure)))
    assert ("numbers" in image.text) == ("pixels" in image.text)
    return json.loads(image.text["numbers"]) if "numbers" in image.text else None


def test_means_of_seeds_are_stored_with_their_intervals():
    values = np.array([[1.0, 3.0], [2.0, 6.0], [0.0, 4.0]])
    ax = plot_lines([0, 1, 2], {"a": values, "theory": np.full(3, 2.5)}, ylim=(0, 10))
    mean, theory = stored(ax.figure)
    assert mean["x"] == [0, 1, 2]
    assert mean["y"] == [2, 4, 2]
    assert mean["y within"] == pytest.approx([12.706, 25.412, 25.412])
    assert theory["y"] == [2.5] * 3
    assert theory["y within"] == 0.05  # half a percent of the axis


def test_grid_of_seeds_stores_means_and_intervals_and_leaves_out_what_overflowed():
    values = np.full((1, 2, 3), 0.5)
    values[0, 0] = [0.2, 0.4, np.nan]
    values[0, 1, :2] = np.nan
    ax = plot_grid(values, ["a"], ["b", "c"])
    assert [text.get_text() for text in ax.texts] == ["30", "–"]
    (grid,) = stored(ax.figure)
    assert grid["y"] == [0.3, None]
    assert grid["y within"] == [pytest.approx(1.2706), None]


def test_figure_of_deterministic_data_is_its_picture():
    ax = plot_lines([0, 1], {"a": [1.0, 2.0]})
    assert stored(ax.figure) is None


def test_line_drawn_by_hand_says_how_far_it_varies():
    ax = plt.subplots()[1]
    (dots,) = ax.plot([1.0, 2.0], [3.0, 4.0], "o")
    ax.axhline(3.5)  # not in data coordinates alone, so it is seen in the picture only
    varies_within(dots, [0.1, 0.2], x=0.3)
    (found,) = stored(ax.figure)
    assert found == {
        "axes": 0, "x": [1, 2], "x within": 0.3, "y": [3, 4], "y within": [0.1, 0.2]
    }  # fmt: skip


def test_nets_that_overflowed_are_left_out_and_counted_beside_the_line():
    values = np.array([[1.0, 3.0, 5.0], [2.0, np.nan, 6.0]])
    ax = plot_lines([0, 1], {"a": values})
    assert ax.lines[0].get_ydata().tolist() == [3, 4]
    assert [text.get_text() for text in ax.texts] == ["a\n(1 of 3 overflowed)"]


def test_line_that_begins_later_has_not_overflowed():
    values = np.array([[np.nan, np.nan], [1.0, 3.0], [2.0, np.nan], [np.nan, np.nan]])
    begun = plot_lines([0, 1], {"a": values[:2]})
    assert [text.get_text() for text in begun.texts] == ["a"]
    ended = plot_lines([0, 1, 2, 3], {"a": np.c_[values, [np.nan, 1.0, 2.0, 3.0]]})
    assert [text.get_text() for text in ended.texts] == ["a\n(2 of 3 overflowed)"]


# ---- drawings -------------------------------------------------------------------------------


def every_drawing(narrow: bool) -> np.ndarray:
    """One of each, on an Axes of its own."""
    axes = panels(2, 4, height=1.5, narrow=narrow)
    word(box(arrow(blank(axes[0], 4, 2), (0, 1), (1, 1), "in"), 2, 1, "f"), 3, 1, "out", "red")
    net(axes[1], ["A", "B"], ["64", "32", "10"], below=["", "ReLU"])
    curve(axes[2])
    cloud(axes[3], [-1, 2])
    histograms(axes[4], {"layer 1": [0, 1, 2], "layer 2": [1, 1, 1]})
    steps(axes[5], [(0, 0), (1, 1), (2, 0)], text="SGD")
    axes[6].remove()
    axes[7].remove()
    return axes


@pytest.mark.parametrize("narrow", [False, True])
def test_drawings_draw_and_keep_words_at_eleven_pixels(narrow):
    axes = every_drawing(narrow)
    figure = axes[0].figure
    assert figure.get_figwidth() == (NARROW if narrow else WIDTH)
    assert axes[0].get_subplotspec().get_gridspec().ncols == (1 if narrow else 2)
    sizes = [text.get_size() for ax in axes[:6] for text in ax.texts]
    assert min(sizes) * 100 / 72 >= 11
    assert len(png(figure)) > 1000


def test_net_names_wires_and_boxes():
    ax = net(plt.subplots()[1], ["A", "B"], ["64", "32", "10"], below=["", "ReLU"])
    assert [t.get_text() for t in ax.texts if t.get_text()] == ["64", "32", "10", "A", "B", "ReLU"]
    with pytest.raises(ValueError, match="wires must be 2, one more than layers, not 1"):
        net(ax, ["A"], ["64"])
    with pytest.raises(ValueError, match="below must be 1, one for each layer, not 2"):
        net(ax, ["A"], below=["a", "b"])


def test_curve_is_grey_where_it_is_flat_and_cloud_lies_on_it():
    ax = cloud(curve(plt.subplots()[1], relu, 2.0), [-1.0, 0.5, 9.0], spread=0)
    assert ax.collections[0].get_datalim(ax.transData).intervalx == pytest.approx([-2, 0])
    line, dots = ax.lines
    assert line.get_ydata()[[0, -1]].tolist() == [0, 2]
    assert dots.get_xydata().tolist() == [[-1, 0], [0.5, 0.5], [2, 2]]
    assert len(curve(plt.subplots()[1], tanh, flat=None).collections) == 0
    low, high = curve(plt.subplots()[1], tanh, flat=0.05).collections[0].get_paths()
    edge = np.arccosh(1 / np.sqrt(0.05))
    assert low.vertices[:, 0].max() == pytest.approx(-edge, abs=0.03)
    assert high.vertices[:, 0].min() == pytest.approx(edge, abs=0.03)


def test_histograms_have_one_axis_and_one_height():
    ax = histograms(plt.subplots()[1], {"a": [0, 0, 1], "b": [3, 3, 3]}, bins=[0, 1, 2, 3, 4])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    tops = [bars.get_datalim(ax.transData).intervaly for bars in ax.collections]
    assert [top.tolist() for top in tops] == [[0, pytest.approx(0.85)], [-1, pytest.approx(-0.15)]]
    assert ax.get_xlim() == (0, 4)


def test_steps_draw_an_arrow_each():
    ax = steps(plt.subplots()[1], [(0, 0), (1, 1), (2, 0)])
    assert len([text for text in ax.texts if text.arrow_patch is not None]) == 2
    with pytest.raises(ValueError, match=r"points must have the shape \(n, 2\), not \(3,\)"):
        steps(ax, [0, 1, 2])


def smallest_word(figure: Figure) -> float:
    """Height of the smallest letters that are drawn, in pixels."""
    return min(t.get_size() for t in figure.findobj(Text) if t.get_text()) * 100 / 72


@pytest.mark.parametrize("narrow", [False, True])
def test_drawing_of_death_puts_the_dead_where_the_slope_is_zero(narrow):
    death(narrow)
    axes = plt.gcf().axes
    assert plt.gcf().get_figwidth() == (NARROW if narrow else WIDTH)
    places = {
        ax.get_title("left").partition(":")[0]: [d.get_xdata() for d in ax.lines[1:]] for ax in axes
    }
    assert (places["dead"][0] < 0).all()
    assert (places["leaky ReLU"][0] < 0).all()
    for name in ("alive", "centring", "a lower rate"):
        assert 0 < (places[name][-1] > 0).mean() < 1
    assert smallest_word(plt.gcf()) >= 11


@pytest.mark.parametrize("narrow", [False, True])
def test_drawing_of_the_way_back_multiplies_from_layer_to_layer(narrow):
    way_back(narrow)
    _, *charts = plt.gcf().axes
    assert plt.gcf().get_figwidth() == (NARROW if narrow else WIDTH)
    for ax, factor in zip(charts, (0.7, 1.0, 1.3), strict=True):
        heights = np.array([bar.get_height() for bar in ax.patches])
        assert heights[-1] == 1
        assert heights[:-1] == pytest.approx(factor * heights[1:])
        assert ax.get_title("left").startswith(f"{factor:g} per layer")
    assert smallest_word(plt.gcf()) >= 11


@pytest.mark.parametrize("narrow", [False, True])
def test_drawing_of_the_way_forward_loses_a_difference_by_the_slopes_or_keeps_it(narrow):
    way_forward(narrow)
    lost, kept = plt.gcf().axes
    assert plt.gcf().get_figwidth() == (NARROW if narrow else WIDTH)
    for ax, factor in ((lost, 0.235), (kept, 1.0)):
        shared, difference = (line.get_ydata() for line in ax.lines)
        assert (shared == 0.5).all()
        assert difference[1:] == pytest.approx(factor * difference[:-1])
        assert ax.get_yscale() == "log"
    assert smallest_word(plt.gcf()) >= 11


def test_show_stores_a_picture_for_the_page_and_one_for_phones(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    show(every_drawing)
    (data,) = shown
    sizes = [Image.open(io.BytesIO(base64.b64decode(data[k]))).width for k in data]
    assert dict(zip(data, sizes, strict=True)) == {"image/png": 1380, NARROW_PNG: 700}
    assert plt.get_fignums() == []
    with pytest.raises(ValueError, match="draw must make one figure, not 0"):
        show(lambda narrow: None)
