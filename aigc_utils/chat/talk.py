"""Two ways to talk to a ``Chat``: a panel in the notebook, a loop in the terminal (lesson 13)."""

import argparse
import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from aigc_utils import session
from aigc_utils.chat.conversation import Chat
from aigc_utils.chat.providers import ChatError, Provider
from aigc_utils.chat.text import CUT

SCRIPT = ("What is the capital of France?", "And of Italy?")
"""What the panel asks where nobody watches."""


if TYPE_CHECKING:
    import ipywidgets as widgets


def panel(bot: Chat | None = None, *, script: Sequence[str] = SCRIPT) -> "widgets.VBox | None":
    """Return a chat panel for the notebook; where nobody watches, print a scripted conversation.

    What the model writes is shown in a text area: as text, whatever it looks like.
    """
    bot = bot or Chat()
    if not session.is_interactive():
        if bot.system:
            print(f"System: {bot.system}")
        for question in script:
            print(f"You: {question}")
            try:
                print(f"Model: {bot.ask(question)}")
            except ChatError as error:
                print(f"({error})")
        return None
    return _live_panel(bot)


def _live_panel(bot: Chat) -> "widgets.VBox":
    import ipywidgets as widgets

    wide = widgets.Layout(width="auto")
    talk = widgets.Textarea(
        disabled=True, layout=widgets.Layout(width="auto", margin="0 0 auto", flex="0 0 auto")
    )
    # Turned upside down, a box stays at its end when what it holds grows.
    window = widgets.VBox(
        [talk],
        layout=widgets.Layout(
            height="320px", overflow="auto", flex_flow="column-reverse", border="1px solid #ccc"
        ),
    )
    question = widgets.Text(placeholder="Your message; Enter sends it", layout=wide)
    send, stop, undo, reset = (
        widgets.Button(description=name) for name in ("Send", "Stop", "Undo", "Reset")
    )
    temperature = widgets.FloatSlider(
        bot.temperature or 0,
        min=0,
        max=2,
        step=0.1,
        description="temperature",
        style={"description_width": "initial"},
    )
    system = widgets.Textarea(bot.system or "", description="system", rows=2, layout=wide)
    lines: list[str] = []
    stopping = threading.Event()

    def show() -> None:
        talk.value = "\n".join(lines)
        talk.rows = 1 + sum(1 + len(line) // 90 for line in talk.value.split("\n"))

    def say(sentence: str) -> None:
        lines.append(sentence)
        show()

    def retell() -> None:
        names = {"user": "You", "assistant": "Model"}
        turns = [m for m in bot.messages if m["role"] in names]
        lines[:] = [f"{names[m['role']]}: {m['content']}" for m in turns]
        show()

    def busy(is_busy: bool) -> None:
        for control in (question, send, undo, reset, temperature, system):
            control.disabled = is_busy
        stop.disabled = not is_busy

    def answer(text: str) -> None:
        try:
            bot.temperature, bot.system = temperature.value, system.value.strip() or None
            begun, shown = False, 0.0
            with contextlib.closing(bot.stream(text)) as pieces:
                for piece in pieces:
                    if not begun:  # before the first piece the chat may say something itself
                        lines.append("Model: ")
                        begun = True
                    lines[-1] += piece
                    if time.monotonic() - shown > 0.1:
                        show()
                        shown = time.monotonic()
                    if stopping.is_set():
                        lines[-1] += CUT
                        break
            show()
        except (ChatError, ValueError) as error:
            say(f"({error})")
        finally:
            busy(False)

    def ask(_: object) -> None:
        text = question.value
        if not text.strip():
            return
        stopping.clear()
        busy(True)
        question.value = ""
        say(f"You: {text}")
        # In a thread, so that the kernel hears the Stop button.
        threading.Thread(target=answer, args=(text,), daemon=True).start()

    def change(act: Callable[[], None]) -> Callable[[object], None]:
        def on_click(_: object) -> None:
            try:
                act()
                retell()
            except ChatError as error:
                say(f"({error})")

        return on_click

    bot.notify = say
    send.on_click(ask)
    stop.on_click(lambda _: stopping.set())
    undo.on_click(change(bot.undo))
    reset.on_click(change(bot.reset))
    with warnings.catch_warnings():  # the way it advises sends when the pointer leaves, too
        warnings.simplefilter("ignore")
        question.on_submit(ask)
    busy(False)
    retell()
    return widgets.VBox(
        [window, question, widgets.HBox([send, stop, undo, reset, temperature]), system]
    )


COMMANDS = "exit ends, /undo takes the last turn back, /reset begins again, /save FILE keeps it"


def main(arguments: list[str] | None = None) -> int:
    """Talk in the terminal until ``exit``; return 1 when there is nobody to talk to."""
    parser = argparse.ArgumentParser(prog="python -m aigc_utils.chat", description="Chat.")
    parser.add_argument("--provider", default="local", help="local, gpt2 or openai")
    parser.add_argument("--base-url", help="the address of another provider, with --model")
    parser.add_argument("--key-name", help="the environment variable with that provider's key")
    parser.add_argument("--model", help="another model of the provider")
    parser.add_argument("--system", help="the system message")
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args(arguments)
    provider = options.provider
    if options.base_url and not options.model:
        parser.error(
            "--base-url needs --model: only that provider knows what its models are called"
        )
    if options.base_url:
        provider = Provider(options.base_url, options.model or "", options.key_name)
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):  # never stop at a character the terminal cannot show
            stream.reconfigure(errors="replace")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (arrow keys in input)
    try:
        bot = Chat(
            provider, model=options.model, system=options.system, temperature=options.temperature
        )
    except (ChatError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"You talk to {bot.model}. {COMMANDS}.")
    while True:
        try:
            line = input("You: ").strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print("\n(exit ends the chat.)")
            continue
        if line.lower() == "exit":
            return 0
        try:
            _obey(bot, line)
        except (ChatError, ValueError) as error:
            print(f"({error})")
        except KeyboardInterrupt:
            print(f"{CUT}\n(Stopped: what came is kept.)")


def _obey(bot: Chat, line: str) -> None:
    command, _, rest = line.partition(" ")
    if command == "/undo":
        bot.undo()
        print("(The last turn is taken back.)")
    elif command == "/reset":
        bot.reset()
        print("(The conversation is empty.)")
    elif command == "/save":
        bot.save(rest.strip() or "chat.json")
        print("(Saved.)")
    elif command.startswith("/"):
        print(f"({COMMANDS}.)")
    elif line:
        print("Model: ", end="", flush=True)
        bot.ask(line, show=True)
