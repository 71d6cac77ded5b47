"""What a terminal of 80 columns shows of a wide table."""

from rich.table import Table

from u2slim.terminal import print_whole

NAMES = [f"column{number:02}" for number in range(20)]


def wide() -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("net", *NAMES):
        table.add_column(name, no_wrap=True)
    table.add_row("lite-s", *(f"[bold]{number}" for number in range(100, 120)))
    return table


def test_a_terminal_gets_every_column_in_parts_that_fit_and_say_whose_they_are(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    print_whole(wide())
    lines = capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.split() for line in lines if "net" in line]
    assert len(heads) == 3 and all(head[0] == "net" for head in heads)
    assert [name for head in heads for name in head[1:]] == NAMES
    values = [word for line in lines if "lite-s" in line for word in line.split()[1:]]
    assert values == [str(number) for number in range(100, 120)]


def test_a_file_gets_the_table_in_one_piece(capsys):
    print_whole(wide())
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["net", *NAMES] and row.split()[-1] == "119"
