"""Keeping the books of live sessions: what relays report, to ledger, bindings, places and records."""

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from rdpbalancer.core.admission import Admission, AdmissionSlot
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.errors import ChannelError
from rdpbalancer.ipc.relay_messages import SessionEnded, SessionState
from rdpbalancer.model import CloseReason, CloseSide, SessionEnd, SessionFacts, SessionRecord
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.events import Events

# Sessions whose record is made, the last ones: a report that comes again is no second session. If it comes at
# all it does so within seconds, and not so many sessions end in that time.
_REMEMBERED = 10_000

_FACTS = msgspec.msgpack.Decoder(SessionFacts)


class SessionTracker:
    """Implements `relay.link.RelayEvents`: exactly one record for each session, whatever happens to it."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        admission: Admission,
        account: Account,
        events: Events,
        clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self._account = account
        self._events = events
        self._clock = clock
        self._recorded: OrderedDict[str, None] = OrderedDict()

    def session_live(self, state: SessionState, relay: int) -> None:
        """A relay holds this session: it did before this router began, or another relay has given it one."""
        session = self._dispatcher.ledger.get(state.id)
        if session is None:
            if state.id not in self._recorded:
                self._restore(state, relay)
        elif state.moves > session.moves:
            session.relay, session.moves = relay, state.moves
            self._count(session, state.bytes_up, state.bytes_down)

    def _restore(self, state: SessionState, relay: int) -> None:
        facts = _FACTS.decode(state.facts)
        admission_slot = self._admission.restore(facts.service, facts.source)
        session = self._dispatcher.restore(
            facts, relay=relay, admission_slot=admission_slot, now=self._clock()
        )
        session.moves = state.moves
        session.bytes_up, session.bytes_down = state.bytes_up, state.bytes_down

    def session_moved(self, session_id: str, bytes_up: int, bytes_down: int) -> None:
        """A session's byte counts."""
        session = self._dispatcher.ledger.get(session_id)
        if session is not None:
            self._count(session, bytes_up, bytes_down)

    def session_ended(self, ended: SessionEnded, relay: int) -> None:
        """A session has ended."""
        session = self._dispatcher.close(ended.id, now=self._clock())
        if session is None and ended.id in self._recorded:
            return
        facts = session.facts if session is not None else _FACTS.decode(ended.facts)
        if session is None:
            self._dispatcher.record_unknown_end(facts, now=self._clock())
        else:
            self._count(session, ended.bytes_up, ended.bytes_down)
            self._give_place_back(session)
        end = SessionEnd(
            ended.close_reason, ended.close_side, ended.bytes_up, ended.bytes_down, ended.ended_at
        )
        self._record(facts, end, relay)

    def relay_lost(self, relay: int, error: ChannelError | None) -> None:
        """A relay is gone, and its sessions with it."""
        lost = [session for session in self._dispatcher.ledger if session.relay == relay]
        if not lost:
            self._events.info("relay_gone", relay=relay, detail="it held no session")
            return
        detail = str(error) if error else "it ended"
        self._events.error("relay_lost", relay=relay, sessions=len(lost), detail=detail)
        for session in lost:
            self._dispatcher.close(session.facts.id, now=self._clock())
            self._give_place_back(session)
            end = SessionEnd(
                CloseReason.RELAY_LOST,
                CloseSide.BALANCER,
                session.bytes_up,
                session.bytes_down,
                time.time(),
            )
            self._record(session.facts, end, relay)

    def _record(self, facts: SessionFacts, end: SessionEnd, relay: int) -> None:
        self._recorded[facts.id] = None
        if len(self._recorded) > _REMEMBERED:
            self._recorded.popitem(last=False)
        self._account.closed(SessionRecord(facts, end, relay))

    def _count(self, session: LiveSession, bytes_up: int, bytes_down: int) -> None:
        # What a relay said before it gave the session away may be heard after the words of its target.
        bytes_up, bytes_down = max(bytes_up, session.bytes_up), max(bytes_down, session.bytes_down)
        self._account.moved(session.facts, bytes_up - session.bytes_up, bytes_down - session.bytes_down)
        session.bytes_up, session.bytes_down = bytes_up, bytes_down

    def _give_place_back(self, session: LiveSession) -> None:
        if isinstance(session.admission_slot, AdmissionSlot):
            self._admission.release(session.admission_slot)
