from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.measure.test_process import wait_until_gone
from toolchain.core import child
from toolchain.core.child import ChildError
from toolchain.core.errors import EngineError, LostProcessError, RecipeError


def run(tmp_path: Path, code: str, python: str = "", **request: object) -> dict[str, object]:
    script = tmp_path / "script.py"
    script.write_text(f"import json, os, sys\nasked = json.load(open(sys.argv[1]))\n{code}", encoding="utf-8")
    return child.run(script, request, python=python, work=tmp_path / "work", threads=1, what="the work")


ANSWER = "json.dump(answer, open(sys.argv[2], 'w'))"


def test_what_is_asked_comes_back_answered(tmp_path: Path) -> None:
    assert run(tmp_path, f"answer = {{'sum': asked['a'] + asked['b']}}; {ANSWER}", a=2, b=3) == {"sum": 5}


def test_litter_and_prints_stay_in_the_child(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path.cwd().iterdir())
    run(tmp_path, f"os.mkdir('nc_workspace'); print('loud'); os.system('echo louder >&2'); answer = {{}}; {ANSWER}")
    assert capfd.readouterr() == ("", "")
    assert sorted(Path.cwd().iterdir()) == before
    assert list((tmp_path / "work").iterdir()) == []


def test_it_computes_with_the_threads_that_it_was_given(tmp_path: Path) -> None:
    assert run(tmp_path, f"answer = {{'threads': os.environ['OMP_NUM_THREADS']}}; {ANSWER}") == {"threads": "1"}


def test_modules_beside_the_script_do_not_shadow_those_of_its_environment(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    assert run(tmp_path, f"import numpy; answer = {{'file': numpy.__file__}}; {ANSWER}")["file"] != str(
        tmp_path / "numpy.py"
    )


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (
            "raise ValueError('Opset 99 is unknown\\nand more')",
            "ValueError",
            "the work: ValueError: Opset 99 is unknown",
        ),
        ("sys.exit(0)", "SystemExit", "the work: SystemExit: 0"),
        ("os._exit(3)", "", "the work: ended with code 3 and no answer"),
        ("os.kill(os.getpid(), 11)", "", "the work: was ended by SIGSEGV"),
        ("pass", "", "the work: ended with code 0 and no answer"),
    ],
)
def test_whatever_ends_it_is_an_error_that_says_so(tmp_path: Path, code: str, kind: str, message: str) -> None:
    with pytest.raises(ChildError) as caught:
        run(tmp_path, f"print('its last words', flush=True); {code}")
    assert caught.value.kind == kind
    assert caught.value.message.startswith(message)
    assert "its last words" in caught.value.log


@pytest.mark.parametrize(
    ("code", "message"),
    [("os.kill(os.getpid(), 9)", "the work: was ended by SIGKILL"), ("raise MemoryError", "the work: memory ran out")],
)
def test_what_ends_it_from_outside_is_no_result(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(LostProcessError, match=message) as caught:
        run(tmp_path, code)
    assert not isinstance(caught.value, EngineError)
    assert "run it again" in caught.value.hint


def test_an_exit_after_the_answer_is_no_error(tmp_path: Path) -> None:
    assert run(tmp_path, f"answer = {{'done': True}}; {ANSWER}; sys.exit(0)") == {"done": True}


@pytest.mark.parametrize("python", ["/no/such/python", "no-such-python"])
def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path, python: str) -> None:
    with pytest.raises(RecipeError, match=f"{python} is no program"):
        run(tmp_path, "", python=python)
    with pytest.raises(RecipeError, match=f"{python} is no program"):
        child.versions(python, ("numpy",))


def test_what_is_no_python_is_refused() -> None:
    with pytest.raises(RecipeError, match="true is no Python interpreter"):
        child.versions("true", ("numpy",))


def test_versions_are_those_of_the_other_environment() -> None:
    import numpy

    found = child.versions(sys.executable, ("numpy", "no-such-distribution"))
    assert found["numpy"] == numpy.__version__
    assert found["no-such-distribution"] == "missing"
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))


def test_an_environment_that_stands_on_another_has_its_packages_too(tmp_path: Path) -> None:
    import numpy

    packages = tmp_path / "lib/python3/site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    (tmp_path / "pyvenv.cfg").write_text("version = 3.11.7\n")
    python = str(tmp_path / "bin/python")
    assert child.versions(python, ("numpy",)) == {"python": "3.11.7", "numpy": "missing"}
    child.versions.cache_clear()
    trace, beside = tmp_path / "trace", Path(numpy.__file__).parents[1]
    (packages / "beside.pth").write_text(
        f"# a comment\nimport os; open({str(trace)!r}, 'w')\n/no/such/folder\n{beside}\n"
    )
    assert child.versions(python, ("numpy",)) == {"python": "3.11.7", "numpy": numpy.__version__}
    assert not trace.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    pid_file = tmp_path / "pid"
    script.write_text(f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    code = (
        "import sys; from pathlib import Path; from toolchain.core import child\n"
        f"child.run(Path({str(script)!r}), {{}}, python='', work=Path({str(tmp_path)!r}), threads=1, what='it')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 20
    while (not pid_file.is_file() or not pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert wait_until_gone(int(pid_file.read_text()))


def test_answers_are_json(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="no answer"):
        run(tmp_path, "open(sys.argv[2], 'w').write('{')")
    assert json.loads(json.dumps(run(tmp_path, f"answer = {{'a': [1.5, None]}}; {ANSWER}"))) == {"a": [1.5, None]}
