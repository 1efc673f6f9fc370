"""One limit, as this instance sees it: the tokens it was granted and has not spent. Pure; the store grants.

A message needs a token of every bucket it falls in. Tokens are granted ahead of time, in blocks, from a row that all
instances share (`store.throttle`), and each has its *slot*: the instant from which it may be used. A row of `ready` is
leased only with its tokens in hand (`room`, `take`), some `AHEAD` of their slots; what is not sent gives them back
(`refund`). What is not needed returns with the next statement (`ask`), so nothing is lost but by a crash.

How exact it is: slots of all instances together follow the rate. A token may be used at most about HORIZON after its
slot, a fresh bucket gives BURST at once, and RESERVE is kept for urgent mail: in any window no more is sent than
rate × window + one second of rate (and at least one message).

`Slots` is the other kind of limit: so many at a time, given back when the message has ended. Both are a `Permit`.

Hazards: one bucket serves several lanes and streams of the process; nothing here may await. `now` is monotonic.
"""

from __future__ import annotations

import math
from collections import deque
from datetime import datetime
from typing import Final, Protocol

import msgspec

from mailerd import message

__all__ = ["AHEAD", "BURST", "GRAIN", "HORIZON", "LATE", "Ask", "Bucket", "Limit", "Permit", "Slots"]

HORIZON: Final = 0.75  # seconds of rate that an instance holds at most, slots ahead included
AHEAD: Final = 0.25  # seconds before its slot that a token may be taken, for a message that then waits for it
GRAIN: Final = 0.005  # seconds in which a slot is as good as come
LATE: Final = 0.5  # seconds after its slot at which a token that nobody wants goes back
BURST: Final = 0.15  # seconds of rate that a bucket which stood idle gives at once; at least one token
RESERVE: Final = 0.1  # seconds of rate kept in hand for the most urgent stream, over all instances
_QUOTA_LEAST, _QUOTA_MOST = 20, 5000  # tokens of a quota asked for at a time


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What a bucket holds to: `rate` in messages a second, or `quota` messages a `period` (day or month in `zone`). With
    neither it is stopped; `words` say why, and `until` when that is looked at again, where nobody set it so."""

    key: str
    rate: float = 0.0
    quota: int = 0
    period: str = "day"
    zone: str = "UTC"
    words: str = ""
    until: datetime | None = None

    @property
    def stopped(self) -> bool:
        """Nothing is to be sent at all."""
        return not self.rate and not self.quota

    @property
    def burst(self) -> float:
        """Tokens that may be used at once after a rest."""
        return max(1.0, self.rate * BURST)


class Ask(msgspec.Struct, frozen=True):
    """What to say to the store: `want` tokens, and `back` that were not needed."""

    limit: Limit
    want: int
    back: int


class Permit(message.Permit, Protocol):
    """What a message must have to be sent."""

    def room(self, now: float, *, urgent: bool = True) -> int:
        """How many may be taken now."""
        ...

    def opens(self, now: float, *, urgent: bool = True) -> float:
        """The instant at which there is room again as far as that is known; inf when only others can tell."""
        ...

    def take(self, count: int, now: float) -> list[float]:
        """Takes so many; the instants from which each may be used."""
        ...


class Bucket:
    """`limit` may be replaced at any time (HUP, an operator, feedback, warm-up)."""

    __slots__ = (
        "_blocks",
        "_debt",
        "_handy",
        "_looked",
        "_room",
        "_seen",
        "_short",
        "_used",
        "held",
        "limit",
        "quiet_until",
        "reserve",
        "shared",
        "stock",
        "waits",
    )

    def __init__(self, limit: Limit, *, shared: bool = False) -> None:
        self.limit = limit
        self.shared = shared  # streams of different urgency use it: some tokens are kept for the most urgent
        self.reserve = 0
        self.stock = 0
        self.held = 0  # taken, by messages that have not ended
        self.quiet_until = 0.0  # asking again before then is of no use
        self._blocks: deque[_Block] = deque()
        self._debt = 0
        self._used = 0  # taken since the last ask
        self._short = False  # somebody found no room since the last ask
        self.waits = False  # and waits for it now
        self._seen = -1.0
        self._room = 0
        self._looked = 0.0
        self._handy = 0  # ripe, when looked at

    def __repr__(self) -> str:
        return f"<Bucket {self.limit.key} stock {self.stock} held {self.held}>"

    @property
    def kind(self) -> str:
        """provider, quota, pool, stream, domain or warmup: the label of metrics."""
        kind = self.limit.key.partition(":")[0]
        if kind in ("warmup", "pace"):
            return "warmup"
        return "domain" if "/" in self.limit.key else kind

    # -- for those who send ------------------------------------------------------------------------------------------

    def room(self, now: float, *, urgent: bool = True) -> int:
        if now != self._seen:
            self._seen = now
            self._room = self._ripe(now + AHEAD) - self._debt
        room = self._room if urgent else self._room - self.reserve
        if self.limit.stopped:
            return 0
        self.waits = room <= 0
        if room <= 0:
            self._short = True
        return room

    def ripe(self, now: float, *, urgent: bool = True) -> int:
        """How many may be used this very moment."""
        if self.limit.stopped:
            return 0
        # Looked at anew only now and then: those that ripen meanwhile are found a moment later.
        if self._handy <= self.reserve or not 0.0 <= now - self._looked <= GRAIN:
            self._looked, self._handy = now, self._ripe(now) - self._debt
        ripe = self._handy - (0 if urgent else self.reserve)
        self.waits = ripe <= 0
        if ripe <= 0:
            self._short = True
        return ripe

    def opens(self, now: float, *, urgent: bool = True) -> float:
        return math.inf if self.limit.stopped else self.slot(0 if urgent else self.reserve) - AHEAD

    def slot(self, skip: int) -> float:
        """The slot of the token after the first `skip` (and after those that are owed); inf if there is none."""
        skip += self._debt
        for block in self._blocks:
            if skip < block.count:
                return block.first + skip * block.step
            skip -= block.count
        return math.inf

    def take(self, count: int, now: float) -> list[float]:
        """Takes `count` tokens, the oldest first. Those that are not there are owed: a row with many recipients goes
        out as one, and what comes after it waits."""
        slots: list[float] = []
        need = count
        while need and self._blocks:
            block = self._blocks[0]
            take = min(need, block.count)
            first, step = block.first, block.step
            slots += [first + i * step for i in range(take)] if take > 1 else (first,)
            need -= take
            if take == block.count:
                self._blocks.popleft()
            else:
                block.first += take * step
                block.count -= take
        self.stock -= count - need
        self._debt += need
        if need:
            slots += [slots[-1] if slots else now] * need
        self.held += count
        self._used += count
        if now == self._seen:
            self._room -= count
        self._handy -= count
        return slots

    def owe(self, count: int) -> None:
        self.take(count, self._seen)

    def refund(self, count: int) -> None:
        self.held -= count
        self._used -= min(count, self._used)
        paid = min(count, self._debt)
        self._debt -= paid
        count -= paid
        if count:
            # Slot 0 is long past: they are used first, and go back first.
            self._blocks.appendleft(_Block(0.0, 0.0, count, self._ends()))
            self.stock += count
        self._seen = -1.0

    def spent(self, count: int) -> None:
        self.held -= count

    # -- for whoever asks the store ------------------------------------------------------------------------------------

    def ask(self, now: float, instances: int) -> Ask | None:
        """What to ask for now, and what to give back; None when nothing is to be said. What goes back is no longer in
        hand, whatever becomes of the statement (`failed`)."""
        self._expire(now)
        limit = self.limit
        if limit.stopped:
            return None
        self.reserve = int(limit.rate * RESERVE / instances) if self.shared else 0
        if limit.quota:
            most = max(min(2 * self._used, _QUOTA_MOST), _QUOTA_LEAST)
            room = most - self.stock
            fair = most
        else:
            # At least one, however slow: the store knows whether its slot is near.
            most = max(1, math.ceil(limit.rate * HORIZON)) + self.reserve
            room = most - self.stock - self.held
            fair = math.ceil(most / instances)
        used = self._used
        wanted = used > 0 or self._short
        want = 0
        if wanted:
            want = max(0, min(room, max(fair, 2 * used + 1)))
        elif self.stock < self.reserve:
            want = min(self.reserve - self.stock, max(room, 0))
        want += self._debt
        if now < self.quiet_until:
            want = 0
        back = max(0, self._surplus(now) - used)
        self._remove(back)
        if want:
            self._used = 0
            self._short = False
        elif not wanted:
            self._used = 0
            self.waits = False
        return Ask(limit, want, back) if want or back else None

    def hungry(self, now: float) -> bool:
        """Somebody found no room, and asking may help."""
        return self._short and not self.stock and now >= self.quiet_until

    def dry(self, now: float, soon: float) -> bool:
        """Is it known that no further token comes within `soon` seconds?"""
        return self.limit.stopped or (not self.stock and self.quiet_until > now + soon)

    def change(self, rate: float) -> None:
        """Another rate from now on. Tokens in hand that it would not have given are dropped."""
        if rate < self.limit.rate:
            most = math.ceil(rate * HORIZON)
            self._remove(max(0, self.stock - most))
        self._become(rate, 0, "", None)

    def allow(self, quota: int) -> None:
        """Another quota from now on, in this window too."""
        if quota < self.limit.quota:
            self._remove(max(0, self.stock - quota))
        self._become(0.0, quota, "", None)

    def stop(self, words: str, until: datetime) -> None:
        """Nothing more for now. What is in hand is dropped."""
        self._remove(self.stock)
        self._become(0.0, 0, words, until)

    def _become(self, rate: float, quota: int, words: str, until: datetime | None) -> None:
        limit = self.limit
        if (limit.rate, limit.quota, limit.words) == (rate, quota, words):
            return
        self.limit = msgspec.structs.replace(limit, rate=rate, quota=quota, words=words, until=until)
        self.quiet_until = 0.0
        self._seen = -1.0

    def failed(self, ask: Ask) -> None:
        """The store did not answer. It may have taken back what it was given: that is lost rather than used twice."""
        self._short |= ask.want > 0

    def granted(self, count: int, first: float, step: float, ends: float, quiet_until: float) -> None:
        """The store grants `count` tokens: the first at `first`, each further one `step` later, none after `ends`."""
        self.quiet_until = quiet_until
        if not count:
            return
        paid = min(count, self._debt)
        self._debt -= paid
        count -= paid
        if count:
            self._blocks.append(_Block(first + paid * step, step, count, ends))
            self.stock += count
        self._seen = -1.0

    def surrender(self) -> Ask | None:
        """Everything in hand, to be given back: this instance ends."""
        back = 0 if self.limit.stopped else self.stock
        self._remove(back)
        return Ask(self.limit, 0, back) if back else None

    # -- helpers -------------------------------------------------------------------------------------------------------

    def _ripe(self, until: float) -> int:
        ripe = 0
        for block in self._blocks:
            if block.first > until:
                break
            if not block.step:
                ripe += block.count
                continue
            count = int((until - block.first) / block.step) + 1
            if count < block.count:
                return ripe + count
            ripe += block.count
        return ripe

    def _surplus(self, now: float) -> int:
        """Tokens whose slot is so long past that nobody seems to want them; the reserve stays."""
        late = self._ripe(now - LATE)
        return max(0, min(late, self.stock - self.reserve))

    def _remove(self, count: int) -> None:
        """The oldest ones leave."""
        self.stock -= count
        self._handy = 0
        while count:
            block = self._blocks[0]
            take = min(count, block.count)
            block.first += take * block.step
            block.count -= take
            count -= take
            if not block.count:
                self._blocks.popleft()
        self._seen = -1.0

    def _expire(self, now: float) -> None:
        """Tokens of a quota's last window are void."""
        while self._blocks and self._blocks[0].ends <= now:
            self.stock -= self._blocks.popleft().count
            self._seen = -1.0
            self._handy = 0

    def _ends(self) -> float:
        return self._blocks[0].ends if self._blocks else math.inf


class _Block(msgspec.Struct, gc=False):
    """Tokens of one grant: `count`, the first usable at `first`, each other `step` later; void at `ends`."""

    first: float
    step: float
    count: int
    ends: float


class Slots:
    """At most so many recipients in hand at a time: `cap` is this instance's share, and moves."""

    __slots__ = ("cap", "held", "key")

    def __init__(self, key: str, cap: int) -> None:
        self.key = key
        self.cap = cap
        self.held = 0

    def __repr__(self) -> str:
        return f"<Slots {self.key} {self.held} of {self.cap}>"

    def room(self, now: float, *, urgent: bool = True) -> int:
        return self.cap - self.held

    def opens(self, now: float, *, urgent: bool = True) -> float:
        return 0.0 if self.held < self.cap else math.inf

    def take(self, count: int, now: float) -> list[float]:
        self.held += count
        return [now] * count

    def owe(self, count: int) -> None:
        self.held += count

    def refund(self, count: int) -> None:
        self.held -= count

    def spent(self, count: int) -> None:
        self.held -= count
