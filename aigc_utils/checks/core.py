"""What every checker stands on: it calls the learner's function and answers for all that happens.

A checker judges one ``Answer`` under ``@exercise("01")``: it calls the answer, raises
``CheckFailed`` with one true sentence when something is wrong, and returns its praise. It *raises*
because nbgrader gives full marks to a test cell that ends without an error.
"""

import contextlib
import ctypes
import functools
import inspect
import io
import linecache
import random
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from aigc_utils import progress
from aigc_utils.checks.reading import (
    CheckFailed,
    alike,
    copied,
    cut,
    demand,
    difference,
    read_like,
    same,
    seen,
    short,
)

SECONDS = 5.0  # how long one call of a learner's function may take

# Usual mistakes: a function of the same inputs that makes the mistake, and the sentence it earns.
Slips = Sequence[tuple[Callable[..., Any], str]]
# One case: the inputs, what came and what is right.
Found = tuple[Sequence[Any], Any, Any]


class CheckStopped(KeyboardInterrupt):
    """The learner pressed stop during a check: the cell ends, without the checker's own code."""

    def _render_traceback_(self) -> list[str]:
        return ["The check was interrupted."]


class TimeUp(BaseException):
    """Ends a learner's function; no Exception, so that their ``except Exception`` lets it pass."""


def exercise(
    lesson: str, seconds: float | None = None
) -> Callable[[Callable[["Answer"], str]], Callable[[object], None]]:
    """Make a checker of a function that judges an ``Answer`` and returns its praise.

    The exercise has the function's name, and each call of the answer may take ``seconds``. Global
    random generators (``random``, NumPy, torch) are afterwards as they were; Keras offers no way
    to read its own. A right answer is recorded as progress in ``lesson``.
    """

    def decorate(check: Callable[[Answer], str]) -> Callable[[object], None]:
        name = check.__name__

        @functools.wraps(check)
        def checker(function: object) -> None:
            failure: BaseException
            answer = None
            try:
                answer = Answer(function, name, seconds)
                with _randomness_kept(), warnings.catch_warnings(action="ignore"):
                    praise = check(answer)
                print(f"Right: {praise}")
                return progress.record(lesson, name)
            except CheckFailed as refusal:
                failure = refusal
            except KeyboardInterrupt:
                failure = CheckStopped()
            except Exception as error:  # an answer so odd that the checker itself stumbles
                failure = CheckFailed(
                    f"This check cannot make sense of what `{name}` returns ({_message(error)}): "
                    "compare its type and its shape with the statement."
                )
            if answer is not None:
                print(answer.printed[-2_000:], end="")
            # Raised here, outside: nothing of the checker is in its traceback.
            raise failure.with_traceback(None) from None

        return checker

    return decorate


class Answer:
    """The learner's function, called with copies, within a time limit, its errors explained."""

    def __init__(self, function: Any, name: str, seconds: float | None = None):
        demand(
            callable(function),
            f"Hand the function itself to the check, `{name}` without brackets; what came is "
            f"{seen(function)}.",
        )
        self.function, self.name, self.seconds = function, name, seconds
        self.printed = ""  # by the last call; shown when the check fails
        self._gave = False

    def __call__(self, *args: Any) -> Any:
        """Return what the function gives for copies of ``args``; refuse errors and ``None``."""
        value, error = self.outcome(*args)
        return self.handed_back(value, error, *args)

    def handed_back(self, value: Any, error: BaseException | None, *args: Any) -> Any:
        """Return the value of an ``outcome``; refuse errors and ``None``."""
        if error is not None:
            raise CheckFailed(self.stopped(error, *args))
        if value is None or value is ...:
            if self._gave:
                sentence = f"{self.case(*args)} gives nothing back, although other inputs do."
            elif self.printed:
                sentence = f"`{self.name}` prints something and gives nothing back: use `return`."
            else:
                sentence = (
                    f"`{self.name}` gives nothing back yet: write its body and run the cell again."
                )
            raise CheckFailed(sentence)
        self._gave = True
        return value

    def outcome(self, *args: Any) -> tuple[Any, BaseException | None]:
        """Return (value, None), or (None, error) where an exercise asks for an exception.

        Arrays, tensors, lists, tuples, dicts and sets are handed over as copies, which must come
        back unchanged; models, generators and other objects are handed over as they are.
        """
        names = self.names_of_inputs(args)
        copies = [copied(value) for value in args]
        value, error = self.during(lambda: self.function(*copies), *args)
        if inspect.iscoroutine(value):
            value.close()  # or Python warns, with the checker's own lines
            raise CheckFailed(f"`{self.name}` is an `async def`: write a plain `def`.")
        for name, given, kept in zip(names, copies, args, strict=True):
            demand(
                same(given, kept),
                f"`{self.name}` changes its input `{name}`: work on a copy, or build a new one.",
            )
        return value, error

    def during(self, work: Callable[[], Any], *args: Any) -> tuple[Any, BaseException | None]:
        """Run ``work``, which calls the function in a way of its own; ``args`` name the case."""
        output = io.StringIO()
        limit = self.seconds or SECONDS
        try:
            with (
                contextlib.redirect_stdout(output),
                _time_limit(limit),
            ):
                return work(), None
        except (KeyboardInterrupt, CheckFailed):  # the learner's stop; a callback's own sentence
            raise
        except TimeUp as error:
            raise CheckFailed(
                f"{self.case(*args)} was still running after {limit:g} "
                f"seconds{self._place(error)}: is there a loop without an end?"
            ) from None
        except RecursionError as error:
            codes = Counter(id(f.f_code) for f, _ in traceback.walk_tb(error.__traceback__))
            if max(codes.values()) < 20:  # something else went too deep, such as a parser
                return None, error
            raise CheckFailed(
                f"{self.case(*args)} calls itself again and again{self._place(error)}: when does "
                "it stop?"
            ) from None
        except BaseException as error:
            return None, error
        finally:
            self.printed = output.getvalue()

    def compare(
        self, cases: Iterable[Sequence[Any]], right: Callable[..., Any], slips: Slips = ()
    ) -> None:
        """Demand for the inputs of each case what ``right`` gives; recognise a slip by its values.

        The form of the right value decides how the answer is read: a number, or an array of that
        shape; everything else (text, lists, tuples, dicts, sets) is compared as it comes.
        """
        found: list[Found] = []
        printed = None  # in the first case that is wrong
        for args in cases:
            expected = right(*map(copied, args))
            try:
                got = read_like(self(*args), expected, self.name)
            except CheckFailed:
                if printed is not None:  # an earlier case is wrong already, and says more
                    break
                raise
            found.append((args, got, expected))
            if printed is None and not alike(got, expected):
                printed = self.printed
        self.printed = printed or ""
        self.judge(found, slips)

    def demand_value(
        self,
        got: Any,
        expected: Any,
        args: Sequence[Any] = (),
        slips: Slips = (),
        part: str = "",
    ) -> None:
        """Demand one value, read in the form of ``expected``; ``part`` names one of several."""
        self.judge([(args, read_like(got, expected, part or self.name), expected)], slips, part)

    def judge(self, found: Sequence[Found], slips: Slips = (), part: str = "") -> None:
        """Demand that every (inputs, got, expected) agrees.

        A slip is named when it explains what came in *all* cases; otherwise the sentence says where
        the first difference stands, and in which case.
        """
        wrong = [(args, got, expected) for args, got, expected in found if not alike(got, expected)]
        if not wrong:
            return
        for slip, sentence in slips:
            # A slip may not fit the shapes of a case; then it is not what happened.
            with contextlib.suppress(ArithmeticError, LookupError, RuntimeError, ValueError):
                with np.errstate(all="ignore"):
                    explains = all(alike(got, slip(*map(copied, args))) for args, got, _ in found)
                demand(not explains, sentence)
        args, got, expected = wrong[0]
        of = f"`{part}` of " if part else ""
        raise CheckFailed(f"{of}{self.case(*args)} {difference(got, expected)}.")

    def case(self, *args: Any) -> str:
        """Return the call as text, such as ``softmax([0, 1], 4.0)`` in code marks."""
        return f"`{self.name}({', '.join(map(short, args))})`"

    def stopped(self, error: BaseException, *args: Any) -> str:
        """Return the sentence on an exception of the learner's: on which line, and which one."""
        return f"{self.case(*args)} stops{self._place(error)}: {_message(error)}."

    def _place(self, error: BaseException) -> str:
        space = getattr(inspect.unwrap(self.function), "__globals__", None)
        frames = [
            (frame.f_code, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals is space or frame.f_globals.get("__name__") == "__main__"
        ]
        # Comprehensions and lambdas have no line numbers that a reader would count.
        frames = [f for f in frames if not f[0].co_name.startswith("<")] or frames
        if not frames:
            return ""
        code, line = frames[-1]
        own = "" if code.co_name.startswith("<") else f" `{code.co_name}`"
        source = linecache.getline(code.co_filename, line).strip()
        quoted = f" (`{cut(source, 70)}`)" if source else ""
        return f" in line {line - code.co_firstlineno + 1} of your function{own}{quoted}"

    def names_of_inputs(self, args: Sequence[Any]) -> list[str]:
        """Return the learner's own names of the inputs; refuse a signature that is another."""
        names: list[str] = []
        with contextlib.suppress(ValueError):  # some functions in C have no signature to read
            signature = inspect.signature(self.function)
            try:
                signature.bind(*args)
            except TypeError as error:
                raise CheckFailed(
                    f"The check calls {self.case(*args)}, and your `{self.name}{signature}` does "
                    f"not take that: {error}."
                ) from None
            names = [n for n, p in signature.parameters.items() if p.kind < p.VAR_POSITIONAL]
        return [*names, *(f"number {i + 1}" for i in range(len(names), len(args)))][: len(args)]


def _message(error: BaseException) -> str:
    text = cut(str(error), 160).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def _randomness_kept() -> Iterator[None]:
    states: list[tuple[Callable[[Any], Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),  # noqa: NPY002  (the one learners share)
    ]
    if torch := sys.modules.get("torch"):
        states.append((torch.set_rng_state, torch.get_rng_state()))
    try:
        yield
    finally:
        for restore, state in states:
            restore(state)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in this thread when the block takes longer.

    By an alarm signal where there is one (it also ends a sleep); on Windows and beside the main
    thread by a watcher that raises between two lines of Python. Neither ends one long call into C;
    both ring again every second, in case a bare ``except:`` has swallowed the first.
    """
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        over = False

        def ring(*_: object) -> None:
            if not over:  # one that rings while the clock is being stopped would never be stopped
                raise TimeUp

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        try:
            try:
                yield
            finally:
                over = True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return

    done, thread = threading.Event(), ctypes.c_ulong(threading.get_ident())
    throw = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):
            throw(thread, ctypes.py_object(TimeUp))
            wait = 1.0

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        throw(thread, None)  # one that has rung and was not raised yet
