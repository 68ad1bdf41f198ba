"""What a notebook shows: controls that redraw, and nothing that a batch run could wait for."""

import ipywidgets as widgets

from seqlib import show
from seqlib.errors import UsageError


def test_a_changed_control_draws_anew_and_a_refusal_is_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(show, "display", shown.append)
    controls = {"count": widgets.IntSlider(1, 0, 9), "name": widgets.Text("a")}

    def draw(count, name):
        if not name:
            raise UsageError("the name is empty; <type> one")
        return name * count

    show.interactive(controls, draw)
    [box] = shown
    *own, below = box.children
    assert own == list(controls.values())
    controls["count"].value = 3
    assert below.value == "aaa"
    controls["name"].value = ""
    assert below.value == "the name is empty; &lt;type&gt; one"
    assert not [w for w in box.children if isinstance(w, widgets.Output)]


def test_texts_stand_side_by_side_keep_their_lines_and_are_no_markup():
    shown = show.texts({"lora": "a\n<b>", "full": "c"})
    assert "a\n&lt;b&gt;" in shown and shown.count("<pre") == 2 and "flex" in shown


def test_an_empty_text_shows_nothing(monkeypatch):
    shown = []
    monkeypatch.setattr(show, "display", shown.append)
    show.say("")
    show.say("words")
    assert [s.data for s in shown] == ["words"]
