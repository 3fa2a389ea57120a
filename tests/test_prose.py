"""The checker of quoted numbers finds claims, leaves definitions alone and catches changes."""

import nbformat
import prose
import pytest


def texts(markdown: str) -> list[str]:
    return [claim.text for claim in prose.find_claims(markdown)]


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        ("The loss falls to 1.84 in 12 s.", ["1.84", "12 s"]),
        ("It is 97 % right, or 97%.", ["97 %", "97 %"]),
        ("There are 685,000 of them.", ["685,000"]),
        ("A slope of −0.5 and a 64-token window.", ["−0.5", "64 token"]),
        ("Two words, 3 rows, lesson 01, section 2 and 2017.", []),
        ("Set `0.1`, see $x = 0.5$ and [a page](https://a.b/1.5).", []),
        ("GPT-3.5 and Python-3.11 are names; 3.2.1 is a version.", []),
        ("**Measured** 12 s · 0.3 GB on 2 cores. **Your time** about 60 minutes.", []),
        ("Published: 1.88. <!-- constants: 1.88 -->", []),
        ("Published: 1.88 and 20 %. <!-- constants: 1.88, 20 % --> But 1.87!", ["1.87"]),
    ],
)
def test_claims(markdown: str, expected: list[str]) -> None:
    assert texts(markdown) == expected


def notebook(*cells: tuple[str, str]) -> nbformat.NotebookNode:
    made = []
    for source, output in cells:
        if output:
            cell = nbformat.v4.new_code_cell(source)
            cell.outputs = [nbformat.v4.new_output("stream", text=output)]
            made.append(cell)
        else:
            made.append(nbformat.v4.new_markdown_cell(source))
    return nbformat.v4.new_notebook(cells=made)


@pytest.mark.parametrize(
    ("claim", "output"),
    [
        ("1.84", "loss 1.8371"),
        ("84 %", "accuracy 0.8423"),
        ("84 %", "accuracy 84.2 %"),
        ("685,000", "685000 characters"),
        ("−1.386", "-1.38629"),
        ("0.0001", "error 1.2e-04"),
    ],
)
def test_a_claim_that_an_output_rounds_to_is_supported(claim: str, output: str) -> None:
    assert (
        prose.unsupported(notebook(("## A", ""), ("code", output), (f"It is {claim}.", ""))) == []
    )


def test_a_changed_claim_fails() -> None:
    changed = notebook(("## A", ""), ("code", "loss 1.8371"), ("It is 1.85.", ""))
    assert [claim.text for claim in prose.unsupported(changed)] == ["1.85"]


def test_a_claim_may_not_lean_on_a_later_section_except_in_the_title() -> None:
    later = [("## A", ""), ("It is 1.84.", ""), ("## B", ""), ("code", "1.84")]
    assert [claim.cell for claim in prose.unsupported(notebook(*later))] == [1]
    assert prose.unsupported(notebook(("# Title with 1.84", ""), *later[2:])) == []
