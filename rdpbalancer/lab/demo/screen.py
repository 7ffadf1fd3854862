"""The live show on a terminal of 80x24 or more. Pure: a board, the time and a size in, a picture out."""

from typing import Any, Final

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rdpbalancer.lab.demo.board import Board
from rdpbalancer.lab.demo.tally import Cause, Outcome, Person

# It is made for 80x24. On less than this, lines say more.
MIN_WIDTH: Final = 66
MIN_HEIGHT: Final = 18

WORDS_ROWS: Final = 2
_SCENE_ROWS: Final = WORDS_ROWS + 3  # the finding, borders
_USUAL_ROWS: Final = 26  # what is above that is for what happened lately
_LATELY_ROWS: Final = (6, 20)  # borders included; less is not worth it, more nobody can follow
_SILENT_S: Final = 0.4  # a router that has not answered for so long is being replaced
_FLASH_S: Final = 1.5  # how long somebody who has just come is marked
_BAR_SCALE: Final = 10  # sessions of a full bar, unless a server has more
_STYLES: Final = {
    "up": "green",
    "online": "green",
    "checking": "yellow",
    "drain": "yellow",
    "down": "bold red",
    "halt": "bold red",
}
_LEGENDS: Final = ("own: the same again?", "new: server failed")
_OWN: Final = {
    Outcome.OWN: ("yes", "green"),
    Outcome.MOVED: ("new", "yellow"),
    Outcome.WRONG: ("NO", "bold white on red"),
}


def fits(console: Console) -> bool:
    """Whether `console` is a terminal that can show it."""
    large = console.width >= MIN_WIDTH and console.height >= MIN_HEIGHT
    return large and console.is_terminal and not console.is_dumb_terminal


class Screen:
    """The whole screen as the board is at `now` (monotonic seconds)."""

    def __init__(self, board: Board, *, now: float) -> None:
        self._board = board
        self._now = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw."""
        board, height = self._board, options.height or console.height
        marks = _Marks(ascii_only=options.ascii_only)
        people = Layout(name="people")
        names = [row["name"] for row in board.servers]
        people.split_row(*(Layout(_Desktops(board, name, marks, self._now)) for name in names))
        lately_rows = min(height - _USUAL_ROWS, _LATELY_ROWS[1])
        layout = Layout()
        layout.split_column(
            Layout(_title(board, marks, self._now), size=1),
            Layout(_servers(board, marks, options.max_width, self._now), size=len(names) + 3),
            people,
            Layout(_scene(board), size=_SCENE_ROWS),
            Layout(
                _lately(board, lately_rows - 2),
                size=max(lately_rows, 1),
                visible=lately_rows >= _LATELY_ROWS[0],
            ),
            Layout(_totals(board), size=1),
        )
        yield layout


class _Marks:
    """The signs beside the words, also for terminals that have only ASCII."""

    def __init__(self, *, ascii_only: bool) -> None:
        self.here, self.away = ("*", " ") if ascii_only else ("●", "○")
        self.bar = "#" if ascii_only else "█"
        self.to = "->" if ascii_only else "→"


class _Desktops:
    """The users whose desktops are on one server, in the order of their desktops, so that they stay put."""

    def __init__(self, board: Board, server: str, marks: _Marks, now: float) -> None:
        self._people = sorted(board.tally.at_home(server), key=_desktop_number)
        self._server = server
        self._lost = board.tally.lost
        self._marks = marks
        self._now = now
        at = [row["name"] for row in board.servers].index(server)
        self._legend = (f"{marks.here} here  {marks.away} away", *_LEGENDS)[min(at, len(_LEGENDS))]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height, width = options.height or console.height, options.max_width
        fit = max(0, height - 3)
        shown = self._people if len(self._people) <= fit else self._people[: max(0, fit - 1)]
        table = _people_table(width)
        for person in shown:
            table.add_row(*self._cells(person, width))
        if len(shown) < len(self._people):
            table.add_row("", Text(f"+{len(self._people) - len(shown)} more", "dim"))
        yield Panel(
            table,
            title=Text(f"desktops on {self._server}: {len(self._people)}", "bold"),
            title_align="left",
            subtitle=Text(self._legend, "dim"),
            subtitle_align="left",
            border_style="cyan",
            box=ROUNDED,
            padding=0,
            height=height,
        )

    def _cells(self, person: Person, width: int) -> list[Text]:
        fresh = person.here and self._now - person.changed_at < _FLASH_S
        style = "bold" if fresh else "" if person.here else "dim"
        mark = Text(self._marks.here if person.here else self._marks.away, "green" if person.here else "dim")
        word, colour = _OWN.get(person.last or Outcome.NEW, ("-", "dim"))
        lost = person.desktop in self._lost and not person.here
        own = Text("lost", "red") if lost else Text(word, colour if person.here else f"{colour} dim")
        cells = [mark, Text(person.name, style), Text(str(person.visits), style), own]
        if width >= _DESKTOP_FROM:
            cells.insert(2, Text(person.desktop or "", style))
        if width >= _SOURCE_FROM:
            cells.insert(3, Text(person.source if person.here else "", style))
        return cells


_DESKTOP_FROM: Final = 34  # the width of a server's column from which on there is room for desktops' names
_SOURCE_FROM: Final = 52  # and for addresses


def _people_table(width: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, expand=True, header_style="dim")
    table.add_column("", width=1)
    table.add_column("user", no_wrap=True, ratio=1)
    if width >= _DESKTOP_FROM:
        table.add_column("desktop", no_wrap=True)
    if width >= _SOURCE_FROM:
        table.add_column("from", no_wrap=True, min_width=14)
    table.add_column("visits", justify="right", no_wrap=True)
    table.add_column("own", no_wrap=True, min_width=4)
    return table


def _desktop_number(person: Person) -> tuple[int, str]:
    number = (person.desktop or "").rpartition("-")[2]
    return (int(number) if number.isdecimal() else 0, person.name)


def _title(board: Board, marks: _Marks, now: float) -> RenderableType:
    past_s = int(now - board.started_at)
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    way = (
        f"{len(board.tally.people)} users {marks.to} {board.address} {marks.to} {len(board.servers)} servers"
    )
    grid.add_row(
        Text.assemble((" rdpbalancer ", "bold white on blue"), " ", way),
        Text(f"{past_s // 60}:{past_s % 60:02}  Ctrl-C ends", "dim"),
    )
    return grid


def _servers(board: Board, marks: _Marks, width: int, now: float) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="dim")
    for heading in ("server", "health", "state"):
        table.add_column(heading, no_wrap=True, min_width=8)
    table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("sessions", justify="right", no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True)
    room = max(1, width - 52)
    scale = max([_BAR_SCALE, *(row["sessions"] for row in board.servers)])
    for row in board.servers:
        usable = row["health"] == "up" and row["state"] == "online"
        bar = marks.bar * round(room * row["sessions"] / scale)
        table.add_row(
            Text(row["name"], "bold"),
            Text(row["health"], _STYLES.get(row["health"], "")),
            Text(row["state"], _STYLES.get(row["state"], "")),
            str(row["weight"]),
            str(row["sessions"]),
            Text(bar, "green" if usable else "yellow" if row["health"] == "up" else "red"),
        )
    return Panel(
        table,
        title=Text("real servers, as the balancer sees them", "bold"),
        title_align="left",
        subtitle=_processes(board, now),
        subtitle_align="left",
        border_style="blue",
        box=ROUNDED,
        padding=(0, 1),
    )


def _processes(board: Board, now: float) -> Text:
    """Tell which processes the balancer consists of at present."""
    silent = board.asked_at is not None and now - board.asked_at > _SILENT_S
    if silent or board.status is None or not board.answering:
        return Text("no router at present: the balancer starts a new one", "bold red")
    relays: dict[str, Any] = board.status["relays"]
    sessions = " + ".join(str(count) for count in relays.values())
    return Text(
        f"router: process {board.status['router']}   {len(relays)} relays: {sessions} sessions", "dim"
    )


def _scene(board: Board) -> RenderableType:
    scene = board.scene
    inside = Layout()
    # The finding has a line of its own that words, should they be too many, cannot push out. Blanks, because
    # rich draws a frame for what is empty.
    inside.split_column(
        Layout(Text(scene.words or " "), size=WORDS_ROWS),
        Layout(Text(scene.finding or " ", "bold", no_wrap=True, overflow="ellipsis"), size=1),
    )
    return Panel(
        inside,
        title=Text(scene.title, "bold yellow"),
        title_align="left",
        subtitle=Text(f"$ {scene.command}" if scene.command else "", "dim"),
        subtitle_align="right",
        border_style="yellow",
        box=ROUNDED,
        padding=(0, 1),
    )


def _lately(board: Board, rows: int) -> RenderableType:
    lines = list(board.lately)[-max(rows, 1) :]
    return Panel(
        Text("\n".join(lines), no_wrap=True, overflow="ellipsis"),
        title=Text("lately", "bold"),
        title_align="left",
        subtitle=Text(f"$ rdpbalancer --socket {board.socket} status", "dim"),
        subtitle_align="right",
        border_style="dim",
        box=ROUNDED,
        padding=(0, 1),
    )


def _totals(board: Board) -> Text:
    tally = board.tally
    moved, lost = tally.outcomes[Outcome.MOVED], tally.broken[Cause.NONE]
    bad = "bold white on red"
    return Text.assemble(
        f" {tally.visits} visits  {tally.returns} returns: ",
        (f"{tally.outcomes[Outcome.OWN]} own desktop", "bold green"),
        ", ",
        (f"{moved} server lost", "yellow" if moved else "dim"),
        ", ",
        (f"{tally.wrong} WRONG", bad if tally.wrong else "bold green"),
        "  ",
        (f"{lost} cut off", bad if lost else "bold green"),
        no_wrap=True,
        overflow="ellipsis",
    )
