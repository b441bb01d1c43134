"""From a TOML file, or from nothing, to checked :class:`Settings`.

Without a file the built-in default holds: Moonshot's own API when ``MOONSHOT_API_KEY`` is set,
else the embedded engine. What a file leaves out is filled in from the same data.
"""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec

from moongate.core.cards import Fixed
from moongate.core.errors import ConfigurationError
from moongate.settings.check import mistakes
from moongate.settings.read import Reading
from moongate.settings.secret import Secret
from moongate.settings.serving import OUTPUT_TOKENS, Credential, Known, Upstream
from moongate.settings.tree import Settings

_CHOOSES: Final = "MOONSHOT_API_KEY"
_SECRET_BYTES_MAX: Final = 16_384


def load(path: Path | None, env: Mapping[str, str], *, secrets: bool = True) -> Settings:
    """Read ``path``, or the built-in default when ``None``; secrets come from ``env`` and files.

    ``secrets=False`` leaves secrets unread, for a command that asks no upstream: it then works
    in a shell that does not have them. Relative paths in the file are taken from its folder.
    Raises ConfigurationError whose text lists every mistake.
    """
    data = {} if path is None else _parse(path)
    defaults = tomllib.loads(
        resources.files(__package__).joinpath("defaults.toml").read_text(encoding="utf-8")
    )
    origin = "the built-in default" if path is None else str(path)
    reading = Reading()
    settings = reading.table(Settings, _filled(data, defaults, env), "")
    wrong = reading.mistakes
    if settings is not None:
        settings = _placed(settings, path.parent if path else Path(), origin, defaults)
        wrong = wrong + list(mistakes(settings))
    if settings is not None and not wrong and secrets:
        settings = _with_secrets(settings, env, wrong)
    if settings is None or wrong:
        lines = "\n".join(f"  - {line}" for line in dict.fromkeys(wrong))
        raise ConfigurationError(f"The configuration ({origin}) cannot be used:\n{lines}")
    return settings


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        why = (error.strerror or "unreadable").lower()
        raise ConfigurationError(f"The configuration {path} cannot be read: {why}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"The configuration {path} is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The configuration {path} is not valid TOML: {error}.") from None


def _filled(
    data: dict[str, Any], defaults: dict[str, Any], env: Mapping[str, str]
) -> dict[str, Any]:
    """``data`` with upstreams and models where it names none, and with what we know of a model."""
    whole = dict(data)
    if "upstreams" not in whole:
        chosen = "moonshot" if env.get(_CHOOSES) else "embedded"
        whole["upstreams"] = [defaults["upstreams"][chosen]]
    upstreams = whole["upstreams"]
    if isinstance(upstreams, list):
        whole["upstreams"] = upstreams = [_here(upstream) for upstream in upstreams]
    known = {entry["model"]["id"]: entry["model"] for entry in defaults["cards"]}
    models = whole.get("models", list(known.values()))
    if isinstance(models, list):
        names = _names(upstreams)
        whole["models"] = [_lent(model, known, names) for model in models]
    return whole


def _here(upstream: object) -> object:
    """The embedded engine runs here: its data policy need not be said."""
    if isinstance(upstream, dict) and upstream.get("kind") == "embedded":
        return {"data_policy": "self-hosted"} | upstream
    return upstream


def _names(upstreams: object) -> list[str]:
    found = (
        [up.get("name") for up in upstreams if isinstance(up, dict)]
        if isinstance(upstreams, list)
        else []
    )
    return [name for name in found if isinstance(name, str)]


def _lent(model: object, known: dict[str, Any], upstreams: list[str]) -> object:
    """A model with what we know under its id, and served everywhere unless it says where."""
    if not isinstance(model, dict) or not isinstance(model.get("id"), str):
        return model
    everywhere = [{"upstream": name, "model": model["id"]} for name in upstreams]
    whole = {"targets": everywhere} | known.get(model["id"], {}) | model
    window, cap = whole.get("window"), whole.get("output_tokens_default", OUTPUT_TOKENS)
    if "output_tokens_default" not in model and type(window) is int and window >= 1:
        whole["output_tokens_default"] = min(window, cap)
    return whole


def _placed(settings: Settings, folder: Path, origin: str, defaults: dict[str, Any]) -> Settings:
    """With paths made whole, addresses trimmed, and what we know of models."""

    def at(text: str) -> str:
        return str((folder / Path(text).expanduser()).absolute()) if text else ""

    replace = msgspec.structs.replace
    return replace(
        settings,
        upstreams=tuple(
            replace(
                up,
                base_url=up.base_url.rstrip("/"),
                api_key_file=at(up.api_key_file),
                credentials=tuple(
                    replace(one, api_key_file=at(one.api_key_file)) for one in up.credentials
                ),
            )
            for up in settings.upstreams
        ),
        models=tuple(replace(model, tokenizer=at(model.tokenizer)) for model in settings.models),
        embedded=replace(
            settings.embedded,
            model=at(settings.embedded.model),
            projector=at(settings.embedded.projector),
        ),
        origin=origin,
        families={family: tuple(words) for family, words in defaults["families"].items()},
        known={
            entry["model"]["id"]: Known(
                owned_by=entry["owned_by"],
                released=entry["released"],
                sampling=Fixed(**entry["sampling"]) if "sampling" in entry else None,
                architecture=entry["architecture"],
            )
            for entry in defaults["cards"]
        },
    )


def _with_secrets(settings: Settings, env: Mapping[str, str], wrong: list[str]) -> Settings:
    replace = msgspec.structs.replace
    upstreams: list[Upstream] = []
    for at, upstream in enumerate(settings.upstreams):
        path = f"upstreams[{at}]"
        credentials = tuple(
            replace(one, api_key=_key(one, env, f"{path}.credentials[{number}]", wrong))
            for number, one in enumerate(upstream.credentials)
        )
        key = _key(upstream, env, path, wrong)
        upstreams.append(replace(upstream, api_key=key, credentials=credentials))
    search, topups, alerts = settings.search, settings.topups, settings.alerts
    return replace(
        settings,
        upstreams=tuple(upstreams),
        search=replace(
            search, api_key=_from_env(search.api_key_env, env, "search.api_key_env", wrong)
        ),
        topups=replace(
            topups,
            stripe_secret=_from_env(
                topups.stripe_secret_env, env, "topups.stripe_secret_env", wrong
            ),
            stripe_api_key=_from_env(
                topups.stripe_api_key_env, env, "topups.stripe_api_key_env", wrong
            ),
        ),
        alerts=replace(
            alerts,
            webhook_secret=_from_env(
                alerts.webhook_secret_env, env, "alerts.webhook_secret_env", wrong
            ),
        ),
    )


def _key(
    table: Upstream | Credential, env: Mapping[str, str], path: str, wrong: list[str]
) -> Secret | None:
    if table.api_key_file:
        return _from_file(table.api_key_file, f"{path}.api_key_file", wrong)
    return _from_env(table.api_key_env, env, f"{path}.api_key_env", wrong)


def _from_env(name: str, env: Mapping[str, str], path: str, wrong: list[str]) -> Secret | None:
    if not name:
        return None
    text = env.get(name, "").strip()
    if not text:
        wrong.append(f"{path} names a variable that is not set: set it, or leave the key out.")
    return _secret(text, path, wrong)


def _from_file(name: str, path: str, wrong: list[str]) -> Secret | None:
    try:
        with Path(name).open("rb") as file:
            text = file.read(_SECRET_BYTES_MAX).decode().strip()
    except OSError as error:
        why = (error.strerror or "unreadable").lower()
        wrong.append(f"{path} cannot be read: {why}.")
        return None
    except UnicodeDecodeError:
        wrong.append(f"{path} is not UTF-8 text.")
        return None
    if not text:
        wrong.append(f"{path} is an empty file.")
    return _secret(text, path, wrong)


def _secret(text: str, path: str, wrong: list[str]) -> Secret | None:
    if not text:
        return None
    if not text.isascii() or not text.isprintable() or " " in text:
        wrong.append(f"{path} leads to something that is no key: it has spaces or odd characters.")
        return None
    return Secret(text)
