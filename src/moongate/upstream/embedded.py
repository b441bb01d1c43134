"""The embedded engine, seen as just another upstream: a small real model on this machine.

It stands in for Kimi where there is no account and no GPU, and says so. It renders the prompt
itself, keeps organisations apart by slot, always streams, and stops when the caller leaves.
Prompts, schemas, slots and processes belong to the ``engine_`` modules; this one only puts
them in order.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import aiohttp

from moongate.core.cards import Ability, Facts
from moongate.core.errors import ConfigurationError, UpstreamDown, UpstreamError, UpstreamRefused
from moongate.core.events import Event
from moongate.core.ports import Ask, Probe
from moongate.core.request import Request
from moongate.upstream.engine_answer import AnswerReader
from moongate.upstream.engine_checks import Check, check, check_cpu, check_file, check_libgomp
from moongate.upstream.engine_child import ALIAS
from moongate.upstream.engine_client import EngineClient
from moongate.upstream.engine_eyes import Sight, look, pictures
from moongate.upstream.engine_gguf import read_header
from moongate.upstream.engine_goal import Goal, constraint, decide, dropped
from moongate.upstream.engine_model import Progress, fetch
from moongate.upstream.engine_process import EngineProcess, Work
from moongate.upstream.engine_prompt import turns
from moongate.upstream.engine_request import Plan, completion
from moongate.upstream.engine_slots import Slots
from moongate.upstream.engine_template import ChatML, OwnTemplate

WINDOW: Final = 8192
"""Tokens of the stand-in's window."""
OWN_POOL: Final = 65_536
"""Tokens of all slots together for a model of the operator's own: memory grows with them."""
OUTPUT_TOKENS_DEFAULT: Final = 1024
CACHE_TOKENS: Final = 8192
EXPIRY_S: Final = 60.0
"""Seconds between two looks at what has been kept long enough."""
_ABILITIES: Final[frozenset[Ability]] = frozenset({"tools", "json", "partial", "thinking"})
_STAND_IN: Final = (
    "SmolLM2-135M-Instruct, a small model on this machine, stands in for Kimi K2.5; it is not Kimi."
)
_OWN: Final = "The operator's own model file {file} answers in place of Kimi K2.5."


class EmbeddedUpstream:
    """llama.cpp in a child process. ``home``: the folder below which ``models`` is kept.

    ``model`` and ``projector`` are files of the operator's own; without a model the stand-in
    is fetched once, and ``progress`` is told bytes done and bytes in all meanwhile. ``report``
    hears when the engine died and when it serves again. ``slots`` answers are made at once;
    ``cache_tokens`` of earlier prompts and answers are kept for reuse.
    """

    kind = "embedded"

    def __init__(
        self,
        name: str,
        *,
        home: Path,
        model: Path | None = None,
        projector: Path | None = None,
        slots: int = 4,
        cache_tokens: int = CACHE_TOKENS,
        progress: Progress | None = None,
        report: Callable[[str], None] = lambda word: None,  # noqa: ARG005 - the silent default
    ) -> None:
        self.name = name
        self.folder = home / "models"
        self._model = model
        self._projector = projector
        self._slots = Slots(slots, self._erase, kept=cache_tokens)
        self._at_once = slots
        self._cache_tokens = cache_tokens
        self._expiry: asyncio.Task[None] | None = None
        self._progress = progress
        self._report = report
        self._window = WINDOW
        self._architecture = ""
        self._process: EngineProcess | None = None
        self._client: EngineClient | None = None
        self._template: ChatML | OwnTemplate | None = None
        self._sees = False

    @property
    def address(self) -> str:
        """Where the engine's own OpenAI endpoint listens (``/v1`` below it); changes on restart."""
        return self._process.address if self._process else ""

    @property
    def api_key(self) -> str:
        """The key of the engine's own endpoint: random, new with every start."""
        return self._process.api_key if self._process else ""

    @property
    def pid(self) -> int | None:
        """The engine's process id while it runs."""
        return self._process.pid if self._process else None

    @property
    def up(self) -> bool:
        """Whether the engine serves now."""
        return self._process is not None and self._process.up

    @property
    def slots_busy(self) -> int:
        """How many answers are being made now."""
        return self._slots.busy

    @property
    def cached_tokens(self) -> int:
        """Tokens that are kept for reuse now, of all organisations together."""
        return self._slots.resting

    def check(self) -> list[Check]:
        """What this engine needs of the machine; reads the model file whole."""
        return check(self.folder, self._model, self._projector)

    def facts(self) -> Facts:
        own = self._model
        fingerprint = f"fp_embedded_{self._architecture}" if own else "fp_embedded_smollm2_135m"
        return Facts(
            window=self._window,
            abilities=_ABILITIES | {"images"} if self._sees else _ABILITIES,
            output_tokens_default=OUTPUT_TOKENS_DEFAULT,
            fingerprint=fingerprint,
            data_policy="self-hosted",
            stand_in=_OWN.format(file=own.name) if own else _STAND_IN,
        )

    async def start(self) -> None:
        for found in (check_cpu(), check_libgomp()):
            if not found.ok:
                raise ConfigurationError(found.detail)
        model = await self._model_file()
        work = Work(
            model=model,
            projector=self._projector,
            slots=len(self._slots),
            n_ctx=max(self._at_once * self._window, self._cache_tokens),
        )
        self._slots.pool = work.n_ctx
        self._process = EngineProcess(work, self._slots.forget, self._report)
        await self._process.start()
        self._client = EngineClient(self._process)
        self._expiry = asyncio.create_task(self._expire(), name="engine-cache")
        try:
            self._template = (
                await ChatML.learn(self._client)
                if self._model is None
                else OwnTemplate(self._client)
            )
            self._sees = self._model is not None and await self._client.sees()
        except UpstreamError as error:
            await self.close()
            raise ConfigurationError(
                f"The embedded engine started and then gave no answer ({error.kind}). Start again."
            ) from None

    async def close(self) -> None:
        self._slots.close()
        if self._expiry is not None:
            self._expiry.cancel()
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._process is not None:
            await self._process.close()

    async def stream(self, ask: Ask) -> AsyncGenerator[list[Event], None]:
        client = self._ready()
        plan = await self._plan(ask.request, ask.output_tokens_max)
        limits: dict[str, Any] = {}
        if plan.goal.kind != "text":  # a client's schema takes its time to be checked
            limits = await asyncio.to_thread(constraint, plan.goal, plan.output_tokens_max)
        trail = self._slots.trail(plan.tokens)
        reader = AnswerReader(plan.goal, thinking=ask.request.thinking is not False)
        most = len(plan.tokens) + plan.output_tokens_max
        async with self._slots.lease(ask.tenant, trail, most) as slot:
            body = {**completion(ask.request, plan), **limits, "id_slot": slot.id}
            async with client.completion(body) as pieces, aclosing(pieces):
                yield reader.open()
                async for data in pieces:
                    if plan.goal.schema is None:
                        events = reader.feed(data)
                    else:  # the last piece has the whole answer checked
                        events = await asyncio.to_thread(reader.feed, data)
                    if events:
                        yield events
                reader.close()
                slot.held = reader.tokens

    async def count(self, request: Request) -> int | None:
        if self._template is None:
            return None
        try:
            return len((await self._prompt(request, decide(request)))[0])
        except UpstreamError:
            return None

    async def probe(self) -> Probe:
        try:
            healthy = await self._ready().healthy()
        except (UpstreamError, aiohttp.ClientError, OSError) as error:
            return Probe(
                ok=False, models=None, detail=f"the engine is down ({type(error).__name__})"
            )
        return Probe(ok=healthy, models=(ALIAS,), detail="the engine serves on this machine")

    def dropped(self, request: Request) -> tuple[str, ...]:
        return dropped(request)

    async def _erase(self, slot: int) -> None:
        await self._ready().erase(slot)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_S)
            with contextlib.suppress(UpstreamError):
                await self._slots.expire()

    def _ready(self) -> EngineClient:
        if self._client is None:
            raise UpstreamDown("not_started")
        return self._client

    async def _model_file(self) -> Path:
        if (
            self._projector is not None
            and not (found := check_file("projector", self._projector)).ok
        ):
            raise ConfigurationError(found.detail)
        if self._model is None:
            return await fetch(self.folder, self._progress)
        if not (found := check_file("model", self._model)).ok:
            raise ConfigurationError(found.detail)
        header = read_header(self._model)
        self._architecture = header.architecture
        self._window = min(header.window or WINDOW, OWN_POOL // self._at_once)
        return self._model

    async def _plan(self, request: Request, output_tokens_max: int) -> Plan:
        goal = decide(request)
        tokens, sight = await self._prompt(request, goal)
        room = self._window - len(tokens)
        if room < 1:
            raise UpstreamRefused(
                "context_length_exceeded",
                param="messages",
                needs=len(tokens) + 1,
                limit=self._window,
            )
        return Plan(tokens, sight, goal, max(1, min(output_tokens_max, room)))

    async def _prompt(self, request: Request, goal: Goal) -> tuple[tuple[int, ...], Sight | None]:
        """The prompt's tokens, and the prompt itself where it shows pictures."""
        assert self._template is not None
        said = turns(request, sees=self._sees)
        shown = pictures(request)
        if not shown or not isinstance(self._template, OwnTemplate):
            return tuple(await self._template.tokens(said, goal.opening, goal.speaker)), None
        sight = await look(self._ready(), self._template, said, goal.opening, goal.speaker, shown)
        return sight.tokens, sight
