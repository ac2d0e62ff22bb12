"""Failures of the child process become one reason, and never end this process."""

import pytest

from amem_cli.artifacts import child
from amem_cli.artifacts.child import call_in_child


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import os; os.abort()", "crashed .signal 6.: the file is damaged"),
        ("import time; time.sleep(60)", "not read within 1 s: the file is damaged"),
        ("raise SystemExit('some reason')", "^some reason$"),
        ("raise SystemExit(3)", "exit code 3"),
        ("raise OSError('two\\nlines')", "^OSError: two lines$"),
        ("bytearray(1 << 29)", "MemoryError"),
    ],
)
def test_call_in_child_fails(program, why, monkeypatch):
    monkeypatch.setattr(child, "SECONDS", 0.6 if "sleep" in program else 60)
    monkeypatch.setattr(child, "MEMORY", 1 << 29)
    with pytest.raises(ValueError, match=why):
        call_in_child("builtins:exec", program, size=0)


def test_call_in_child_output():
    copy = "import sys; sys.stdout.write(sys.stdin.read().upper())"
    assert call_in_child("builtins:exec", copy, size=3, content=b"abc") == b"ABC"
