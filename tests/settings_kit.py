"""Small configurations, and how they are read."""

from pathlib import Path

import pytest

from moongate.core.errors import ConfigurationError
from moongate.settings import Settings, load

UP = """
[[upstreams]]
name = "u"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
"""
KEY = """
[[upstreams.credentials]]
name = "k"
api_key_env = "K"
"""
MODEL = """
[[models]]
id = "m"
window = 8192
output_tokens_default = 100
abilities = ["json"]
targets = [{ upstream = "u", model = "x" }]
price = { input = "1", cached = "0.5", output = "2" }
"""


def read(tmp_path: Path, text: str, env: dict[str, str] | None = None, **more: bool) -> Settings:
    file = tmp_path / "moongate.toml"
    file.write_text(text)
    return load(file, env or {}, **more)


def complaint(tmp_path: Path, text: str, env: dict[str, str] | None = None) -> str:
    """What an operator is told of ``text``."""
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text, env)
    return str(caught.value)
