"""A panel to talk to a ``Chat`` in the notebook (lesson 13)."""

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aigc_utils import session
from aigc_utils.chat.conversation import Chat
from aigc_utils.chat.providers import ChatError
from aigc_utils.chat.text import CUT

if TYPE_CHECKING:
    import ipywidgets as widgets

SCRIPT = ("What is the capital of France?", "And of Italy?")
"""What the panel asks where nobody watches."""

_LINE = 90  # characters in a line of the text area, about
_SECONDS = 0.1  # between two drawings of an answer that is coming
_SPEAKERS = {"user": "You", "assistant": "Model"}


def panel(bot: Chat | None = None, *, script: Sequence[str] = SCRIPT) -> "widgets.VBox | None":
    """Return a chat panel for the notebook; where nobody watches, print a scripted conversation.

    What the model writes is shown in a text area: as text, whatever it looks like.
    """
    bot = bot or Chat()
    if session.is_interactive():
        return _Panel(bot).box
    if bot.system:
        print(f"System: {bot.system}")
    for question in script:
        print(f"You: {question}")
        try:
            print(f"Model: {bot.ask(question)}")
        except ChatError as error:
            print(f"({error})")
    return None


class _Panel:
    """The widgets of a panel, and what happens at a press of each."""

    def __init__(self, bot: Chat) -> None:
        self.bot = bot
        self.lines: list[str] = []
        self.stopping = threading.Event()
        self._build()
        self._connect()
        self._busy(False)
        self._retell()

    def _build(self) -> None:
        import ipywidgets as widgets

        def layout(**settings: Any) -> widgets.Layout:
            return widgets.Layout(width="auto", **settings)

        self.talk = widgets.Textarea(
            disabled=True, layout=layout(margin="0 0 auto", flex="0 0 auto")
        )
        # Turned upside down, a box stays at its end when what it holds grows.
        window = widgets.VBox(
            [self.talk],
            layout=layout(
                height="320px", overflow="auto", flex_flow="column-reverse", border="1px solid #ccc"
            ),
        )
        self.question = widgets.Text(placeholder="Your message; Enter sends it", layout=layout())
        self.send, self.stop, self.undo, self.reset = (
            widgets.Button(description=name) for name in ("Send", "Stop", "Undo", "Reset")
        )
        self.temperature = widgets.FloatSlider(
            self.bot.temperature or 0,
            min=0,
            max=2,
            step=0.1,
            description="temperature"
            if self.bot.temperature is not None
            else "temperature (unset)",
            style={"description_width": "initial"},
        )
        self.system = widgets.Textarea(
            self.bot.system or "", description="system", rows=2, layout=layout()
        )
        buttons = widgets.HBox([self.send, self.stop, self.undo, self.reset, self.temperature])
        self.box = widgets.VBox([window, self.question, buttons, self.system])

    def _connect(self) -> None:
        self.bot.notify = self._say
        self.send.on_click(self._ask)
        self.stop.on_click(lambda _: self.stopping.set())
        self.undo.on_click(lambda _: self._change(self.bot.undo))
        self.reset.on_click(lambda _: self._change(self.bot.reset))
        # Only what is moved is set: a temperature that the chat leaves to the provider stays so.
        self.temperature.observe(self._set_temperature, "value")
        self.system.observe(self._set_system, "value")
        with warnings.catch_warnings():  # the way it advises sends when the pointer leaves, too
            warnings.simplefilter("ignore")
            self.question.on_submit(self._ask)

    def _set_temperature(self, change: Any) -> None:
        self.bot.temperature = change.new
        self.temperature.description = "temperature"

    def _set_system(self, change: Any) -> None:
        self.bot.system = change.new.strip() or None

    def _show(self) -> None:
        self.talk.value = "\n".join(self.lines)
        self.talk.rows = 1 + sum(1 + len(line) // _LINE for line in self.talk.value.split("\n"))

    def _say(self, sentence: str) -> None:
        self.lines.append(sentence)
        self._show()

    def _retell(self) -> None:
        turns = [m for m in self.bot.messages if m["role"] in _SPEAKERS]
        self.lines[:] = [f"{_SPEAKERS[m['role']]}: {m['content']}" for m in turns]
        self._show()

    def _busy(self, is_busy: bool) -> None:
        for control in (
            self.question,
            self.send,
            self.undo,
            self.reset,
            self.temperature,
            self.system,
        ):
            control.disabled = is_busy
        self.stop.disabled = not is_busy

    def _change(self, act: Callable[[], None]) -> None:
        try:
            act()
            self._retell()
        except ChatError as error:
            self._say(f"({error})")

    def _ask(self, _: object) -> None:
        text = self.question.value
        if not text.strip():
            return
        self.stopping.clear()
        self._busy(True)
        self.question.value = ""
        self._say(f"You: {text}")
        # In a thread, so that the kernel hears the Stop button.
        threading.Thread(target=self._answer, args=(text,), daemon=True).start()

    def _answer(self, text: str) -> None:
        try:
            with contextlib.closing(self.bot.stream(text)) as pieces:
                self._write(pieces)
        except (ChatError, ValueError) as error:
            self._say(f"({error})")
        finally:
            self._busy(False)

    def _write(self, pieces: Any) -> None:
        """Show an answer while it comes, until it ends or Stop is pressed."""
        begun, shown = False, 0.0
        for piece in pieces:
            if not begun:  # before the first piece the chat may say something itself
                self.lines.append("Model: ")
                begun = True
            self.lines[-1] += piece
            if time.monotonic() - shown > _SECONDS:
                self._show()
                shown = time.monotonic()
            if self.stopping.is_set():
                self.lines[-1] += CUT
                break
        self._show()
