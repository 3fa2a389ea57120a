"""Talk in the terminal: ``python -m aigc_utils.chat`` (lesson 13).

What comes from a file or a pipe is one message, whatever it holds; the answer alone goes to
standard output, and the exit code is 1 when there is none or only a part of it.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aigc_utils.chat.conversation import Chat
from aigc_utils.chat.providers import TIMEOUT, ChatError, Provider
from aigc_utils.chat.text import CUT

COMMANDS = {
    "/help": "lists these commands",
    "/undo": "takes the last message and its answer back",
    "/reset": "begins a new conversation",
    "/save FILE": "keeps the conversation (chat.json when no file is named)",
    "/load FILE": "goes on with a conversation that was kept",
    "/exit": "ends; so do exit, quit and Ctrl-D",
    "//…": "sends a line that begins with one slash",
}
KEYS = "Enter sends; Alt-Enter begins a new line; what is pasted is one message; Ctrl-C stops."
EPILOG = (
    "What comes from a file or a pipe is sent as one message, its lines and slashes included; only "
    "the answer goes to standard output, and the exit code is 1 when there is none or only a part."
)

_INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended


def main(arguments: list[str] | None = None) -> int:
    """Talk until the learner ends it, or answer what is piped in; return the exit code."""
    options = _options(arguments)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # never stop at a character the terminal cannot show
            stream.reconfigure(errors="replace")
    provider = options.provider
    if options.base_url:
        provider = Provider(options.base_url, options.model, options.key_name)
    elif provider in ("local", "gpt2"):
        print("Starting the model …", file=sys.stderr, flush=True)
    try:
        bot = Chat(
            provider,
            model=options.model,
            system=options.system,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            timeout=options.timeout,
            notify=functools.partial(print, file=sys.stderr),
        )
        return _talk(bot) if sys.stdin.isatty() else _ask(bot, sys.stdin.read().strip("\n"))
    except (ChatError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # who read the answer has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aigc_utils.chat", description="Talk to a language model.", epilog=EPILOG
    )
    parser.add_argument("--provider", default="local", help="local (default), gpt2 or openai")
    parser.add_argument("--base-url", help="the address of another provider, with --model")
    parser.add_argument("--key-name", help="the environment variable with that provider's key")
    parser.add_argument("--model", help="another model of the provider")
    parser.add_argument("--system", help="the system message")
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        help="from 0 (default) to 2; none leaves it to the provider",
    )
    parser.add_argument("--max-tokens", type=int, default=256, help="the longest answer (256)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        help=f"seconds of silence after which a request is given up ({TIMEOUT:g})",
    )
    options = parser.parse_args(arguments)
    if options.base_url and not options.model:
        parser.error(
            "--base-url needs --model: only that provider knows what its models are called"
        )
    if options.key_name and not options.base_url:
        parser.error("--key-name belongs to --base-url")
    return options


def _temperature(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("a number from 0 to 2, or none") from None


def _ask(bot: Chat, text: str, opening: str = "") -> int:
    """Send a message and print the answer as it comes; what is left unfinished is marked."""
    print(opening, end="", flush=True)
    before = bot.messages
    try:
        bot.ask(text, show=True)
    except BaseException:
        if bot.messages is not before:
            print(CUT)
        elif opening:
            print()
        raise
    return 0


# --- a person at a terminal ----------------------------------------------------------------------


def _talk(bot: Chat) -> int:
    read = _message_reader()
    print(f"You talk to {bot.model}. {KEYS} /help lists the commands.")
    while True:
        try:
            text = read("You: ")
        except EOFError:
            return 0
        except KeyboardInterrupt:
            print("(/exit ends the chat.)")
            continue
        if text.strip().lower() in ("exit", "quit", "/exit", "/quit"):
            return 0
        try:
            _obey(bot, text.rstrip())
        except (ChatError, ValueError) as error:
            print(f"({error})")
        except KeyboardInterrupt:
            print("(Stopped: what came is kept.)")


def _message_reader() -> Callable[[str], str]:
    """Return what reads a message: with a history, and a paste of many lines as one."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(key_bindings=keys).prompt


def _obey(bot: Chat, text: str) -> None:
    command, _, rest = text.strip().partition(" ")
    if not command:
        return
    if "\n" in text or not command.startswith("/"):  # a paste is never a command
        _ask(bot, text, "Model: ")
    elif command.startswith("//"):
        _ask(bot, text.strip()[1:], "Model: ")
    elif command == "/undo":
        bot.undo()
        print("(The last turn is taken back.)")
    elif command == "/reset":
        bot.reset()
        print("(The conversation is empty.)")
    elif command == "/save":
        _save(bot, Path(rest.strip() or "chat.json").expanduser())
    elif command == "/load":
        _load(bot, rest.strip())
    else:
        if command != "/help":
            print(f"(There is no command {command}; // sends a line that begins with a slash.)")
        for name, what in COMMANDS.items():
            print(f"  {name:<11} {what}")


def _save(bot: Chat, path: Path) -> None:
    if path.exists() and not _agreed(f"{path.name} exists: overwrite it?"):
        print("(Not saved.)")
        return
    bot.save(path)
    print(f"(Saved in {path.name}.)")


def _load(bot: Chat, name: str) -> None:
    if not name:
        raise ChatError("Name the file that holds the conversation: /load FILE.")
    if _turns(bot) and not _agreed("This conversation will be replaced: go on?"):
        print("(Nothing has changed.)")
        return
    bot.resume(Path(name).expanduser())
    print(f"(Loaded: {_turns(bot)} turns.)")


def _turns(bot: Chat) -> int:
    return sum(message["role"] == "user" for message in bot.messages)


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


if __name__ == "__main__":
    sys.exit(main())
