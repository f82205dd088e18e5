"""The progress bar is for terminals."""

from densedistill.inference.progress import progress_bar


def test_into_a_file_no_bar_and_no_empty_line_is_written(capsys):
    with progress_bar(True) as advance:
        advance("frames", "one", 2)
    assert capsys.readouterr().err == ""


def test_in_a_terminal_the_bar_says_what_it_is_at(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar(True) as advance:
        advance("frames", "one", 2)
    assert "frames: one" in capsys.readouterr().err
