"""Commands in their own processes: one line for what a user can mend, a traceback for what only we can."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tenfold_shared.commands import InputError, print_result, require_extra, unknown_name

PROGRAM = """
import sys
from tenfold_shared.commands import InputError, require_extra, run_command, unknown_name
def main():
{body}
run_command(main)
"""


def run(tmp_path, body, **environment):
    (tmp_path / "prog.py").write_text(PROGRAM.format(body="\n".join("    " + x for x in body.splitlines())))
    environment = {**os.environ, "TENFOLD_DEBUG": "", **environment}
    command = [sys.executable, "prog.py"]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)


EXPECTED = [
    ("raise InputError('`size` (=3) is odd;\\n use 4.')", "`size` (=3) is odd; use 4."),
    ("raise ValueError('bad label')", "bad label"),
    ("raise unknown_name('model', 's9', ['s0'])", "unknown model 's9'; did you mean 's0'? Known: s0."),
    ("open('none.txt')", "No such file or directory: none.txt"),
    ("open('/')", "Is a directory: /"),
    ("raise FileNotFoundError('weights.pt is missing; run: x fetch')", "weights.pt is missing; run: x fetch"),
    ("raise OSError(28, 'No space left on device')", "No space left on device"),
    (
        "require_extra('no_such_module', 'clip', 'tenfold-shared')",
        "`no_such_module` is not installed; run: pip install 'tenfold-shared[clip]'",
    ),
    (
        "from tenfold_shared.files import extract_tar\nextract_tar('none.tar', '.')",
        "No such file or directory: ",
    ),
    ("from tenfold_shared.intervals import t_quantile\nt_quantile(0)", "`df` (=0) must be at least 1"),
    (
        "try:\n    int('x')\nexcept ValueError as error:\n    raise ValueError('not a count: x') from error",
        "not a",
    ),
]


@pytest.mark.parametrize(("body", "sentence"), EXPECTED)
def test_expected_error_is_one_line(body, sentence, tmp_path):
    done = run(tmp_path, body)
    assert done.returncode == 2
    assert done.stderr.startswith(f"prog.py: error: {sentence}")
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("{}['a']", "KeyError"),
        ("raise TypeError('x')", "TypeError: x"),
        ("int('three')", "ValueError: invalid literal"),  # a ValueError nobody raised on purpose
        ("import ipaddress\nipaddress.ip_address('x')", "ValueError: 'x' does not appear"),  # a library's
        ("import numpy\nnumpy.zeros(2) + numpy.zeros(3)", "ValueError: operands"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("import os\nos.close(999)", "OSError: [Errno 9]"),
        ("assert False", "AssertionError"),
    ],
)
def test_bug_keeps_its_traceback(body, error, tmp_path):
    done = run(tmp_path, body)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and error in done.stderr


def test_debug_shows_every_traceback(tmp_path):
    done = run(tmp_path, "raise InputError('x')", TENFOLD_DEBUG="1")
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(("body", "status"), [("return None", 0), ("return 1", 1), ("sys.exit(3)", 3)])
def test_status(body, status, tmp_path):
    assert run(tmp_path, body).returncode == status


def test_module_is_named_by_its_package(tmp_path):
    (tmp_path / "someprog").mkdir()
    code = PROGRAM.format(body="    raise InputError('x')")
    (tmp_path / "someprog" / "__main__.py").write_text(code)
    command = [sys.executable, "-m", "someprog"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stderr == "someprog: error: x\n"


def test_interrupt(tmp_path):
    (tmp_path / "prog.py").write_text(
        PROGRAM.format(body="    print('up', flush=True)\n    import time; time.sleep(60)")
    )
    command = [sys.executable, str(tmp_path / "prog.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    _, text = process.communicate()
    assert process.returncode == 130
    assert text == "prog.py: interrupted; files already written are whole and are kept.\n"


@pytest.mark.parametrize("lines", [1, 100_000])  # seen at the last flush, and while printing
def test_reader_that_goes_away_is_no_error(lines, tmp_path):
    (tmp_path / "prog.py").write_text(PROGRAM.format(body=f"    for i in range({lines}): print('line', i)"))
    command = f"({sys.executable} prog.py; echo $? >&2) | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stderr in ("141\n", "0\n" if lines == 1 else "141\n")


def test_unknown_name():
    assert str(unknown_name("model", "mobileclip_s00", ["mobileclip_s0", "vit"])) == (
        "unknown model 'mobileclip_s00'; did you mean 'mobileclip_s0'? Known: mobileclip_s0, vit."
    )
    assert str(unknown_name("model", "zzz", ["b", "a"])) == "unknown model 'zzz'. Known: a, b."
    assert issubclass(InputError, ValueError)


def test_require_extra_returns_the_module():
    assert require_extra("json.decoder", "x", "y").JSONDecodeError is json.JSONDecodeError


def test_missing_parent_and_missing_part_name_the_extra():
    for module in ("no_such_module.part", "json.no_such_part"):
        with pytest.raises(ImportError, match=r"pip install 'y\[x\]'"):
            require_extra(module, "x", "y")


def test_broken_module_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_module_for_test.py").write_text("import another_missing_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="another_missing_module"):
        require_extra("broken_module_for_test", "x", "y")


def test_table_of_rows(capsys):
    print_result([{"name": "a", "ms": 1.23456}, {"name": "longer", "peer": 3}], json=False)
    assert capsys.readouterr().out == "name    ms     peer\na       1.235\nlonger         3\n"


def test_table_of_a_mapping(capsys):
    print_result({"model": "s0", "parameters": 11}, json=False)
    assert capsys.readouterr().out == "model       s0\nparameters  11\n"


def test_json_has_no_nan(capsys):
    print_result([{"a": float("nan"), "b": (1, "é")}], json=True)
    assert json.loads(capsys.readouterr().out) == [{"a": None, "b": [1, "é"]}]


@pytest.mark.parametrize("empty", [[], {}])
def test_nothing_to_print(empty, capsys):
    print_result(empty, json=False)
    assert capsys.readouterr().out.strip() == ""
