"""The list of planted faults fits the package as it stands (`make mutants` plants them)."""

import ast
from collections import Counter
from pathlib import Path

import mutants
import pytest

ROOT = Path(__file__).parent.parent
FAULTS = mutants.faults()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.module}: {fault.what}")
def test_a_fault_can_be_planted(fault):
    source = (ROOT / fault.path).read_text(encoding="utf-8")
    planted = fault.planted(source)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(source)), "a fault changes the code"
    assert all((ROOT / test).is_file() for test in fault.tests)


def test_every_fault_is_told_apart():
    assert max(Counter((fault.module, fault.what) for fault in FAULTS).values()) == 1


def test_a_text_that_no_longer_stands_there_is_named():
    fault = mutants.Fault("attention", "nothing", "no such line", "", ("tests/test_attention.py",))
    with pytest.raises(ValueError, match=r"attention: nothing: .* occurs 0 times"):
        fault.planted("def softmax(): ...")
