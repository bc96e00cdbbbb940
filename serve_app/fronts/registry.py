"""The registry of fronts."""

from collections.abc import Iterable, Sequence

from serve_app.fronts import health, insanely_fast, native, octoai, openai, tiyaro, verda
from serve_app.fronts.common.front import Front
from serve_app.jobs.webhooks.payload import WebhookPayload

FRONTS: tuple[Front, ...] = (
    health.FRONT,
    native.FRONT,
    openai.FRONT,
    insanely_fast.FRONT,
    octoai.FRONT,
    tiyaro.FRONT,
    verda.FRONT,
)


def select_fronts(fronts: Sequence[Front], names: Iterable[str] | None) -> tuple[Front, ...]:
    """Return the fronts to serve: the optional ones that are named, None for all, and every other.

    Raises ValueError for a name that no optional front has.
    """
    optional = {front.name for front in fronts if front.is_optional}
    selected = optional if names is None else set(names)
    if unknown := selected - optional:
        raise ValueError(f"fronts: unknown {sorted(unknown)}; allowed are {', '.join(sorted(optional))}")
    return tuple(front for front in fronts if not front.is_optional or front.name in selected)


def webhook_payloads(fronts: Iterable[Front] = FRONTS) -> dict[str, WebhookPayload]:
    """Return the webhook payload of each front that has one, by the front's name (`JobRequest.webhook_format`).

    It is for all fronts, as jobs outlive a change of the setting `fronts`.
    """
    return {front.name: front.webhook_payload for front in fronts if front.webhook_payload is not None}
