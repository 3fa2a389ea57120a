"""The core of all checkers: calls are guarded, answers read alike, refusals name what was seen."""

import functools
import math
import random
import signal
import subprocess
import sys
import textwrap
import threading
from decimal import Decimal
from fractions import Fraction

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from aigc_utils import progress
from aigc_utils.checks import (
    Answer,
    CheckFailed,
    alike,
    core,
    demand,
    difference,
    exercise,
    read_array,
    read_number,
    read_several,
    read_whole,
    reading,
    show_hint,
    show_hints,
    show_pair,
)

HARD = np.random.default_rng(0).normal(size=(3, 4))


@exercise("00")
def double(answer: Answer) -> str:
    """Check ``double(x)``, twice the array."""
    answer.compare(
        [(np.array([1.0, 2.0, 5.0]),), (HARD,)],
        right=lambda x: 2 * x,
        slips=[(lambda x: x**2, "You square."), (lambda x: x, "You give back what came.")],
    )
    return "twice as much."


def refusal(check, wrong) -> str:
    with pytest.raises(CheckFailed) as failed:
        check(wrong)
    message = str(failed.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    assert failed.value.__suppress_context__
    return message


@pytest.mark.parametrize(
    "right",
    [
        lambda x: x + x,
        lambda x: (2 * x).tolist(),
        lambda x: tuple((2 * x).tolist()),
        lambda x: (2 * x).astype(np.float32),
        lambda x: torch.tensor(2 * x, requires_grad=True),
        lambda x: torch.tensor(2 * x, dtype=torch.bfloat16),
        lambda x, y=3: 2 * x,
        functools.partial(np.multiply, 2),
        lambda *inputs: 2 * inputs[0],
    ],
)
def test_right_answers_in_all_forms_pass_with_one_line(right, capsys):
    double(right)
    assert capsys.readouterr().out == "Right: twice as much.\n"


def test_a_slip_is_named_only_when_it_is_recognised():
    assert refusal(double, lambda x: x**2) == "You square."
    assert refusal(double, lambda x: x) == "You give back what came."
    message = refusal(double, lambda x: 2 * x + (x == 5))
    assert message == "`double([1.0, 2.0, 5.0])` must have 10 at [2], and has 11."
    message = refusal(double, lambda x: 2 * x + 1)
    assert message.endswith("must have 2 at [0], and has 3 (3 of 3 numbers differ).")
    # Squares in one of the cases only: the other shows that this is not what it does.
    message = refusal(double, lambda x: x**2 if x.ndim == 2 else 2 * x)
    assert message.startswith("`double(array (3, 4))` must have 0.251 at [0, 0], and has 0.0158")
    message = refusal(double, lambda x: x**2 if x.ndim == 1 else 2 * x)
    assert message.startswith("`double([1.0, 2.0, 5.0])` must have 2 at [0], and has 1 (2 of 3")
    message = refusal(double, lambda x: x**2 if x.ndim == 1 else zwei)  # noqa: F821
    assert message == "You square."  # what came in the cases that came


def raises(x):
    y = 2 * x
    return y * zwei  # noqa: F821


def helper(x):
    return x / {}["factor"]


def recurses(x):
    return recurses(x)


def loops(x):
    while True:
        x = x + 1


def swallows(x):
    try:
        while True:
            x = x + 1
    except:  # noqa: E722
        while True:
            x = x - 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            raises,
            "`double([1.0, 2.0, 5.0])` stops in line 3 of your function `raises` "
            "(`return y * zwei # noqa: F821`): NameError: name 'zwei' is not defined.",
        ),
        (lambda x: helper(x), "in line 2 of your function `helper` (`return x / {}"),
        (lambda x: [helper(y) for y in x], "in line 2 of your function `helper`"),
        (lambda x: x.reshape(7), "ValueError: cannot reshape array of size 3 into shape (7,)."),
        (lambda x: sys.exit("done"), "SystemExit: done."),
        (recurses, "calls itself again and again in line 2 of your function `recurses`"),
        (lambda: 1, "The check calls `double([1.0, 2.0, 5.0])`, and your `double()` does not"),
        (lambda x, y: x, "missing a required argument: 'y'."),
        (lambda x: None, "`double` gives nothing back yet"),
        (lambda x: ..., "`double` gives nothing back yet"),
        (lambda x: print(2 * x), "`double` prints something and gives nothing back: use `return`."),
        (lambda x: 2 * x if x.ndim == 1 else None, "gives nothing back, although other inputs do."),
        (lambda x: "2", "must be an array of numbers, and yours is '2', of type str."),
        (lambda x: {"x": x}, "must be an array of numbers, and yours is"),
        (lambda x: [[1.0], [2.0, 3.0]], "must be an array of numbers, and yours is [[1.0], ["),
        (
            lambda x: (y for y in 2 * x),
            "must be an array of numbers, and yours is a value of",
        ),
        (lambda x: 2j * x, "must be an array of numbers, and yours is"),
        (lambda x: 2 * x[:, None], "must have shape (3,), and yours has shape (3, 1)."),
        (lambda x: 2 * x[0], "must be an array of numbers, and yours is 2.0, of type float64."),
        (lambda x: 2 * x * math.nan, "must have 2 at [0], and has nan (3 of 3"),
        (lambda x: 2 * x * (1 + 1e-4), "must have 2 at [0], and has 2.0002"),
        (2.0, "Hand the function itself to the check, `double` without brackets; what came is 2.0"),
        (None, "what came is None, of type NoneType."),
    ],
)
def test_odd_answers_get_one_true_sentence(wrong, sentence):
    assert sentence in refusal(double, wrong)


def test_inputs_must_come_back_as_they_were():
    def in_place(scores):
        scores *= 2
        return scores

    assert refusal(double, in_place) == (
        "`double` changes its input `scores`: work on a copy, or build a new one."
    )
    kept = [
        [1, "a", None, math.nan, (1.0, {2})],
        {"a": np.array([1.0, math.nan]), "b": [torch.tensor([1.0], requires_grad=True)]},
        np.array(["a", "b"]),
    ]
    for value in kept:
        assert reading.same(reading.copied(value), value)
    assert not reading.same([1], [1.0])
    assert not reading.same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not reading.same(np.float32([1]), np.float64([1]))
    assert not reading.same({1}, {2})
    assert not reading.same([1, 2], [1]) and not reading.same([1], [1, 2])
    assert reading.copied(kept[1])["b"][0].requires_grad
    nested = [[1, [2]]]
    reading.copied(nested)[0][1].append(3)
    assert nested == [[1, [2]]]
    copy = reading.copied(kept[1])
    copy["b"][0].data += 1
    assert not reading.same(copy, kept[1])
    generator = np.random.default_rng(0)
    assert reading.copied(generator) is generator


def test_the_line_of_a_lambda_is_that_of_the_function_around_it():
    def around(x):
        # a comment
        return list(map(lambda y: y / {}["factor"], x))

    assert "in line 3 of your function `around` (`return list(map(" in refusal(double, around)


def test_a_part_of_an_answer_and_a_slip_of_one_value_are_named():
    @exercise("00")
    def halves(answer):
        """Check ``halves(x)``, which returns two arrays."""
        x = np.array([1.0, 2.0])
        first, second = read_several(answer(x), "halves", ("first", "second"))
        answer.demand_value(first, x[:1], (x,), part="first")
        slips = [
            (lambda x: x.reshape(7), "No such shape."),  # fits no case, so it is not what happened
            (lambda x: {}["none"], "No such key."),
            (lambda x: x[:1], "Twice the first."),
        ]
        answer.demand_value(second, x[1:], (x,), slips, part="second")
        return "two halves."

    assert refusal(halves, lambda x: (x[1:], x[1:])) == (
        "`first` of `halves([1.0, 2.0])` must have 1 at [0], and has 2."
    )
    assert refusal(halves, lambda x: (x[:1], x[:1])) == "Twice the first."
    assert refusal(halves, lambda x: (x[:1], x[1:] + 1)).startswith("`second` of `halves([1.0, 2.0")
    halves(lambda x: (x[:1], x[1:]))


def test_a_reference_may_change_what_it_gets():
    @exercise("00")
    def ordered(answer):
        """Check ``ordered(x)``, the sorted list."""

        def right(x):
            x.sort()
            return x

        answer.compare([([3, 1, 2],)], right)
        return "in order."

    ordered(sorted)
    assert refusal(ordered, lambda x: list(x)).startswith("`ordered([3, 1, 2])` must have 1 at [0]")


@pytest.mark.parametrize("alarm", [True, False], ids=["alarm", "watcher"])
@pytest.mark.parametrize("wrong", [loops, swallows], ids=["loops", "swallows"])
def test_an_endless_loop_ends_in_a_sentence(wrong, alarm, monkeypatch):
    monkeypatch.setattr(core, "SECONDS", 0.2)
    if not alarm:
        monkeypatch.delattr(core.signal, "setitimer")
    before = signal.getsignal(signal.SIGALRM)
    message = refusal(double, wrong)
    assert "was still running after 0.2 seconds in line" in message
    assert f"of your function `{wrong.__name__}`" in message
    assert signal.getsignal(signal.SIGALRM) is before
    double(lambda x: x + x)  # nothing rings afterwards


def test_an_alarm_that_rings_while_it_is_being_stopped_changes_nothing(monkeypatch):
    stop = signal.setitimer

    def late(which, seconds, interval=0.0):
        if not seconds:
            signal.raise_signal(signal.SIGALRM)
        return stop(which, seconds, interval)

    monkeypatch.setattr(core.signal, "setitimer", late)
    double(lambda x: x + x)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_exercise_may_take_another_time():
    @exercise("00", seconds=0.2)
    def quick(answer):
        """Check that ``quick()`` ends."""
        answer()
        return "it ends."

    assert "`quick()` was still running after 0.2 seconds" in refusal(quick, lambda: loops(0))


def test_the_watcher_works_beside_the_main_thread(monkeypatch):
    monkeypatch.setattr(core, "SECONDS", 0.2)
    messages = []
    thread = threading.Thread(target=lambda: messages.append(refusal(double, loops)))
    thread.start()
    thread.join(20)
    assert "still running" in messages[0]


def test_stop_stays_stop():
    def stopped(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        double(stopped)
    assert caught.value._render_traceback_() == ["The check was interrupted."]


def test_global_generators_are_left_as_they_were():
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    def gambler(x):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
        return 2 * x

    before = state()
    double(gambler)
    refusal(double, lambda x: gambler(x) + 1)
    assert state() == before


def test_no_warning_of_the_checker_or_the_learner_is_shown(recwarn):
    double(lambda x: 2 * x + 0 * np.log(abs(x)) + 0 / (1 + 0 * np.float64(1)) + np.divide(0, x))
    refusal(double, lambda x: x / np.zeros(3))
    assert not recwarn.list


def test_a_right_answer_is_recorded_and_a_wrong_one_is_not(monkeypatch):
    recorded = []
    monkeypatch.setattr(progress, "record", lambda *what: recorded.append(what))
    refusal(double, lambda x: x)
    double(lambda x: 2 * x)
    assert recorded == [("00", "double")]


def test_printing_is_shown_only_when_the_check_fails(capsys):
    def talks(x, factor=2):
        print("shape", x.shape)
        return factor * x

    double(talks)
    assert capsys.readouterr().out == "Right: twice as much.\n"
    refusal(double, lambda x: talks(x, 3))
    assert capsys.readouterr().out == "shape (3,)\n"
    refusal(double, lambda x: print(*range(2_000)))
    assert capsys.readouterr().out.endswith(" 1998 1999\n"), "the end says more"


def test_an_answer_that_breaks_the_checker_is_still_one_sentence():
    @exercise("00")
    def first_letter(answer):
        """Check something that indexes without looking."""
        return answer("word")[0]

    message = refusal(first_letter, lambda word: 5)
    assert message.startswith("This check cannot make sense of what `first_letter` returns (TypeEr")


def test_a_callback_speaks_for_itself_and_exceptions_can_be_asked_for():
    @exercise("00")
    def refuse(answer):
        """Check ``refuse(call)``, which must raise ValueError."""
        _, error = answer.outcome(lambda n: demand(n, "The callback says no."))
        demand(isinstance(error, ValueError), f"Raise ValueError, not {type(error).__name__}.")
        return "refused."

    def raising(error):
        def refuse(call):
            raise error

        return refuse

    assert refusal(refuse, lambda call: call(0)) == "The callback says no."
    assert refusal(refuse, lambda call: 1) == "Raise ValueError, not NoneType."
    assert refusal(refuse, raising(KeyError())) == "Raise ValueError, not KeyError."
    refuse(raising(ValueError()))


@pytest.mark.parametrize(
    "value",
    [
        *(3, 3.0, np.float32(3), np.int64(3), np.array(3.0), np.array([3]), [3.0], Fraction(3)),
        *(Decimal(3), torch.tensor(3), torch.tensor([3.0], requires_grad=True)),
    ],
)
def test_numbers_are_read_alike(value):
    assert read_number(value, "f") == 3.0
    assert read_whole(value, "f") == 3


@pytest.mark.parametrize("value", ["3", True, [1, 2], {}, None, 3j, np.bool_(True), [], object()])
def test_what_is_no_number_is_refused_with_what_was_seen(value):
    with pytest.raises(CheckFailed, match=r"^`f` must be one number, and yours is .+\.$"):
        read_number(value, "f")


def test_whole_numbers_and_several_things():
    assert read_whole(10**30, "f") == 10**30
    for value in (2.5, math.nan, math.inf):
        with pytest.raises(CheckFailed, match="must be a whole number, and yours is"):
            read_whole(value, "f")
    for value in ((1, 2), [1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        assert [int(part) for part in read_several(value, "f", ("a", "b"))] == [1, 2]
    ragged = np.array([np.zeros(1), np.zeros(2)], dtype=object)
    assert [len(part) for part in read_several(ragged, "f", ("a", "b"))] == [1, 2]
    for value in (1, (1, 2, 3), "ab", {1, 2}, {"a": 1, "b": 2}):
        with pytest.raises(CheckFailed, match=r"`f` must return 2 things \(a, b\), and yours ret"):
            read_several(value, "f", ("a", "b"))
    assert read_array([[1, 2], [3, 4]], "f", (2, 2)).sum() == 10
    assert read_array([torch.tensor([1.0]), torch.tensor([2.0])], "f").shape == (2, 1)


def test_two_numbers_in_a_sentence_never_look_equal():
    assert show_pair(0.002, 0.00201) == ("0.002", "0.00201")
    assert show_pair(0.002, 0.0020000001) == ("0.002", "0.0020000001")
    assert (
        show_pair(1 / 3, np.nextafter(1 / 3, 1))[0] != show_pair(1 / 3, np.nextafter(1 / 3, 1))[1]
    )
    assert show_pair(124_439_808, 124_439_809.0) == ("124439808", "124439809")
    assert show_pair(2 / 3, 0.667) == ("0.6667", "0.667"), "no more digits than it takes"
    assert [len(reading.cut("x" * n, 80)) for n in (79, 80, 81)] == [79, 80, 80]
    assert show_pair("3", 3) == ("'3'", "3")
    assert show_pair(16_200, 16_201.0) == ("16200", "16201")
    assert show_pair(True, False) == ("True", "False")
    want, have = show_pair([1] * 50, [1] * 51)
    assert want != have


def test_alike_and_difference():
    assert alike([1.0, [2.0]], (1.0, (2.0,)))
    assert alike({"a": 1}, {"a": 1.0})
    assert alike(["ab", "c"], ("ab", "c"))
    assert not alike("1", 1)
    assert not alike(1, "1")
    assert not alike([1, 2], [1, 2, 3])
    assert alike(np.float16(0.3333), 1 / 3)
    assert not alike(0.3333, 1 / 3)
    assert alike(0.3333, 1 / 3, rtol=1e-3)
    assert alike(np.float32(0.1), 0.1) and not alike(0.1 * (1 + 1e-4), 0.1)
    assert not alike([1.0, 1e-3], [1.0, 2e-3])
    assert not alike(np.ones((2, 3)), np.ones(3)) and not alike([], [[]])
    assert alike(np.array([1e-17, 0.0]), np.zeros(2))
    assert not alike(np.array([1e-9, 0.0]), np.zeros(2))
    assert alike([math.inf, math.nan], np.array([math.inf, math.nan]))
    assert not alike([math.inf], [-math.inf])
    assert difference(list("abcd"), list("abxd")) == "must have 'x' at place 2, and has 'c'"
    assert difference(["a"], ["a", "b"]) == "must be ['a', 'b'], and is ['a']"
    assert difference({"a": 1}, {"a": 1, "b": 2}) == "lacks the key 'b'"
    assert difference({"a": 1, "c": 0}, {"a": 1}) == "must not have the key 'c'"
    assert difference({"a": 1}, {"a": 2}) == "must have 2 for 'a', and has 1"
    assert difference({1}, {2}) == "must be {2}, and is {1}"


HINTS = {"double": ("Think of `x`.", "Add.", "x + x, nearly.")}


def test_hints_answer_in_sentences_whatever_is_asked(capsys):
    asked = [("double", 3), ("double", 0), ("double", "x"), ("dubble", 1), ("double", None)]
    for name, level in asked:
        show_hint(HINTS, name, level)
    show_hints(HINTS, "double")  # nothing on paper
    show_hints(HINTS, "dubble")
    assert capsys.readouterr().out.splitlines() == [
        "Hint 3 of 3: x + x, nearly.",
        "Hints have levels 1, 2 and 3, not 0.",
        "Hints have levels 1, 2 and 3, not 'x'.",
        "There is no exercise 'dubble' here; choose from double.",
        "Hints have levels 1, 2 and 3, not None.",
        "There is no exercise 'dubble' here; choose from double.",
    ]


@pytest.mark.slow
def test_in_a_kernel_only_the_sentence_is_shown(tmp_path):
    """Whatever the traceback mode, Jupyter shows none of the checker's own code."""
    answers = {
        "return x / zwei": "line 2 of your function `double` (`return x / zwei`): NameError: name",
        "return [zwei for _ in x]": "line 2 of your function `double` (`return [zwei for _ in x]`)",
        "return x": "Not yet: `double([1.0, 2.0])` must have 2 at [0], and has 1",
        "return double(x)": "calls itself again and again in line 2",
        "raise KeyboardInterrupt": "The check was interrupted.",
    }
    checker = '''
        import numpy as np
        from aigc_utils.checks import exercise

        @exercise("00")
        def double(answer):
            """Check ``double(x)``."""
            answer.compare([(np.array([1.0, 2.0]),)], right=lambda x: 2 * x)
            return "twice as much."
    '''
    (tmp_path / "checker.py").write_text(textwrap.dedent(checker))
    cells = [f"%xmode Verbose\nimport sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport checker"]
    for body in answers:
        cells += [f"def double(x):\n    {body}", "checker.double(double)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, allow_errors=True, timeout=120).execute()
    for cell, sentence in zip(notebook.cells[2::2], answers.values(), strict=True):
        (output,) = cell.outputs
        assert output.output_type == "error"
        assert len(output.traceback) == 1
        assert sentence in output.traceback[0]
        assert "checker" not in output.traceback[0]


@pytest.mark.slow
def test_buttons_reveal_one_hint_after_the_other():
    code = textwrap.dedent("""
        import os, sys
        os.environ.pop("AIGC_STATIC", None)
        import ipykernel, ipywidgets
        from IPython.display import display
        import IPython.display
        shown = []
        IPython.display.display = shown.append
        from aigc_utils.checks import show_hints
        show_hints({"f": ("use `a<b`", "two", "three")}, "f")
        texts, button = shown[0].children
        seen = [button.description]
        for _ in range(3):
            button.click()
            seen.append((len(texts.children), button.description, button.disabled))
        print(seen, texts.children[0].value)
        os.environ["NBGRADER_EXECUTION"] = "autograde"
        show_hints({"f": ("one", "two", "three")}, "f")
        print(len(shown))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['Hint 1 of 3', (1, 'Hint 2 of 3', False), (2, 'Hint 3 of 3', False), "
        "(3, 'Hint 3 of 3', True)] <b>Hint 1 of 3</b> use <code>a&lt;b</code>",
        "1",
    ]
