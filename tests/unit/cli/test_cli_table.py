"""Tables for a terminal: nothing is cut in any width, and what is equal looks equal."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.cli.table import Column, Line, Piece, cell_width, layout, shown, wrapped

NAME, ADDRESS = Column("name", "NAME"), Column("address", "ADDRESS")
COUNT = Column("count", "COUNT", right=True)
QUEUE = Column("queue", "QUEUE", right=True, plain=(0,))
AGENT = Column("agent", "AGENT", plain=("-",), rank=1)
RELAY = Column("relay", "RELAY", rank=2, fold=False)
REASON = Column("reason", "REASON", plain=("",), rank=3, text=True)
COLUMNS = (NAME, ADDRESS, COUNT, QUEUE, AGENT, RELAY, REASON)


def row(name: str = "ts1", **said: object) -> dict[str, object]:
    return {
        "name": name, "address": "192.0.2.10:3389", "count": 7, "queue": 0, "agent": "-", "relay": 4711,
        "reason": "", **said,
    }  # fmt: skip


def text(lines: Sequence[Line]) -> list[str]:
    return ["".join(piece.text for piece in line).rstrip() for line in lines]


def table(rows: list[dict[str, object]], *, width: int, everything: bool = False) -> list[str]:
    plan = layout(rows, COLUMNS, width=width, everything=everything)
    return text([plan.heading(), *(line for each in rows for line in plan.row(each))])


def test_a_table_with_room_is_one_line_a_row() -> None:
    """Headings above, numbers at the right; a column that tells nothing is not there."""
    rows = [row(), row("ts200", address="198.51.100.7:3389", count=1200, reason="patch night")]
    assert [
        "NAME   ADDRESS            COUNT  RELAY  REASON",
        "ts1    192.0.2.10:3389        7  4711",
        "ts200  198.51.100.7:3389   1200  4711   patch night",
    ] == table(rows, width=80)


def test_used_columns_are_there() -> None:
    """One server that has a queue is enough."""
    heading, first, second = table([row(), row("ts2", queue=3)], width=80)
    assert "QUEUE" in heading
    assert (heading.index("QUEUE") + 4,) * 2 == (first.index(" 0") + 1, second.index(" 3") + 1)


def test_columns_leave_by_their_rank() -> None:
    """The highest first: words to a second line, others dropped, or folded if everything is wanted."""
    rows = [row(agent="75%", reason="no answer within 2 s")]
    assert [
        "NAME  ADDRESS          COUNT  AGENT",
        "ts1   192.0.2.10:3389      7  75%",
        "    no answer within 2 s",
    ] == table(rows, width=36)
    assert [
        "NAME  ADDRESS          COUNT",
        "ts1   192.0.2.10:3389      7",
        "    no answer within 2 s",
        "    agent 75%  relay 4711",
    ] == table(rows, width=30, everything=True)


def test_what_was_dropped_is_known() -> None:
    """So that the command can say how to see it."""
    assert (RELAY,) == layout([row()], COLUMNS, width=30).dropped
    assert () == layout([row()], COLUMNS, width=30, everything=True).dropped


def test_one_long_name_does_not_fold_every_row() -> None:
    """It has a line of its own; the other rows, and its own other columns, stand where they would."""
    rows = [row(f"ts{number:03}") for number in range(50)] + [row("terminal-server-of-the-branch-in-oslo")]
    lines = table(rows, width=32)
    assert "ts000  192.0.2.10:3389      7" == lines[1]
    assert ["terminal-server-of-the-branch-in-oslo", "       192.0.2.10:3389      7"] == lines[-2:]


def test_a_cell_longer_than_the_line_is_not_broken() -> None:
    """The terminal breaks it; a selection with the mouse has it in one piece."""
    key = "k" * 100
    assert key in table([row(), row(key)], width=40)


def test_lists_stand_below_each_other() -> None:
    """A service's addresses, each whole."""
    rows = [row(address=["192.0.2.10:3389", "[2001:db8::1]:3389"])]
    assert ["ts1   192.0.2.10:3389         7  4711", "      [2001:db8::1]:3389"] == [
        line.rstrip() for line in table(rows, width=80)[1:]
    ]


def test_wide_characters_take_two_columns() -> None:
    """Columns stay in line beneath them."""
    lines = table([row("用户"), row("ab")], width=80)
    assert cell_width(lines[1][: lines[1].index("192")]) == lines[2].index("192")


def test_a_sentence_is_broken_between_words() -> None:
    """Every line of it begins at the same place; a word longer than the line is left whole."""
    assert ["    the quick brown", "    fox jumped"] == text(
        list(wrapped("the quick brown fox jumped", width=20, indent=4))
    )
    assert ["    a", "w" * 30, "    b"] == text(list(wrapped(f"a {'w' * 30} b", width=20, indent=4)))


def test_a_long_sentence_in_a_wide_table_is_below_its_row() -> None:
    """It would push the other rows' sentences out of the line."""
    rows = [row(f"ts{number}", reason="connection refused") for number in range(20)] + [
        row(reason="a word " * 20)
    ]
    lines = table(rows, width=80)
    assert lines[1].endswith("connection refused")
    assert "    a word a word" in lines[-2]
    assert all(len(line) <= 80 for line in lines)


def test_strangers_text_stays_in_its_cell() -> None:
    """Nothing of it reaches the terminal."""
    line = table([row("a\x1b[2Jb\n\u202ec")], width=80)[1]
    assert line.startswith("a\\x1b[2Jb\\n\\u202ec")


def test_styles_are_by_value_or_by_the_columns_own_rule() -> None:
    """`down` is red wherever it stands; a column may know better."""
    columns = (
        Column("health", "HEALTH"),
        Column("usable", "SERVERS", style=lambda row: "red" if not row["n"] else ""),
    )
    plan = layout([{"health": "down", "usable": "0 of 2", "n": 0}], columns, width=80)
    (line,) = plan.row({"health": "down", "usable": "0 of 2", "n": 0})
    assert [Piece("down", "red"), Piece("0 of 2", "red")] == [piece for piece in line if piece.text.strip()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), ("", "-"), (0, "0"), (True, "yes"), (37.5, "37.5"), (["a", "b\n"], "a, b\\n"), ((), "")],
)
def test_values_as_text(value: object, expected: str) -> None:
    """On one line, in one column."""
    assert expected == shown(value)


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zs")), min_size=1, max_size=120)


@given(
    st.lists(st.tuples(names, names, st.integers(0, 10**12)), min_size=1, max_size=30),
    st.integers(20, 220),
    st.booleans(),
)
def test_nothing_is_ever_cut(cells: list[tuple[str, str, int]], width: int, everything: bool) -> None:  # noqa: FBT001
    """In any width every name, address and number is there in one piece, in its row's order."""
    rows = [row(name, address=address, count=count, agent="75%") for name, address, count in cells]
    plan = layout(rows, COLUMNS, width=width, everything=everything)
    for each in rows:
        lines = text(list(plan.row(each)))
        for key in ("name", "address", "count"):
            assert any(shown(each[key]) in line for line in lines), (key, lines)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(20, 220))
def test_lines_stay_within_the_terminal(sizes: list[int], width: int) -> None:
    """Unless one cell alone is longer than the line: then it is the only one that is."""
    rows = [row("n" * size, address="a" * (61 - size)) for size in sizes]
    plan = layout(rows, COLUMNS, width=width)
    for line in (line for each in rows for line in plan.row(each)):
        filled = [piece for piece in line if piece.text.strip()]
        whole = sum(cell_width(piece.text) for piece in line)
        assert whole <= width or (len(filled) == 1 and cell_width(filled[0].text) > width)
