"""From a command's line to its answer: the verb of that name, called with the command's parameters."""

from collections.abc import Callable, Mapping

import msgspec

from rdpbalancer.control.pacing import Pacer
from rdpbalancer.control.paging import Listing, Pager
from rdpbalancer.control.parameters import ACTOR, ParametersError, Signature, Verb
from rdpbalancer.control.peer import ControlPeer, UserLookup
from rdpbalancer.control.protocol import VERSION, ControlFailure, ControlRequest, ControlResponse
from rdpbalancer.errors import RdpBalancerError


class Answering:
    """Carries out commands.

    `prefix` says what kind of listener they come from; who asks is known to the verbs as ``prefix:USER``: a
    verb with a parameter `actor` is told. `on_error` hears of errors that nobody foresaw.
    """

    def __init__(
        self,
        verbs: Mapping[str, Verb],
        *,
        on_error: Callable[[str, Exception], None],
        pacer: Pacer,
        prefix: str,
    ) -> None:
        self._verbs = {name: (verb, Signature(verb)) for name, verb in verbs.items()}
        self._on_error = on_error
        self._pacer = pacer
        self._prefix = prefix
        self._pager = Pager(pacer)
        self._names = UserLookup()

    def forget(self) -> None:
        """Let go of lists that somebody is paging through."""
        self._pager.forget()

    async def answer(self, peer: ControlPeer, line: bytes) -> ControlResponse:
        """Carry out one command, and answer in any case."""
        await self._pacer.turn()
        try:
            request = msgspec.json.decode(line, type=ControlRequest)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return failure("bad-request", f"not a request: {error}")
        if request.v != VERSION:
            return failure("version", f"this service speaks version {VERSION}, not {request.v}")
        if request.verb not in self._verbs:
            return failure("unknown-verb", f"there is no verb {request.verb!r}")
        verb, signature = self._verbs[request.verb]
        try:
            params = signature.checked(request.params)
        except ParametersError as error:
            return failure("bad-parameters", f"{request.verb}: {error}")
        try:
            if signature.wants_actor:
                params[ACTOR] = f"{self._prefix}:{await self._names.name(peer.uid)}"
            result = await verb(**params)
            if isinstance(result, Listing):
                result = await self._pager.page(result)
            # Encoded here, so that a result that cannot be is answered and logged like any other failure.
            return ControlResponse(ok=True, result=msgspec.Raw(msgspec.json.encode(result)))
        except RdpBalancerError as error:
            return failure(error.code, str(error))
        except Exception as error:  # noqa: BLE001 (the operator gets an answer, and the log the traceback)
            self._on_error(request.verb, error)
            return failure("internal", f"{request.verb} failed: {error!r}; the log says more")


def failure(code: str, message: str) -> ControlResponse:
    """Return the answer that a command has failed."""
    return ControlResponse(ok=False, error=ControlFailure(code, message))
